"""Only the largest component stays, ties stay together, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from autoseg.errors import SettingsError
from autoseg.geometry import Geometry
from autoseg.image import Segmentation
from autoseg.postprocessing.components import (
    POSTPROCESSING,
    PostprocessingStep,
    apply_postprocessing,
    keep_largest,
)


def test_corner_neighbours_are_connected() -> None:
    diagonal = np.zeros((4, 4), dtype=np.uint8)
    diagonal[[0, 1, 2], [0, 1, 2]] = 1
    diagonal[0, 3] = 1
    assert keep_largest(diagonal, (1,)).tolist() == (np.eye(4) * [1, 1, 1, 0]).astype(int).tolist()
    volume = np.zeros((3, 3, 5), dtype=np.uint8)
    volume[0, 0, 0] = volume[1, 1, 1] = volume[2, 2, 4] = 1
    cleaned = keep_largest(volume, (1,))
    assert cleaned.sum() == 2
    assert cleaned[2, 2, 4] == 0


def test_equally_large_components_all_stay() -> None:
    row = np.array([[1, 1, 0, 1, 1, 0, 1]], dtype=np.uint8)
    assert keep_largest(row, (1,)).tolist() == [[1, 1, 0, 1, 1, 0, 0]]


def test_labels_are_united_and_others_stay() -> None:
    row = np.array([[1, 2, 0, 2, 0, 3, 0, 3]], dtype=np.int16)
    assert keep_largest(row, (1, 2)).tolist() == [[1, 2, 0, 0, 0, 3, 0, 3]]
    assert keep_largest(row, (2,)).tolist() == row.tolist()


@given(seed=st.integers(0, 10_000), shape=st.lists(st.integers(1, 8), min_size=2, max_size=3))
def test_agrees_with_scipy_and_keeps_its_input(seed: int, shape: list[int]) -> None:
    random = np.random.default_rng(seed)
    ndim = len(shape)
    segmentation = random.choice([0, 1, 2, 3], shape, p=[0.85, 0.05, 0.05, 0.05]).astype(np.uint8)
    before = segmentation.copy()
    cleaned = keep_largest(segmentation, (1, 3))
    components, num = ndimage.label(np.isin(segmentation, (1, 3)), np.ones((3,) * ndim))
    sizes = ndimage.sum_labels(np.ones_like(segmentation), components, np.arange(1, num + 1))
    kept = 1 + np.flatnonzero(sizes == sizes.max()) if num else []
    np.testing.assert_array_equal(cleaned, np.where((components > 0) & ~np.isin(components, kept), 0, before))
    np.testing.assert_array_equal(segmentation, before)
    np.testing.assert_array_equal(keep_largest(cleaned, (1, 3)), cleaned)


def test_nothing_to_keep() -> None:
    empty = np.zeros((3, 4, 5), dtype=np.uint8)
    np.testing.assert_array_equal(keep_largest(empty, (1,)), empty)


def test_steps_run_in_order_by_name() -> None:
    array = np.array([[1, 1, 0, 1, 2, 2, 2, 0, 2]], dtype=np.uint8)
    segmentation = Segmentation(array=array, geometry=Geometry(shape=array.shape, spacing=(1.0, 2.0)))
    joint, single = (PostprocessingStep(name="keep_largest", values=values) for values in ((1, 2), (1,)))
    cleaned = apply_postprocessing((joint, single), segmentation)
    assert cleaned.array.tolist() == [[0, 0, 0, 1, 2, 2, 2, 0, 0]]
    assert apply_postprocessing((single, joint), segmentation).array.tolist() == [[0, 0, 0, 0, 2, 2, 2, 0, 0]]
    assert cleaned.geometry == segmentation.geometry
    assert apply_postprocessing((), segmentation).array is array
    with pytest.raises(SettingsError, match="did you mean keep_largest"):
        apply_postprocessing((PostprocessingStep(name="keep_larges", values=(1,)),), segmentation)


@pytest.mark.parametrize("name", POSTPROCESSING.names())
def test_every_operation_leaves_background_and_other_labels(name: str) -> None:
    segmentation = np.random.default_rng(1).integers(0, 4, (4, 9, 9)).astype(np.uint8)
    changed = POSTPROCESSING.get(name)(segmentation, (1, 2))
    others = ~np.isin(segmentation, (1, 2))
    np.testing.assert_array_equal(changed[others], segmentation[others])
    assert changed.dtype == segmentation.dtype
