from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autoseg.data.sampling import choose_box, choose_voxel, corner_range, is_forced, read_patch
from autoseg.geometry import BoundingBox
from autoseg.labels import LabelScheme

Factory = Callable[..., Any]


def voxels(*positions: tuple[int, ...]) -> np.ndarray:
    return np.asarray(positions, dtype=np.int32).reshape(len(positions), 3)


def test_how_many_patches_of_a_batch_are_forced() -> None:
    counts = [sum(is_forced(i, batch_size=size, share=0.33) for i in range(size)) for size in range(1, 9)]
    assert counts == [0, 1, 1, 1, 2, 2, 2, 3]
    assert [is_forced(i, batch_size=4, share=0.33) for i in range(4)] == [False, False, False, True]
    assert not any(is_forced(i, batch_size=4, share=0.0) for i in range(4))
    assert all(is_forced(i, batch_size=4, share=1.0) for i in range(4))


@pytest.mark.parametrize(
    ("shape", "patch_size", "final_size", "lower", "upper"),
    [
        (20, 8, 8, 0, 12),  # stays inside
        (20, 13, 8, -3, 10),  # the margin of 5 that is cut away again may stick out, 3 here and 2 there or so
        (20, 12, 8, -2, 10),
        (5, 8, 8, -2, -1),  # three voxels are lacking
        (6, 8, 8, -1, -1),
        (5, 13, 8, -4, -4),
        (1, 1, 1, 0, 0),
    ],
)
def test_corners_by_hand(shape: int, patch_size: int, final_size: int, lower: int, upper: int) -> None:
    assert corner_range((shape,), patch_size=(patch_size,), final_size=(final_size,)) == ((lower,), (upper,))


@pytest.mark.parametrize("margin", [0, 1, 4, 7])
@pytest.mark.parametrize("shape", [4, 9, 10, 31])
def test_the_final_patch_sticks_out_only_where_the_volume_is_smaller(shape: int, margin: int) -> None:
    final = 10
    (lower,), (upper,) = corner_range((shape,), patch_size=(final + margin,), final_size=(final,))
    assert lower <= upper
    middle = (final + margin) // 2 - final // 2
    for corner in (lower + middle, upper + middle):
        if shape >= final:
            # One voxel of padding may be left when the margin is odd.
            assert -1 <= corner <= shape - final + 1
        else:
            assert corner <= 0
            assert corner + final >= shape


def draw(generator: np.random.Generator, foreground: tuple[np.ndarray, ...], **options: bool) -> list[tuple[int, ...]]:
    drawn = [choose_voxel(generator, foreground, **options) for _ in range(400)]  # type: ignore[arg-type]  # passed on
    return [tuple(v.tolist()) for v in drawn if v is not None]


def test_targets_have_the_same_chance_whatever_their_size() -> None:
    large = voxels(*((1, i, j) for i in range(30) for j in range(30)))
    small = voxels((0, 0, 0))
    drawn = draw(np.random.default_rng(0), (large, small, voxels()), has_ignored=False, forced=True)
    assert len(drawn) == 400
    assert drawn.count((0, 0, 0)) == pytest.approx(200, abs=30)
    assert len(set(drawn)) > 150  # voxels of the large one are drawn uniformly


def test_any_patch_will_do_without_foreground() -> None:
    generator = np.random.default_rng(0)
    assert choose_voxel(generator, (voxels(), voxels()), has_ignored=False, forced=True) is None
    assert choose_voxel(generator, (voxels((1, 1, 1)),), has_ignored=False, forced=False) is None
    assert choose_voxel(generator, (voxels(), voxels()), has_ignored=True, forced=True) is None
    assert choose_voxel(generator, (voxels(), voxels()), has_ignored=True, forced=False) is None


def test_annotated_voxels_with_an_ignore_label() -> None:
    organ, annotated = voxels((1, 1, 1)), voxels((2, 2, 2))
    generator = np.random.default_rng(0)
    for foreground, forced, expected in (
        ((organ, annotated), True, {(1, 1, 1)}),
        ((organ, annotated), False, {(2, 2, 2)}),
        ((voxels(), annotated), True, {(2, 2, 2)}),
    ):
        assert set(draw(generator, foreground, has_ignored=True, forced=forced)) == expected


