"""When a lower resolution is planned, and at which spacing."""

from __future__ import annotations

import math

import pytest

from autoseg.planners.budget import Sizer
from autoseg.planners.resolutions import choose_resolutions, coarsen, find_low_resolution
from autoseg.planners.spacing import Grid
from autoseg.planners.unet import UNET

SIZER = Sizer(preset=UNET, memory_gb=8.0, num_labels=3)


def grid(spacing: tuple[float, ...], median_shape: tuple[float, ...]) -> Grid:
    return Grid(
        spacing=spacing,
        spacing_reason="test",
        transpose=tuple(range(len(spacing))),
        median_spacing=spacing,
        median_shape=median_shape,
    )


@pytest.mark.parametrize(
    ("spacing", "coarser"),
    [
        ((1.0, 1.0, 1.0), (1.03, 1.03, 1.03)),
        ((5.0, 1.0, 1.0), (5.0, 1.03, 1.03)),
        ((5.0, 2.5, 1.0), (5.0, 2.5, 1.03)),
        ((2.0, 1.0, 1.0), (2.06, 1.03, 1.03)),
    ],
    ids=["all together", "fine axes alone", "only axes finer by more than 2", "2 times is not more"],
)
def test_fine_axes_catch_up_first(spacing: tuple[float, ...], coarser: tuple[float, ...]) -> None:
    assert coarsen(spacing) == pytest.approx(coarser, abs=1e-12)


def test_a_patch_that_sees_a_quarter_needs_no_lower_resolution() -> None:
    full = SIZER.size((1.0, 1.0, 1.0), (150.0, 150.0, 150.0), dataset_voxels=1e9)
    low, why = find_low_resolution(full, SIZER, num_cases=20)
    assert low is None
    assert "not planned" in why


def test_a_resolution_that_hardly_differs_is_dropped() -> None:
    # 128^3 of 240^3 voxels are 15 %; a quarter needs 1.6 times fewer voxels only.
    full = SIZER.size((1.0, 1.0, 1.0), (240.0, 240.0, 240.0), dataset_voxels=1e9)
    low, why = find_low_resolution(full, SIZER, num_cases=20)
    assert full.coverage < 0.25
    assert low is None
    assert "too similar" in why


def test_a_lower_resolution_sees_a_quarter_after_the_fewest_steps() -> None:
    full = SIZER.size((1.0, 1.0, 1.0), (400.0, 400.0, 400.0), dataset_voxels=1e9)
    low, why = find_low_resolution(full, SIZER, num_cases=20)
    assert low is not None
    steps = math.log(low.spacing[0]) / math.log(1.03)
    assert steps == pytest.approx(round(steps))
    assert low.coverage >= 0.25
    before = tuple(s / 1.03 for s in low.spacing)
    patch = SIZER.size(before, [round(400 / s) for s in before], dataset_voxels=1e9).patch_size
    assert math.prod(patch) / math.prod(400 / s for s in before) < 0.25
    assert "cascade" in why
    # Its batch is limited by the voxels of that resolution, which are fewer.
    num_voxels = 20 * math.prod(400 / s for s in low.spacing)
    assert low.dataset_batch_size == round(0.05 * num_voxels / math.prod(low.patch_size))


def test_single_slices_of_three_axes_are_planned_in_2d_only() -> None:
    resolutions = choose_resolutions(grid((5.0, 1.0, 1.0), (1.0, 300.0, 200.0)), SIZER, num_cases=10)
    assert resolutions.full is None
    assert resolutions.low is None
    assert resolutions.in_plane.median_shape == (300.0, 200.0)


def test_slices_leave_out_the_first_axis() -> None:
    resolutions = choose_resolutions(grid((5.0, 1.0, 0.5), (30.0, 300.0, 200.0)), SIZER, num_cases=10)
    assert resolutions.in_plane.spacing == (1.0, 0.5)
    assert resolutions.full is not None
