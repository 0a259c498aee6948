"""Patches in the intensities of other cases: the distributions agree, labels and voxels outside stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from autoseg.augmentation import recipe
from autoseg.augmentation.histogram import match_histograms
from autoseg.data.loading import Batch, PatchBatches
from autoseg.data.policy import SamplingPolicy
from autoseg.labels import LabelScheme

Factory = Callable[..., Any]
CASES = ("case_0", "case_1", "case_2")


def cdf_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Largest distance of two distributions (Kolmogorov and Smirnov)."""
    values = np.unique(np.concatenate([one.ravel(), other.ravel()]))
    shares = [np.searchsorted(np.sort(a.ravel()), values, side="right") / a.size for a in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def test_distributions_agree_and_order_and_outside_stay() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 20, 21, 22)).astype(np.float32)
    reference = rng.gamma(2, 3, size=(2, 17, 18, 19)).astype(np.float32)
    inside = rng.random(image.shape[1:]) < 0.8
    reference_inside = rng.random(reference.shape[1:]) < 0.7
    before = image.copy()
    match_histograms(image, inside, reference, reference_inside)
    np.testing.assert_array_equal(image[:, ~inside], before[:, ~inside])
    for channel in range(2):
        matched, wanted = image[channel][inside], reference[channel][reference_inside]
        assert cdf_distance(before[channel][inside], wanted) > 0.3
        assert cdf_distance(matched, wanted) < 0.02
        order = np.argsort(before[channel][inside])
        assert (np.diff(matched[order]) >= 0).all()


def test_a_patch_outside_of_its_image_stays() -> None:
    image, nowhere = np.zeros((1, 3, 3), np.float32), np.zeros((3, 3), bool)
    match_histograms(image, nowhere, np.ones((1, 3, 3), np.float32), ~nowhere)
    assert not image.any()


def test_batches_repeat_labels_are_untouched_and_nothing_else_changes(
    make_store: Factory, make_configuration: Factory, two_labels: LabelScheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, configuration = make_store((14, 12, 10), two_labels), make_configuration((8, 8, 8))

    def batches(augmentation: str, chance: float = 1.0, *, augment: bool = True) -> list[Batch]:
        monkeypatch.setitem(recipe._CHANCES, "histogram", chance)
        made = PatchBatches(
            store,
            CASES,
            configuration,
            two_labels,
            augment=augment,
            sampling=SamplingPolicy(),
            seed=3,
            augmentation=augmentation,
        )
        return [made[step] for step in range(6)]

    plain, matched, again = batches("none"), batches("none+histogram"), batches("none+histogram")
    never, held_out = batches("none+histogram", 1e-9), batches("none+histogram", augment=False)
    for a, b, c, d in zip(plain, matched, again, never, strict=True):
        assert torch.equal(b.images, c.images)  # from the seed of the batch
        assert not torch.equal(a.images, b.images)
        assert torch.equal(a.images, d.images)  # where and what is read does not depend on the step
        assert all(torch.equal(x, y) for x, y in zip(a.targets, b.targets, strict=True))
    unchanged = batches("none", augment=False)
    assert all(torch.equal(a.images, b.images) for a, b in zip(held_out, unchanged, strict=True))


def test_no_strength_has_the_step() -> None:
    assert not any(recipe.parse_recipe(name).chance("histogram") for name in ("nnunet", "light", "strong", "none"))
    assert recipe.parse_recipe("nnunet+histogram").chance("histogram") > 0
