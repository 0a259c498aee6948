"""Planning of networks other than the planner's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest

from autoseg.dataset import Dataset
from autoseg.errors import PlanError, SettingsError
from autoseg.fingerprint import Fingerprint
from autoseg.networks.memory import estimate_memory
from autoseg.plan import Configuration, Plan
from autoseg.planners.unet import UNetPlanner
from autoseg.planning import NetworkRequest, PlannerBudget

FLAT = ((1.0, 1.0), (512, 512))
SMALL = ((1.0, 1.0, 1.0), (36, 50, 35))


@pytest.fixture
def plan_for(make_fingerprint: Callable[..., Fingerprint], make_dataset: Callable[..., Dataset]) -> Callable[..., Plan]:
    def make(
        name: str, grid: tuple[Sequence[float], Sequence[int]], *options: str, memory_gb: float = 8.0, label: str = ""
    ) -> Plan:
        request = NetworkRequest(name=name, label=label or name, options=options)
        budget = PlannerBudget(gpu_memory_gb=memory_gb, gpu_memory_source="test", network=request)
        return UNetPlanner().plan(make_dataset(num_labels=3, num_cases=50), make_fingerprint([grid] * 3), budget)

    return make


@pytest.mark.parametrize("name", ["unet_plus_plus", "spine_hybrid", "unetcnx"])
def test_every_network_is_planned_within_memory(name: str, plan_for: Callable[..., Plan]) -> None:
    plan = plan_for(name, SMALL)
    assert plan.configurations
    for configuration in plan.configurations:
        assert configuration.name.endswith(f"@{name}")
        assert configuration.network.name == name
        assert configuration.batch_size >= 2
        assert set(configuration.reasons) >= {"patch_size", "batch_size", "network", "spacing"}
        found = estimate_memory(
            configuration.network,
            patch_size=configuration.patch_size,
            batch_size=configuration.batch_size,
            num_channels=1,
            labels=plan.labels,
        )
        assert found.gigabytes <= 8.1


def test_the_default_network_is_planned_as_its_planner_does(plan_for: Callable[..., Plan]) -> None:
    configuration = plan_for("unet", SMALL).configuration("3d_fullres@unet")
    assert configuration.patch_size == (40, 56, 40)
    assert configuration.network.features == (32, 64, 128, 256)


def test_knobs_are_turned_in_order(plan_for: Callable[..., Plan]) -> None:
    found = [plan_for("unet", FLAT, memory_gb=gb).configuration("2d@unet") for gb in (2.0, 1.65, 1.4)]
    voxels = [math.prod(c.patch_size) for c in found]
    assert voxels[0] > voxels[1] >= 256**2
    assert [c.network.checkpointing for c in found] == [False, True, True]
    assert found[1].network.features[0] > found[2].network.features[0]
    assert "twice" in found[1].reasons["patch_size"]


def test_too_little_memory_is_refused_with_a_figure(plan_for: Callable[..., Plan]) -> None:
    with pytest.raises(PlanError, match=r"1 GB of GPU memory are too little.*would take \d\.\d GB.*--gpu-memory"):
        plan_for("unet", FLAT, memory_gb=1.0)


def test_a_form_that_was_refused_is_noted_with_the_reason(plan_for: Callable[..., Plan]) -> None:
    plan = plan_for("mednext", ((5.0, 1.0, 1.0), (6, 32, 32)), memory_gb=8.0)
    assert plan.configuration_names == ("2d@mednext",)
    (note,) = [n for n in plan.notes if n.startswith("mednext was not planned as 3d_fullres: ")]
    assert "needs at least 8 voxels along every axis; the median case has 6" in note


def test_options_reach_the_plan(plan_for: Callable[..., Plan]) -> None:
    plan = plan_for("unet", SMALL, "norm=batch", "dropout=0.1", "head_bias=false", label="mine")
    network = plan.configuration("3d_fullres@mine").network
    assert (network.norm, network.dropout, network.options) == ("batch", 0.1, {"head_bias": False})


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("norm", "write it as name=value"),
        ("norm=batches", "must be one of"),
        ("dropout=2", "below 1"),
        ("norms=3", "no option 'norms'"),
        ("head_bias=maybe", "must be true or false"),
    ],
)
def test_wrong_options_are_named(option: str, complaint: str, plan_for: Callable[..., Plan]) -> None:
    with pytest.raises(SettingsError, match=complaint):
        plan_for("unet", SMALL, option)


def test_a_patch_that_was_asked_for(
    make_fingerprint: Callable[..., Fingerprint], make_dataset: Callable[..., Dataset]
) -> None:
    """It is taken as it is where it can be: an axis is halved less often rather than rounded up; else it is cut."""

    def planned(shape: tuple[int, ...], patch: tuple[int, int, int], memory_gb: float = 40.0) -> Configuration:
        request = NetworkRequest(name="unet", label="own", patch=patch, bases=("3d_fullres",))
        budget = PlannerBudget(gpu_memory_gb=memory_gb, gpu_memory_source="test", network=request)
        grids = [((1.0, 0.7, 0.7), shape)] * 3
        plan = UNetPlanner().plan(make_dataset(num_labels=4, num_cases=50), make_fingerprint(grids), budget)
        assert [c.name for c in plan.configurations] == ["3d_fullres@own"]
        return plan.configurations[0]

    exact = planned((160, 200, 200), (120, 128, 128))
    assert exact.patch_size == (120, 128, 128)
    assert exact.network.divisor == (8, 32, 32)
    assert "120x128x128 as asked for" in exact.reasons["patch_size"]
    cut = planned((40, 96, 96), (120, 128, 128))
    assert cut.patch_size == (40, 96, 96)
    assert "120x128x128 were asked for" in cut.reasons["patch_size"]
    small = planned((160, 200, 200), (120, 128, 128), memory_gb=3.0)
    assert math.prod(small.patch_size) < 120 * 128 * 128
    assert "were asked for" in small.reasons["patch_size"]
