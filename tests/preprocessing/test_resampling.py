from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import ndimage

from autoseg.preprocessing import interpolation, label_resampling
from autoseg.preprocessing.interpolation import interpolation_matrix, matrix_blocks, nearest_planes
from autoseg.preprocessing.resampling import (
    resample_image,
    resample_segmentation,
    resampled_shape,
    separate_axis,
)

SHAPES = [
    ((10, 12, 14), (15, 18, 21)),  # factors at which label scores tie
    ((6, 8, 7), (18, 24, 21)),
    ((12, 12, 12), (8, 9, 6)),
    ((13, 7, 9), (11, 15, 20)),
    ((9, 8, 1), (4, 8, 1)),
    ((40, 5, 5), (70, 5, 6)),  # several blocks of rows
    ((5, 70, 6), (5, 40, 75)),
]
EQUAL = (1.0, 1.0, 1.0)


def zoom(volume: np.ndarray, shape: Sequence[int], order: int) -> np.ndarray:
    factors = [new / old for old, new in zip(volume.shape, shape, strict=True)]
    return ndimage.zoom(volume.astype(np.float64), factors, order=order, mode="nearest", grid_mode=True)


def zoom_labels(labels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The rule label by label, without any shortcut."""
    values = np.unique(labels)
    scores = np.stack([zoom(labels == value, shape, 1) for value in values])
    best = scores.max(axis=0)
    result = values[np.argmax(scores, axis=0)]  # the smallest among equals
    nearest = zoom(labels, shape, 0).astype(labels.dtype)
    nearest_score = np.take_along_axis(scores, np.searchsorted(values, nearest)[None], axis=0)[0]
    return np.where(nearest_score == best, nearest, result)


@pytest.mark.parametrize(("old", "new"), [(7, 7), (7, 20), (20, 7), (1, 5), (5, 1), (50, 33)])
@pytest.mark.parametrize("order", [0, 1, 3])
def test_weights_add_up_to_one_and_blocks_hold_all_of_them(old: int, new: int, order: int) -> None:
    matrix = interpolation_matrix(old, new, order)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    assembled = np.zeros_like(matrix)
    for block in matrix_blocks(old, new, order, "float64"):
        assembled[block.rows, block.columns] = block.weights
    np.testing.assert_allclose(assembled, matrix, atol=1e-11)


@pytest.mark.parametrize(("shape", "new_shape"), SHAPES)
@pytest.mark.parametrize("order", [0, 1, 3])
def test_images_equal_a_spline_evaluated_voxel_by_voxel(
    shape: tuple[int, ...], new_shape: tuple[int, ...], order: int
) -> None:
    image = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    resampled = resample_image(image, new_shape, spacing=EQUAL, new_spacing=EQUAL, order=order)
    assert resampled.dtype == np.float32
    for channel, result in zip(image, resampled, strict=True):
        expected = zoom(channel, new_shape, order).clip(channel.min(), channel.max())
        np.testing.assert_allclose(result, expected, rtol=0, atol=5e-6)


def test_large_intensities_are_not_blurred_by_single_precision() -> None:
    image = (1e4 + 3e4 * np.random.default_rng(0).random((1, 9, 10, 11))).astype(np.float32)
    resampled = resample_image(image, (14, 13, 7), spacing=EQUAL, new_spacing=EQUAL, order=3)
    expected = zoom(image[0], (14, 13, 7), 3).clip(image.min(), image.max()).astype(np.float32)
    np.testing.assert_allclose(resampled[0], expected, rtol=1.2e-7)  # the last bit


def test_values_stay_in_the_range_of_the_input_and_a_constant_stays_constant() -> None:
    step = np.zeros((1, 8, 8, 8), dtype=np.float32)
    step[:, 4:] = 1
    resampled = resample_image(step, (19, 13, 17), spacing=EQUAL, new_spacing=EQUAL, order=3)
    assert resampled.min() == 0
    assert resampled.max() == 1
    constant = np.full((1, 8, 8, 8), 0.7, dtype=np.float32)
    resampled = resample_image(constant, (5, 13, 17), spacing=EQUAL, new_spacing=EQUAL, order=3)
    np.testing.assert_array_equal(resampled, np.float32(0.7))


def test_a_ramp_keeps_its_positions_in_millimetres() -> None:
    position = np.arange(20) + 0.5  # mm, voxel centres
    ramp = np.broadcast_to(position[None, None, None], (1, 4, 4, 20)).astype(np.float32)
    resampled = resample_image(ramp, (4, 4, 40), spacing=EQUAL, new_spacing=(1.0, 1.0, 0.5), order=1)
    np.testing.assert_allclose(resampled[0, 0, 0, 2:-2], (np.arange(40) * 0.5 + 0.25)[2:-2], atol=1e-5)


@pytest.mark.parametrize(
    ("spacing", "new_spacing", "force", "axis"),
    [
        ((3.0, 1.0, 1.0), (3.0, 1.0, 1.0), None, None),  # not more than three times
        ((3.0, 1.0, 1.0), (3.0001, 1.0, 1.0), None, 0),
        ((1.0, 1.0, 4.0), (1.0, 1.0, 1.0), None, 2),
        ((4.0, 4.0, 1.0), (1.0, 1.0, 1.0), None, None),  # two thick axes
        ((0.24, 1.25, 1.25), (0.24, 1.25, 1.25), None, None),
        ((5.0, 1.0, 1.0), (1.0, 1.0, 5.0), None, 0),  # the present spacing is asked first
        ((5.0, 1.0, 1.0), (5.0, 1.0, 1.0), False, None),
        ((1.1, 1.0, 1.0), (1.0, 1.0, 1.0), True, 0),
        ((1.0, 1.0, 1.0), (5.0, 1.0, 1.0), True, None),
    ],
)
def test_which_axis_is_treated_apart(
    spacing: tuple[float, ...], new_spacing: tuple[float, ...], force: bool | None, axis: int | None
) -> None:
    assert separate_axis(spacing, new_spacing, force_separate_z=force) == axis


@pytest.mark.parametrize("num_planes", [5, 8, 13])
def test_thick_planes_are_resized_one_by_one_and_then_repeated_or_dropped(num_planes: int) -> None:
    image = np.random.default_rng(1).normal(size=(1, 8, 9, 10)).astype(np.float32)
    grid = {"spacing": (5.0, 1.0, 1.0), "new_spacing": (4.0, 1.0, 1.0)}
    resampled = resample_image(image, (num_planes, 13, 6), order=3, **grid)
    for index in range(num_planes):
        plane = image[0, int(8 / num_planes * (index + 0.5))]
        expected = zoom(plane, (13, 6), 3).clip(plane.min(), plane.max())  # each plane keeps its own range
        np.testing.assert_allclose(resampled[0, index], expected, atol=5e-6)
    unresized = resample_image(image, (num_planes, 9, 10), order=3, **grid)
    np.testing.assert_array_equal(unresized[0], image[0][nearest_planes(8, num_planes)])


def test_a_thick_axis_may_be_interpolated_linearly_on_request() -> None:
    image = np.random.default_rng(1).normal(size=(1, 8, 9, 10)).astype(np.float32)
    grid = {"spacing": (5.0, 1.0, 1.0), "new_spacing": (4.0, 1.0, 1.0)}
    resampled = resample_image(image, (13, 9, 10), order=3, order_z=1, **grid)
    np.testing.assert_allclose(resampled[0], zoom(image[0], (13, 9, 10), 1), atol=5e-6)


@pytest.mark.parametrize("axis", [1, 2])
def test_it_does_not_matter_which_axis_is_the_thick_one(axis: int) -> None:
    rng = np.random.default_rng(2)
    image, labels = rng.normal(size=(1, 8, 9, 10)).astype(np.float32), rng.integers(0, 4, (8, 9, 10))
    old, new, shape = [5.0, 1.0, 1.0], [4.0, 1.0, 1.0], [10, 13, 6]
    expected = resample_image(image, shape, spacing=old, new_spacing=new, order=3)
    expected_labels = resample_segmentation(labels, shape, spacing=old, new_spacing=new)
    for values in (old, new, shape):
        values.insert(axis, values.pop(0))
    moved = np.moveaxis(image, 1, 1 + axis)
    result = resample_image(moved, shape, spacing=old, new_spacing=new, order=3)
    np.testing.assert_allclose(np.moveaxis(result, 1 + axis, 1), expected, atol=2e-6)
    moved_labels = np.moveaxis(labels, 0, axis)
    result = resample_segmentation(moved_labels, shape, spacing=old, new_spacing=new)
    np.testing.assert_array_equal(np.moveaxis(result, axis, 0), expected_labels)


def test_2d_images_are_planes() -> None:
    rng = np.random.default_rng(3)
    image, labels = rng.normal(size=(3, 12, 10)).astype(np.float32), rng.integers(0, 3, (12, 10)).astype(np.uint8)
    grid = {"spacing": (4.0, 1.0), "new_spacing": (3.0, 0.7)}  # unequal edges make no axis a thick one
    resampled = resample_image(image, (16, 14), order=3, **grid)
    for channel, result in zip(image, resampled, strict=True):
        np.testing.assert_allclose(result, zoom(channel, (16, 14), 3).clip(channel.min(), channel.max()), atol=5e-6)
    np.testing.assert_array_equal(resample_segmentation(labels, (16, 14), **grid), zoom_labels(labels, (16, 14)))


def test_half_precision_outputs_stay_half_precision() -> None:
    logits = np.random.default_rng(4).normal(size=(2, 6, 7, 8)).astype(np.float16)
    resampled = resample_image(logits, (12, 9, 8), spacing=EQUAL, new_spacing=EQUAL, order=1)
    assert resampled.dtype == np.float16
    np.testing.assert_allclose(resampled[1], zoom(logits[1], (12, 9, 8), 1), atol=2e-3)


def test_the_same_shape_is_returned_as_it_is() -> None:
    image, labels = np.zeros((1, 3, 4, 5), dtype=np.float32), np.zeros((3, 4, 5), dtype=np.int16)
    assert resample_image(image, (3, 4, 5), spacing=EQUAL, new_spacing=(2.0, 1.0, 1.0), order=3) is image
    assert resample_segmentation(labels, (3, 4, 5), spacing=EQUAL, new_spacing=EQUAL) is labels


@pytest.mark.parametrize(("shape", "new_shape"), SHAPES)
@pytest.mark.parametrize("num_labels", [1, 2, 4, 30])
def test_labels_equal_the_rule_applied_label_by_label(
    shape: tuple[int, ...], new_shape: tuple[int, ...], num_labels: int
) -> None:
    for seed in range(3):
        labels = np.random.default_rng(seed).integers(-1, num_labels - 1, shape).astype(np.int16)
        resampled = resample_segmentation(labels, new_shape, spacing=EQUAL, new_spacing=EQUAL)
        assert resampled.dtype == np.int16
        np.testing.assert_array_equal(resampled, zoom_labels(labels, new_shape))


@pytest.mark.parametrize("spacing", [EQUAL, (5.0, 1.0, 1.0)])
def test_large_volumes_are_worked_on_slab_by_slab(spacing: tuple[float, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    image, labels = rng.normal(size=(1, 9, 8, 7)).astype(np.float32), rng.integers(0, 4, (9, 8, 7))
    grid = {"spacing": spacing, "new_spacing": spacing}
    shapes = [(14, 12, 5), (5, 12, 10)]
    expected = [(resample_image(image, s, order=3, **grid), resample_segmentation(labels, s, **grid)) for s in shapes]
    monkeypatch.setattr(interpolation, "_SLAB_VOXELS", 120)
    monkeypatch.setattr(label_resampling, "_SLAB_VOXELS", 120)
    for shape, (expected_image, expected_labels) in zip(shapes, expected, strict=True):
        np.testing.assert_allclose(resample_image(image, shape, order=3, **grid), expected_image, atol=2e-6)
        np.testing.assert_array_equal(resample_segmentation(labels, shape, **grid), expected_labels)


def test_labels_of_thick_planes_are_decided_plane_by_plane() -> None:
    labels = np.random.default_rng(5).integers(-1, 4, (8, 9, 10)).astype(np.int16)
    grid = {"spacing": (5.0, 1.0, 1.0), "new_spacing": (4.0, 1.0, 1.0)}
    resampled = resample_segmentation(labels, (13, 18, 15), **grid)
    for index, plane in enumerate(nearest_planes(8, 13)):
        np.testing.assert_array_equal(resampled[index], zoom_labels(labels[plane], (18, 15)))


def test_tied_labels_go_to_the_nearest_voxel_else_to_the_smallest() -> None:
    row = np.array([[[7, 3, 9, 3]]], dtype=np.int16)
    resampled = resample_segmentation(row, (1, 1, 2), spacing=EQUAL, new_spacing=(1.0, 1.0, 2.0))
    # Both new voxels lie halfway between two old ones, of which the second counts as the nearest.
    assert resampled.tolist() == [[[3, 3]]]
    # In the middle of eight voxels 1 and 5 have three corners each and the nearest is a 4: the smaller one wins.
    square = np.array([[[5, 1], [1, 4]], [[5, 5], [1, 4]]], dtype=np.int16)
    resampled = resample_segmentation(square, (1, 1, 1), spacing=EQUAL, new_spacing=(2.0, 2.0, 2.0))
    assert resampled.tolist() == [[[1]]]


def test_order_zero_takes_the_nearest_label() -> None:
    labels = np.random.default_rng(6).integers(0, 5, (9, 10, 11)).astype(np.uint8)
    resampled = resample_segmentation(labels, (13, 7, 20), spacing=EQUAL, new_spacing=EQUAL, order=0)
    np.testing.assert_array_equal(resampled, zoom(labels, (13, 7, 20), 0))


def test_higher_orders_are_refused_for_labels() -> None:
    with pytest.raises(ValueError, match="order 0 or 1, got order 3"):
        resample_segmentation(np.zeros((3, 3, 3), np.int16), (4, 4, 4), spacing=EQUAL, new_spacing=EQUAL, order=3)


def test_shapes_round_half_to_even_and_never_vanish() -> None:
    assert resampled_shape((5, 7, 1), spacing=(1.0, 1.0, 0.3), new_spacing=(2.0, 2.0, 1.0)) == (2, 4, 1)
