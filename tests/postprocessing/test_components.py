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
from autoseg.labels import LabelScheme
from autoseg.postprocessing.components import fill_holes, keep_largest, remove_small
from autoseg.postprocessing.steps import (
    POSTPROCESSING,
    PostprocessingStep,
    Surroundings,
    apply_postprocessing,
    parse_step,
)

AROUND = Surroundings(spacing=(1.0, 1.0, 1.0))


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


SEGMENTATION_OPERATIONS = [name for name in POSTPROCESSING.names() if POSTPROCESSING.get(name).on == "segmentation"]


@pytest.mark.parametrize("name", SEGMENTATION_OPERATIONS)
def test_every_operation_leaves_other_labels_and_its_input(name: str) -> None:
    segmentation = np.random.default_rng(1).integers(0, 4, (4, 9, 9)).astype(np.uint8)
    before = segmentation.copy()
    operation = POSTPROCESSING.get(name)
    changed = operation.apply(segmentation, (1, 2), AROUND, **operation.defaults)
    others = segmentation == 3
    np.testing.assert_array_equal(changed == 3, others)
    np.testing.assert_array_equal(segmentation, before)
    assert changed.dtype == segmentation.dtype


def test_every_operation_says_what_it_does() -> None:
    labels = LabelScheme.from_table({"background": 0, "liver": 1, "tumor": 2}, where="test")
    for name in POSTPROCESSING.names():
        assert PostprocessingStep(name=name, values=(1,)).describe(labels)
    step = PostprocessingStep(name="remove_small", values=(2,), parameters={"min_mm3": 30})
    assert step.describe(labels) == "Components of tumor below 30 mm3 are removed"
    assert "the foreground" in PostprocessingStep(name="keep_largest", values=(1, 2)).describe(labels)


@given(seed=st.integers(0, 10_000), mm3=st.floats(0.5, 20))
def test_small_components_go_by_volume(seed: int, mm3: float) -> None:
    rng = np.random.default_rng(seed)
    segmentation = (rng.random((5, 6, 7)) < 0.2).astype(np.uint8)
    spacing = (1.5, 1.0, 0.8)
    cleaned = remove_small(segmentation, (1,), Surroundings(spacing=spacing), min_mm3=mm3)
    components, num = ndimage.label(segmentation, np.ones((3, 3, 3)))
    for number in range(1, num + 1):
        part = components == number
        stays = part.sum() * np.prod(spacing) >= mm3 * (1 - 1e-9)
        assert cleaned[part].all() == stays
    assert not cleaned[segmentation == 0].any()


def test_connectivity_decides_what_hangs_together() -> None:
    corner = np.zeros((2, 2, 2), dtype=np.uint8)
    corner[0, 0, 0] = corner[1, 1, 1] = 1
    edge = np.zeros((2, 2, 2), dtype=np.uint8)
    edge[0, 0, 0] = edge[0, 1, 1] = 1
    for connectivity, corner_stays, edge_stays in ((26, True, True), (18, False, True), (6, False, False)):
        for volume, stays in ((corner, corner_stays), (edge, edge_stays)):
            cleaned = remove_small(volume, (1,), AROUND, min_mm3=2, connectivity=connectivity)
            assert cleaned.any() == stays
    with pytest.raises(SettingsError, match="6, 18 or 26"):
        keep_largest(np.asarray([[1, 0, 1]], dtype=np.uint8), (1,), connectivity=7)


class TestHoles:
    def test_a_hole_is_filled_and_another_label_inside_stays(self) -> None:
        shell = np.ones((7, 7, 7), dtype=np.uint8)
        shell[2:5, 2:5, 2:5] = 0
        shell[3, 3, 3] = 2
        filled = fill_holes(shell, (1,), AROUND)
        assert (filled == 1).sum() == 7**3 - 1
        assert filled[3, 3, 3] == 2
        assert (shell == 0).sum() == 26

    def test_a_bay_is_no_hole(self) -> None:
        bay = np.ones((3, 5), dtype=np.uint8)
        bay[1, 2:] = 0
        assert fill_holes(bay, (1,), Surroundings(spacing=(1.0, 1.0))).tolist() == bay.tolist()

    def test_a_hole_between_two_labels_goes_to_the_nearer(self) -> None:
        ring = np.ones((5, 9), dtype=np.uint8)
        ring[:, 5:] = 2
        ring[1:4, 1:8] = 0
        filled = fill_holes(ring, (1, 2), Surroundings(spacing=(1.0, 1.0)))
        assert filled.all()
        assert filled[2, 1] == 1
        assert filled[2, 7] == 2


def test_steps_are_read_as_people_write_them() -> None:
    labels = LabelScheme.from_table({"background": 0, "liver": 1, "tumor": 2}, where="test")
    step = parse_step("remove_small(liver+tumor, min_mm3=50)", labels)
    assert step == PostprocessingStep(name="remove_small", values=(1, 2), parameters={"min_mm3": 50})
    assert parse_step(" fill_holes ", labels).values == (1, 2)
    for text, says in [
        ("keep_largest(live)", "no label 'live'"),
        ("keep_largest(liver", "no postprocessing step"),
        ("remove_small(liver, mm=3)", "no parameter 'mm'"),
        ("remove_small(liver, min_mm3=x)", "must be a number"),
        ("keep_larges(liver)", "keep_largest"),
    ]:
        with pytest.raises(SettingsError, match=says):
            parse_step(text, labels)
