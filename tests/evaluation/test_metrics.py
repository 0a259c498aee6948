"""Counts agree with masks compared one by one, and undefined scores are NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.evaluation import metrics
from autoseg.evaluation.metrics import overlap_counts
from autoseg.labels import Target

TARGETS = (Target(name="whole", values=(1, 2, 3)), Target(name="core", values=(3, 1)), Target(name="far", values=(40,)))


def test_by_hand() -> None:
    reference = np.array([[1, 1, 1, 0], [0, 2, 2, 0]], dtype=np.uint8)
    prediction = np.array([[1, 1, 0, 0], [1, 2, 2, 0]], dtype=np.uint8)
    one, two, three = overlap_counts(reference, prediction, [Target(name=str(v), values=(v,)) for v in (1, 2, 3)])
    assert (one.true_positives, one.false_positives, one.false_negatives, one.true_negatives) == (2, 1, 1, 4)
    assert one.dice == pytest.approx(2 / 3)
    assert one.iou == pytest.approx(0.5)
    assert (one.num_reference, one.num_predicted) == (3, 3)
    assert two.dice == two.iou == 1
    assert math.isnan(three.dice)
    assert math.isnan(three.iou)


@given(seed=st.integers(0, 1000), ignore=st.sampled_from([None, 5]), dtype=st.sampled_from(["u1", "i2", "i4", "u8"]))
def test_one_pass_equals_masks(seed: int, ignore: int | None, dtype: str) -> None:
    random = np.random.default_rng(seed)
    values = [0, 1, 2, 3, 5, 40, 41, 255] + ([] if dtype[0] == "u" else [-1, -100])
    reference, prediction = random.choice(values, (2, 5, 6)).astype(dtype)
    counted = reference != ignore if ignore is not None else np.ones(reference.shape, dtype=bool)
    for target, counts in zip(
        TARGETS, overlap_counts(reference, prediction, TARGETS, ignore_value=ignore), strict=True
    ):
        there, predicted = target.mask(reference) & counted, target.mask(prediction) & counted
        assert counts.true_positives == (there & predicted).sum()
        assert counts.false_positives == (predicted & ~there).sum()
        assert counts.false_negatives == (there & ~predicted).sum()
        assert counts.true_negatives == (counted & ~there & ~predicted).sum()


def test_volumes_larger_than_a_chunk_and_values_larger_than_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_CHUNK", 7)
    random = np.random.default_rng(0)
    reference, prediction = random.choice([0, 3, 100_000, 70_000], (2, 4, 11))
    targets = [Target(name="a", values=(3,)), Target(name="b", values=(100_000,))]
    for target, counts in zip(targets, overlap_counts(reference, prediction, targets), strict=True):
        assert counts.true_positives == (target.mask(reference) & target.mask(prediction)).sum()
        assert counts.num_reference == target.mask(reference).sum()
        assert counts.num_predicted == target.mask(prediction).sum()


@pytest.mark.parametrize("dtype", ["u1", "i2", "u8"])
@pytest.mark.parametrize("highest", [5, 255])
def test_runs_of_voxels_and_noise_are_counted_alike(dtype: str, highest: int) -> None:
    random = np.random.default_rng(0)
    runs = random.integers(0, highest + 1, (2, 1200)).repeat(100, axis=1)
    noise = random.integers(0, highest + 1, (2, 70_000))
    reference, prediction = np.concatenate([runs, noise, runs], axis=1).astype(dtype)
    targets = [Target(name=str(v), values=(v,)) for v in (1, 4, highest)]
    for target, counts in zip(targets, overlap_counts(reference, prediction, targets), strict=True):
        there, predicted = target.mask(reference), target.mask(prediction)
        assert counts.true_positives == (there & predicted).sum()
        assert counts.false_positives == (predicted & ~there).sum()
        assert counts.false_negatives == (there & ~predicted).sum()
        assert counts.true_negatives == (~there & ~predicted).sum()


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        overlap_counts(np.zeros((2, 3), int), np.zeros((3, 2), int), TARGETS)
