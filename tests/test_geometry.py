from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.geometry import BoundingBox, Geometry, Reorientation, directions_of

CODES = ["SPL", "IAR", "LPS", "RSA", "PIL", "ASR", "LAI"]


def rotated(angle: float) -> Geometry:
    """A grid turned about the patient's long axis."""
    c, s = math.cos(angle), math.sin(angle)
    return Geometry(
        shape=(3, 4, 5),
        spacing=(3.0, 2.0, 1.5),
        origin=(10.0, -20.0, 5.0),
        directions=((0.0, 0.0, 1.0), (-s, c, 0.0), (c, s, 0.0)),
    )


def voxel_positions(geometry: Geometry) -> np.ndarray:
    """World positions (*shape, 3) of all voxels."""
    steps = np.stack(np.indices(geometry.shape), axis=-1) * np.asarray(geometry.spacing)
    return np.asarray(geometry.origin) + steps @ np.asarray(geometry.directions)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shape": (2, 3), "spacing": (1.0,)}, "differ in dimension"),
        ({"shape": (2,), "spacing": (1.0,)}, "two or three axes"),
        ({"shape": (2, 0, 3), "spacing": (1.0, 1.0, 1.0)}, "shape must be positive"),
        ({"shape": (2, 3), "spacing": (1.0, 0.0)}, "spacing must be positive"),
        ({"shape": (2, 3), "spacing": (1.0, math.nan)}, "spacing must be positive"),
        ({"shape": (2, 3), "spacing": (1.0, 1.0), "origin": (0.0,) * 3}, "do not fit shape"),
        ({"shape": (2, 3), "spacing": (1.0, 1.0), "directions": ((1.0, 0.0), (1.0, 0.0))}, "do not span space"),
    ],
)
def test_impossible_grids_are_refused(values: dict[str, tuple[float, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Geometry(**values)  # type: ignore[arg-type]  # wrong on purpose


def test_extent_and_volume_are_in_millimetres() -> None:
    geometry = Geometry(shape=(20, 40, 30), spacing=(5.0, 1.0, 0.5))
    assert geometry.extent == (100.0, 40.0, 15.0)
    assert geometry.voxel_volume == 2.5


def test_positions_follow_origin_spacing_and_directions() -> None:
    geometry = Geometry(shape=(2, 3, 4), spacing=(5.0, 2.0, 1.0), origin=(100.0, 50.0, 0.0))
    assert geometry.world_position((1, 2, 3)) == (103.0, 54.0, 5.0)
    np.testing.assert_allclose(rotated(math.pi / 2).world_position((0, 1, 0)), (8.0, -20.0, 5.0), atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.0, 2.5])
def test_itk_order_and_back(angle: float) -> None:
    geometry = rotated(angle)
    size = geometry.shape[::-1]
    back = Geometry.from_itk(size, geometry.itk_spacing, geometry.origin, geometry.itk_direction)
    assert back.differences(geometry, tolerance=1e-12) == []
    assert geometry.itk_spacing == (1.5, 2.0, 3.0)
    # ITK's matrix has one column per (x, y, z) index axis.
    matrix = np.asarray(geometry.itk_direction).reshape(3, 3)
    np.testing.assert_allclose(matrix[:, 0], geometry.directions[2])


@pytest.mark.parametrize(
    ("angle", "code"), [(0.0, "SPL"), (0.3, "SPL"), (-0.3, "SPL"), (1.5, "SRP"), (3.1, "SAR"), (-1.5, "SLA")]
)
def test_oblique_grids_are_named_by_their_closest_axes(angle: float, code: str) -> None:
    assert rotated(angle).orientation == code


@given(st.floats(-math.pi, math.pi), st.floats(-math.pi, math.pi))
def test_no_grid_names_one_anatomical_axis_twice(first: float, second: float) -> None:
    a = np.array([[math.cos(first), -math.sin(first), 0], [math.sin(first), math.cos(first), 0], [0, 0, 1]])
    b = np.array([[1, 0, 0], [0, math.cos(second), -math.sin(second)], [0, math.sin(second), math.cos(second)]])
    directions = tuple(tuple(float(v) for v in row) for row in a @ b)
    code = Geometry(shape=(2, 2, 2), spacing=(1.0, 1.0, 1.0), directions=directions).orientation
    assert sorted("RL".find(c) >= 0 for c in code) == [False, False, True]
    assert sorted("AP".find(c) >= 0 for c in code) == [False, False, True]


@pytest.mark.parametrize("source", CODES)
@pytest.mark.parametrize("target", CODES)
def test_turning_moves_no_voxel_in_the_world(source: str, target: str) -> None:
    geometry = Reorientation.between("SPL", source).apply_to_geometry(rotated(0.4))
    assert geometry.orientation == source
    turn = Reorientation.between(source, target)
    turned = turn.apply_to_geometry(geometry)
    assert turned.orientation == target
    positions = voxel_positions(geometry)
    moved = np.moveaxis(turn.apply(np.moveaxis(positions, -1, 0)), 0, -1)
    np.testing.assert_allclose(voxel_positions(turned), moved, atol=1e-9)


@pytest.mark.parametrize("source", CODES)
@pytest.mark.parametrize("target", CODES)
def test_turning_back_gives_the_same_array_and_grid(source: str, target: str) -> None:
    turn, back = Reorientation.between(source, target), Reorientation.between(target, source)
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # the leading axis stays where it is
    np.testing.assert_array_equal(turn.invert(turn.apply(array)), array)
    np.testing.assert_array_equal(back.apply(turn.apply(array)), array)
    assert np.shares_memory(turn.apply(array), array)
    geometry = Reorientation.between("SPL", source).apply_to_geometry(rotated(0.4))
    assert back.apply_to_geometry(turn.apply_to_geometry(geometry)).differences(geometry, tolerance=1e-9) == []
    assert turn.is_identity == (source == target)


def test_2d_grids_turn_within_their_plane_only() -> None:
    turn = Reorientation.between("PL", "LA")
    assert turn.apply(np.array([[1, 2], [3, 4]])).tolist() == [[3, 1], [4, 2]]
    with pytest.raises(ValueError, match="SL cannot be turned into PL"):
        Reorientation.between("SL", "PL")


def test_differences_name_the_property_and_both_values() -> None:
    one = Geometry(shape=(2, 3), spacing=(1.0, 1.0))
    other = Geometry(shape=(2, 4), spacing=(1.0, 1.25), origin=(3.0, 0.0))
    assert one.differences(other) == [
        "shape (2, 3) against (2, 4)",
        "spacing [1.0, 1.0] against [1.0, 1.25]",
        "origin [0.0, 0.0] against [3.0, 0.0]",
    ]
    nearly = Geometry(shape=(2, 3), spacing=(1.0005, 1.0), origin=(5e-4, 0.0))
    assert one.differences(nearly) == []
    fine = Geometry(shape=(2, 3), spacing=(5e-4, 5e-4))
    assert fine.differences(Geometry(shape=(2, 3), spacing=(5e-4, 6e-4))) == [
        "spacing [0.0005, 0.0005] against [0.0005, 0.0006]"
    ]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 6)), min_size=1))
def test_the_box_around_a_mask_is_tight(voxels: list[tuple[int, int, int]]) -> None:
    mask = np.zeros((5, 6, 7), dtype=bool)
    mask[tuple(np.asarray(voxels).T)] = True
    box = BoundingBox.around(mask)
    assert box.start == tuple(np.min(voxels, axis=0))
    assert box.stop == tuple(np.max(voxels, axis=0) + 1)
    assert mask[box.slices].shape == box.shape


def test_the_box_around_nothing_is_everything() -> None:
    assert BoundingBox.around(np.zeros((2, 3), dtype=bool)) == BoundingBox.whole((2, 3))


def test_impossible_boxes_are_refused() -> None:
    with pytest.raises(ValueError, match="is impossible"):
        BoundingBox(start=(1, 2), stop=(3, 1))
    with pytest.raises(ValueError, match="is impossible"):
        BoundingBox(start=(1, 2), stop=(3,))


@pytest.mark.parametrize("code", ["SPL", "IAR", "LPS", "ASR", "PL", "AR"])
def test_directions_of_a_code_give_that_orientation(code: str) -> None:
    geometry = Geometry(shape=(4,) * len(code), spacing=(1.0,) * len(code), directions=directions_of(code))
    assert geometry.orientation == code
