from __future__ import annotations

import numpy as np

from autoseg.labels import LabelScheme
from autoseg.preprocessing.foreground import foreground_positions


def nnunet_positions(segmentation: np.ndarray, classes: list[list[int]]) -> list[np.ndarray]:
    """nnU-Net's rule, written down from its description: all coordinates first, then a choice without replacement."""
    generator = np.random.RandomState(1234)
    found = []
    for values in classes:
        positions = np.concatenate([np.argwhere(segmentation == value) for value in values])
        if len(positions):
            wanted = max(min(10000, len(positions)), int(np.ceil(0.01 * len(positions))))
            positions = positions[generator.choice(len(positions), wanted, replace=False)]
        found.append(positions)
    return found


def assert_equal(segmentation: np.ndarray, labels: LabelScheme, classes: list[list[int]]) -> None:
    result = foreground_positions(segmentation, labels)
    assert len(result) == len(classes)
    for positions, expected in zip(result, nnunet_positions(segmentation, classes), strict=True):
        assert positions.dtype == np.int32
        np.testing.assert_array_equal(positions, expected)


def make_segmentation(highest: int, shape: tuple[int, ...] = (20, 30, 40)) -> np.ndarray:
    return np.random.default_rng(0).integers(-1, highest + 1, shape).astype(np.int16)


def test_labels_including_one_that_does_not_occur() -> None:
    labels = LabelScheme.from_table({"background": 0, "a": 1, "absent": 2, "c": 3}, where="test")
    segmentation = make_segmentation(3)
    segmentation[segmentation == 2] = 0
    assert_equal(segmentation, labels, [[1], [2], [3]])
    assert foreground_positions(segmentation, labels)[1].shape == (0, 3)


def test_regions_list_their_labels_one_after_the_other() -> None:
    table = {"background": 0, "whole": [2, 1, 3], "core": [2, 3], "rim": 3}
    labels = LabelScheme.from_table(table, (1, 2, 3), where="test")
    assert_equal(make_segmentation(3), labels, [[2, 1, 3], [2, 3], [3]])


def test_with_an_ignore_label_annotated_voxels_come_last() -> None:
    labels = LabelScheme.from_table({"background": 0, "a": 1, "b": 2, "ignore": 3}, where="test")
    segmentation = make_segmentation(3)
    assert_equal(segmentation, labels, [[1], [2], [-1, 0, 1, 2]])
    z, y, x = foreground_positions(segmentation, labels)[-1].T
    assert not (segmentation[z, y, x] == 3).any()


def test_one_in_a_hundred_of_very_many_voxels() -> None:
    labels = LabelScheme.from_table({"background": 0, "a": 1}, where="test")
    segmentation = np.ones((110, 100, 100), dtype=np.int16)
    assert_equal(segmentation, labels, [[1]])
    assert len(foreground_positions(segmentation, labels)[0]) == 11000


def test_2d() -> None:
    labels = LabelScheme.from_table({"background": 0, "a": 1}, where="test")
    assert_equal(make_segmentation(1, (30, 40)), labels, [[1]])
