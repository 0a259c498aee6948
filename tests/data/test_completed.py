"""Completing sparse annotation: what is annotated stays, what is open takes what the model is sure of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoseg.data.completed import CompletedCase, complete_segmentation, write_completed
from autoseg.geometry import BoundingBox
from autoseg.labels import LabelScheme

Factory = Callable[..., Any]


def random_probabilities(num_outputs: int, shape: tuple[int, ...], *, regions: bool = False) -> np.ndarray:
    values = np.random.default_rng(3).normal(0, 3, (num_outputs, *shape))
    return 1 / (1 + np.exp(-values)) if regions else np.exp(values) / np.exp(values).sum(axis=0)


@pytest.mark.parametrize("scheme", ["two_labels_and_ignore", "regions_and_ignore"])
@pytest.mark.parametrize("confidence", [0.0, 0.8, 1.1])
def test_ignored_voxels_take_the_label_where_the_model_is_sure(
    scheme: str, confidence: float, request: pytest.FixtureRequest
) -> None:
    labels: LabelScheme = request.getfixturevalue(scheme)
    segmentation = np.random.default_rng(1).integers(-1, 4, (6, 7, 8)).astype(np.int16)
    probabilities = random_probabilities(labels.num_outputs, (6, 7, 8), regions=labels.has_regions)
    completed = complete_segmentation(segmentation, probabilities, labels, confidence=confidence)
    np.testing.assert_array_equal(completed[segmentation != 3], segmentation[segmentation != 3])
    expected = labels.segmentation(probabilities)
    for position in np.argwhere(segmentation == 3):
        values = probabilities[(slice(None), *position)]
        certainty = max(values) if not labels.has_regions else min(max(p, 1 - p) for p in values)
        here = completed[tuple(position)]
        assert here == (expected[tuple(position)] if certainty >= confidence else 3)


@pytest.mark.parametrize("annotated", [0.65, 0.85, 1.0])
def test_as_many_voxels_are_added_as_are_missing_and_the_most_probable_ones(
    annotated: float, two_labels: LabelScheme
) -> None:
    segmentation = (np.random.default_rng(2).random((20, 20, 20)) < 0.1).astype(np.int16)
    probabilities = random_probabilities(3, (20, 20, 20))
    completed = complete_segmentation(segmentation, probabilities, two_labels, confidence=0.9, annotated=annotated)
    known = int(segmentation.sum())
    assert np.count_nonzero(completed) == round(known / annotated)
    np.testing.assert_array_equal(completed[segmentation > 0], segmentation[segmentation > 0])
    added = (completed > 0) & (segmentation == 0)
    left = (completed == 0) & (segmentation == 0)
    if added.any():
        foreground = 1 - probabilities[0]
        assert foreground[added].min() >= foreground[left].max()
        np.testing.assert_array_equal(completed[added], 1 + probabilities[1:].argmax(axis=0)[added])


def test_a_completed_case_reads_like_any_other(
    make_case: Factory, two_labels_and_ignore: LabelScheme, tmp_path: Path
) -> None:
    case = make_case((9, 8, 7), two_labels_and_ignore)
    segmentation = np.where(case.segmentation == 3, 2, case.segmentation).astype(np.int16)
    path, positions = write_completed(tmp_path, "a", segmentation, two_labels_and_ignore, patch_size=(4, 4, 4))
    assert (path.name, positions.name) == ("a.b2nd", "a.npz")
    completed = CompletedCase(case, path)
    box = BoundingBox(start=(1, 2, 3), stop=(8, 8, 7))
    np.testing.assert_array_equal(completed.read_segmentation(box), segmentation[box.slices])
    np.testing.assert_array_equal(completed.read_image(box), case.read_image(box))
    for index, value in enumerate((1, 2)):
        found = {tuple(p) for p in completed.foreground[index]}
        assert found == {tuple(p) for p in np.argwhere(segmentation == value)}
    assert len(completed.foreground[2]) == segmentation.size  # all is annotated now