def boxes(source: object, num: int = 300, **options: Any) -> list[BoundingBox]:  # noqa: ANN401
    generator = np.random.default_rng(0)
    return [choose_box(generator, source, **options) for _ in range(num)]  # type: ignore[arg-type]  # a stand-in


def test_free_patches_are_uniform() -> None:
    source = SimpleNamespace(image_shape=(1, 9, 20, 8), foreground=None)
    found = boxes(source, 600, patch_size=(8, 8, 8), final_size=(8, 8, 8), has_ignored=False, forced=False)
    assert {b.shape for b in found} == {(8, 8, 8)}
    corners = np.array([b.start for b in found])
    assert set(corners[:, 0]) == {0, 1}
    assert set(corners[:, 2]) == {0}
    counts = np.bincount(corners[:, 1], minlength=13)
    assert counts == pytest.approx(np.full(13, 600 / 13), abs=4 * (600 / 13) ** 0.5)


def test_forced_patches_are_centered_on_their_voxel() -> None:
    source = SimpleNamespace(image_shape=(1, 40, 40, 40), foreground=(voxels((20, 2, 39)),))
    (box,) = boxes(source, 1, patch_size=(11, 11, 11), final_size=(8, 8, 8), has_ignored=False, forced=True)
    # Free, held by the lower limit of -2, and beyond the far border.
    assert box.start == (15, -2, 34)
    assert box.stop == (26, 9, 45)


def test_a_slice_of_a_volume_is_drawn() -> None:
    source = SimpleNamespace(image_shape=(1, 5, 20, 20), foreground=(voxels((3, 10, 10)),))
    options = {"patch_size": (8, 8), "final_size": (8, 8), "has_ignored": False}
    free = boxes(source, forced=False, **options)
    assert {b.shape for b in free} == {(1, 8, 8)}
    assert {b.start[0] for b in free} == set(range(5))
    assert {b.start for b in boxes(source, forced=True, **options)} == {(3, 6, 6)}


def test_images_without_depth() -> None:
    source = SimpleNamespace(image_shape=(3, 20, 30), foreground=(np.array([[10, 12]], dtype=np.int32),))
    (box,) = boxes(source, 1, patch_size=(8, 8), final_size=(8, 8), has_ignored=False, forced=True)
    assert box == BoundingBox(start=(6, 8), stop=(14, 16))


def test_read_patches_equal_cutting_from_a_padded_volume(make_case: Factory, two_labels: LabelScheme) -> None:
    case = make_case((7, 9, 5), two_labels, num_channels=2)
    margin = 20
    image = np.pad(case.image, [(0, 0)] + [(margin, margin)] * 3)
    segmentation = np.pad(case.segmentation, margin, constant_values=-1)
    generator = np.random.default_rng(0)
    for _ in range(200):
        start = generator.integers(-15, 15, size=3)
        stop = start + generator.integers(1, 16, size=3)
        box = BoundingBox(start=tuple(start.tolist()), stop=tuple(stop.tolist()))
        index = tuple(slice(a + margin, min(b, 20) + margin) for a, b in zip(start, stop, strict=True))
        found_image, found_segmentation = read_patch(case, box)
        visible = tuple(slice(0, s.stop - s.start) for s in index)
        assert found_image.shape == (2, *box.shape)
        assert np.array_equal(found_image[(slice(None), *visible)], image[(slice(None), *index)])
        assert np.array_equal(found_segmentation[visible], segmentation[index])
        assert found_image.dtype == np.float32
        assert found_segmentation.dtype == np.int16


def test_read_patches_are_copies(make_case: Factory, two_labels: LabelScheme) -> None:
    case = make_case((4, 4, 4), two_labels)
    before = case.image.copy()
    image, _ = read_patch(case, BoundingBox.whole((4, 4, 4)))
    image[:] = 7
    assert np.array_equal(case.image, before)
