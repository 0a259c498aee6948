"""Plans that nnU-Net's planner makes for well-known kinds of data (golden vectors; no reference data needed)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from autoseg.dataset import Dataset
from autoseg.fingerprint import Fingerprint
from autoseg.plan import Plan
from autoseg.planning import PLANNERS, PlannerBudget, memory_warnings

PlanFor = Callable[["Data", str], Plan]


@dataclass(frozen=True)
class Data:
    """Identical cases, unless more than one grid is given: (number, spacing, shape)."""

    grids: tuple[tuple[int, tuple[float, ...], tuple[int, ...]], ...]
    num_labels: int
    num_cases: int
    num_channels: int = 1
    relative_size: float = 1.0


DATA = {
    "liver": Data(((1, (1, 0.767578125, 0.767578125), (432, 512, 512)),), 3, 131),
    "prostate": Data(((150, (10, 1.5625, 1.5625), (9, 256, 216)), (50, (5, 1.5625, 1.5625), (9, 256, 216))), 4, 200),
    "brain": Data(((1, (1, 1, 1), (140, 171, 136)),), 4, 285, 4, 0.37),
    "heart": Data(((1, (3.6, 0.62, 0.62), (20, 320, 319)),), 3, 32),
    "roads": Data(((1, (1, 1), (400, 400)),), 2, 100, 3),
    "organs": Data(((1, (5, 0.6816, 0.6816), (104, 512, 512)),), 16, 240),
    "lung": Data(((1, (1.25, 0.785, 0.785), (252, 512, 512)),), 2, 63),
    "thick last": Data(((1, (0.8, 0.8, 2.5), (300, 280, 60)),), 5, 40),
    "hippocampus": Data(((1, (1, 1, 1), (36, 50, 35)),), 3, 260),
    "tiny": Data(((1, (1, 1, 1), (20, 24, 28)),), 2, 6),
}

EXPECTED = [
    # data, planner, configuration, patch, batch
    ("liver", "unet", "2d", (512, 512), 12),
    ("liver", "unet", "3d_fullres", (128, 128, 128), 2),
    ("liver", "unet", "3d_lowres", (128, 128, 128), 2),
    ("liver", "resenc_m", "2d", (512, 512), 12),
    ("liver", "resenc_m", "3d_fullres", (128, 128, 128), 2),
    ("liver", "resenc_m", "3d_lowres", (128, 128, 128), 2),
    ("liver", "resenc_l", "2d", (512, 512), 35),
    ("liver", "resenc_l", "3d_fullres", (160, 224, 192), 2),
    ("liver", "resenc_l", "3d_lowres", (160, 224, 192), 2),
    ("liver", "resenc_xl", "2d", (512, 512), 52),
    ("liver", "resenc_xl", "3d_fullres", (192, 256, 256), 2),
    ("liver", "resenc_xl", "3d_lowres", (192, 256, 256), 2),
    ("prostate", "unet", "2d", (256, 224), 56),
    ("prostate", "unet", "3d_fullres", (20, 256, 224), 4),
    ("prostate", "resenc_m", "2d", (256, 224), 57),
    ("prostate", "resenc_m", "3d_fullres", (20, 256, 224), 3),
    ("prostate", "resenc_l", "2d", (256, 224), 161),
    ("prostate", "resenc_l", "3d_fullres", (20, 256, 224), 10),
    ("prostate", "resenc_xl", "2d", (256, 224), 238),
    ("prostate", "resenc_xl", "3d_fullres", (20, 256, 224), 17),
    ("brain", "unet", "2d", (192, 160), 105),
    ("brain", "unet", "3d_fullres", (128, 160, 112), 2),
    ("brain", "resenc_l", "2d", (192, 160), 301),
    ("brain", "resenc_l", "3d_fullres", (160, 192, 160), 3),
    ("heart", "unet", "2d", (320, 320), 32),
    ("heart", "unet", "3d_fullres", (20, 320, 256), 2),
    ("heart", "resenc_m", "2d", (320, 320), 32),
    ("heart", "resenc_m", "3d_fullres", (20, 256, 256), 2),
    ("roads", "unet", "2d", (448, 448), 4),
    ("roads", "resenc_m", "2d", (448, 448), 16),
    ("roads", "resenc_l", "2d", (448, 448), 46),
    ("roads", "resenc_xl", "2d", (448, 448), 68),
    ("organs", "unet", "2d", (512, 512), 12),
    ("organs", "unet", "3d_fullres", (40, 224, 192), 2),
    ("organs", "unet", "3d_lowres", (64, 192, 160), 2),
    ("organs", "resenc_m", "2d", (512, 512), 12),
    ("organs", "resenc_m", "3d_fullres", (40, 192, 192), 2),
    ("organs", "resenc_m", "3d_lowres", (64, 160, 160), 2),
    ("organs", "resenc_l", "2d", (512, 512), 34),
    ("organs", "resenc_l", "3d_fullres", (64, 256, 256), 2),
    ("lung", "unet", "2d", (512, 512), 12),
    ("lung", "unet", "3d_fullres", (80, 192, 160), 2),
    ("lung", "unet", "3d_lowres", (80, 192, 160), 2),
    ("lung", "resenc_l", "2d", (512, 512), 35),
    ("lung", "resenc_l", "3d_fullres", (112, 256, 256), 2),
    ("lung", "resenc_l", "3d_lowres", (112, 256, 256), 2),
    ("thick last", "unet", "2d", (320, 320), 31),
    ("thick last", "unet", "3d_fullres", (48, 224, 192), 2),
    ("thick last", "resenc_l", "2d", (320, 320), 90),
    ("thick last", "resenc_l", "3d_fullres", (64, 320, 256), 2),
    ("hippocampus", "unet", "2d", (56, 40), 366),
    ("hippocampus", "unet", "3d_fullres", (40, 56, 40), 9),
    ("hippocampus", "resenc_m", "2d", (56, 40), 1618),
    ("hippocampus", "resenc_m", "3d_fullres", (40, 56, 40), 58),
    ("tiny", "unet", "2d", (24, 28), 6),
    ("tiny", "unet", "3d_fullres", (20, 24, 28), 2),
]

LOW_RESOLUTIONS = [
    ("liver", "unet", (2.4273, 1.8631, 1.8631), (178, 211, 211)),
    ("liver", "resenc_l", (1.6047, 1.2317, 1.2317), (269, 319, 319)),
    ("liver", "resenc_xl", (1.3439, 1.0316, 1.0316), (321, 381, 381)),
    ("organs", "unet", (5, 1.306, 1.306), (104, 267, 267)),
    ("organs", "resenc_m", (5, 1.4271, 1.4271), (104, 245, 245)),
    ("lung", "unet", (2.3951, 1.5041, 1.5041), (132, 267, 267)),
    ("lung", "resenc_l", (1.6799, 1.055, 1.055), (188, 381, 381)),
]


@pytest.fixture(scope="module")
def plan_for(make_fingerprint: Callable[..., Fingerprint], make_dataset: Callable[..., Dataset]) -> PlanFor:
    made: dict[tuple[str, str], Plan] = {}

    def plan(data: Data, planner: str) -> Plan:
        key = (repr(data), planner)
        if key not in made:
            grids = [(spacing, shape) for number, spacing, shape in data.grids for _ in range(number)]
            fingerprint = make_fingerprint(grids, num_channels=data.num_channels, relative_size=data.relative_size)
            dataset = make_dataset(
                num_labels=data.num_labels, num_cases=data.num_cases, channels=("MR",) * data.num_channels
            )
            made[key] = PLANNERS.get(planner)().plan(dataset, fingerprint, PlannerBudget())
        return made[key]

    return plan


def name_of(configuration: str, planner: str) -> str:
    return configuration if planner == "unet" else f"{configuration}@{planner}"


@pytest.mark.parametrize(("data", "planner", "configuration", "patch_size", "batch_size"), EXPECTED)
def test_patch_and_batch(
    plan_for: PlanFor, data: str, planner: str, configuration: str, patch_size: tuple[int, ...], batch_size: int
) -> None:
    plan = plan_for(DATA[data], planner)
    planned = plan.configuration(name_of(configuration, planner))
    assert planned.patch_size == patch_size
    assert planned.batch_size == batch_size
    assert memory_warnings(plan) == ()  # they are for edits alone


@pytest.mark.parametrize(("data", "planner", "spacing", "median_shape"), LOW_RESOLUTIONS)
def test_low_resolution(
    plan_for: PlanFor, data: str, planner: str, spacing: tuple[float, ...], median_shape: tuple[int, ...]
) -> None:
    plan = plan_for(DATA[data], planner)
    low = plan.configuration(name_of("3d_lowres", planner))
    cascade = plan.configuration(name_of("3d_cascade_fullres", planner))
    full = plan.configuration(name_of("3d_fullres", planner))
    assert low.spacing == pytest.approx(spacing, abs=6e-5)
    assert low.median_shape == median_shape
    assert cascade.previous_stage == low.name
    assert (cascade.data, cascade.patch_size, cascade.network) == (full.data, full.patch_size, full.network)
    assert (low.batch_dice, full.batch_dice, cascade.batch_dice) == (False, True, True)


@pytest.mark.parametrize(
    ("data", "planner", "expected"),
    [
        ("liver", "unet", ("2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres")),
        ("organs", "resenc_l", ("2d", "3d_fullres")),
        ("prostate", "unet", ("2d", "3d_fullres")),
        ("roads", "unet", ("2d",)),
    ],
)
def test_configurations(plan_for: PlanFor, data: str, planner: str, expected: tuple[str, ...]) -> None:
    plan = plan_for(DATA[data], planner)
    assert plan.configuration_names == tuple(name_of(name, planner) for name in expected)
    if "3d_lowres" not in expected and "3d_fullres" in expected:
        assert not plan.configuration(name_of("3d_fullres", planner)).batch_dice


def test_the_coarsest_axis_is_the_first(plan_for: PlanFor) -> None:
    plan = plan_for(DATA["thick last"], "unet")
    assert plan.transpose == (2, 0, 1)
    assert plan.configuration("3d_fullres").spacing == (2.5, 0.8, 0.8)
    assert plan.configuration("3d_fullres").median_shape == (60, 300, 280)


def test_a_stack_of_slices_is_resampled_to_the_finer_cases(plan_for: PlanFor) -> None:
    assert plan_for(DATA["prostate"], "unet").configuration("3d_fullres").spacing[0] == pytest.approx(5)


def test_two_dimensional_data_have_two_entries_everywhere(plan_for: PlanFor) -> None:
    plan = plan_for(DATA["roads"], "unet")
    planned = plan.configuration("2d")
    assert plan.transpose == (0, 1)
    assert len(plan.median_spacing) == len(plan.median_shape) == len(planned.spacing) == len(planned.patch_size) == 2


def test_a_hundred_hippocampi(
    make_fingerprint: Callable[..., Fingerprint], make_dataset: Callable[..., Dataset]
) -> None:
    fingerprint = make_fingerprint([((1.0, 1.0, 1.0), (36, 50, 35))] * 100)
    plan = PLANNERS.get("unet")().plan(
        make_dataset(num_labels=3, num_cases=100), fingerprint, PlannerBudget(gpu_memory_gb=8)
    )
    full, slices = plan.configuration("3d_fullres"), plan.configuration("2d")
    assert (full.patch_size, full.batch_size, full.spacing) == ((40, 56, 40), 4, (1.0, 1.0, 1.0))
    assert full.network.features == (32, 64, 128, 256)
    assert full.normalization[0].scheme == "zscore"
    assert (slices.patch_size, slices.batch_size) == ((56, 40), 141)
