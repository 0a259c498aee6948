"""The grid of full resolution, with numbers that can be checked by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from autoseg.errors import PlanError
from autoseg.fingerprint import Fingerprint
from autoseg.planners.spacing import choose_spacing, coarsest_first, full_resolution_grid

MakeFingerprint = Callable[..., Fingerprint]


def test_the_median_spacing_is_taken() -> None:
    spacings = np.array([[1.0, 1.0, 1.0], [2.0, 1.2, 1.2], [3.0, 1.4, 1.4]])
    shapes = np.full((3, 3), 100.0)
    assert choose_spacing(spacings, shapes).spacing == (2.0, 1.2, 1.2)


def test_a_stack_of_slices_gets_the_finer_spacing_of_some_cases() -> None:
    spacings = np.array([[10.0, 1.5, 1.5]] * 150 + [[5.0, 1.5, 1.5]] * 50)
    shapes = np.full((200, 3), (9.0, 256.0, 216.0))
    choice = choose_spacing(spacings, shapes)
    assert choice.spacing == (5.0, 1.5, 1.5)
    assert "stack of slices" in choice.reason


@pytest.mark.parametrize(
    ("coarse", "thick_size"),
    [(4.5, 9.0), (10.0, 80.0)],
    ids=["three times coarser is not more than three times", "long enough to be a volume"],
)
def test_what_is_not_a_stack_of_slices_keeps_its_median(coarse: float, thick_size: float) -> None:
    spacings = np.array([[coarse, 1.5, 1.5]] * 9 + [[2.0, 1.5, 1.5]])
    shapes = np.full((10, 3), (thick_size, 200.0, 216.0))
    assert choose_spacing(spacings, shapes).spacing[0] == coarse


def test_a_stack_of_slices_stays_coarser_than_its_plane() -> None:
    """Else the order of axes would change with a few fine cases."""
    spacings = np.array([[10.0, 1.5, 1.5]] * 8 + [[0.5, 1.5, 1.5]] * 2)
    shapes = np.full((10, 3), (9.0, 256.0, 216.0))
    assert choose_spacing(spacings, shapes).spacing[0] == pytest.approx(1.5 + 1e-5, abs=1e-12)


def test_the_thick_axis_may_be_any() -> None:
    spacings = np.array([[1.5, 1.5, 10.0]] * 8 + [[1.5, 1.5, 5.0]] * 2)
    shapes = np.full((10, 3), (256.0, 216.0, 9.0))
    assert choose_spacing(spacings, shapes).spacing == (1.5, 1.5, 5.0)


def test_two_dimensional_data_have_no_stacks() -> None:
    spacings = np.array([[10.0, 1.0]] * 8 + [[5.0, 1.0]] * 2)
    assert choose_spacing(spacings, np.full((10, 2), (9.0, 256.0))).spacing == (10.0, 1.0)


@pytest.mark.parametrize(
    ("spacing", "order"),
    [
        ((1.0, 1.0, 1.0), (0, 1, 2)),
        ((0.8, 2.5, 0.8), (1, 0, 2)),
        ((0.8, 0.7, 2.5), (2, 0, 1)),
        ((1.0, 2.5, 2.5), (1, 0, 2)),
        ((0.5, 3.0), (0, 1)),
    ],
)
def test_the_coarsest_axis_comes_first(spacing: tuple[float, ...], order: tuple[int, ...]) -> None:
    assert coarsest_first(spacing) == order


def test_shapes_are_resampled_rounded_and_reordered(make_fingerprint: MakeFingerprint) -> None:
    # At (1, 1, 2.5) mm: 300 and 281 voxels along the first axis, median 290.5.
    grid = full_resolution_grid(
        make_fingerprint([((1.0, 1.0, 2.5), (300, 280, 60)), ((0.7, 1.0, 2.5), (401, 280, 61))] * 2), (1.0, 1.0, 2.5)
    )
    assert grid.transpose == (2, 0, 1)
    assert grid.spacing == (2.5, 1.0, 1.0)
    assert grid.median_shape == (60.5, 290.5, 280.0)
    assert grid.median_spacing == (2.5, 0.85, 1.0)


def test_a_requested_spacing_wins_and_is_told(make_fingerprint: MakeFingerprint) -> None:
    grid = full_resolution_grid(make_fingerprint([((1.0, 1.0, 1.0), (40, 40, 40))]), (2.0, 1.0, 1.0))
    assert grid.spacing == (2.0, 1.0, 1.0)
    assert grid.median_shape == (20.0, 40.0, 40.0)
    assert "requested" in grid.spacing_reason


def test_a_requested_spacing_of_three_values_serves_two_axes(make_fingerprint: MakeFingerprint) -> None:
    fingerprint = make_fingerprint([((1.0, 1.0), (40, 40))])
    assert full_resolution_grid(fingerprint, (9.0, 2.0, 0.5)).spacing == (2.0, 0.5)


@pytest.mark.parametrize("requested", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, float("nan"), 1.0), (1.0, -1.0, 1.0)])
def test_an_impossible_requested_spacing_is_refused(
    make_fingerprint: MakeFingerprint, requested: tuple[float, ...]
) -> None:
    with pytest.raises(PlanError, match="3 positive numbers"):
        full_resolution_grid(make_fingerprint([((1.0, 1.0, 1.0), (40, 40, 40))]), requested)


def test_two_and_three_dimensional_cases_do_not_mix(make_fingerprint: MakeFingerprint) -> None:
    with pytest.raises(PlanError, match="mixes 2D and 3D"):
        full_resolution_grid(make_fingerprint([((1.0, 1.0), (4, 4)), ((1.0, 1.0, 1.0), (4, 4, 4))]))


def test_an_axis_that_resampling_would_remove_keeps_one_voxel(make_fingerprint: MakeFingerprint) -> None:
    grid = full_resolution_grid(make_fingerprint([((1.0, 1.0, 1.0), (2, 40, 40))]), (9.0, 1.0, 1.0))
    assert grid.median_shape == (1.0, 40.0, 40.0)
    assert grid.is_flat
