"""Plans for stacks of slices: which axes, which slices, which folder they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from autoseg.dataset import Dataset
from autoseg.errors import PlanError
from autoseg.fingerprint import Fingerprint
from autoseg.labels import LabelScheme
from autoseg.pipeline.laterality import keep_sides_apart
from autoseg.pipeline.plans import merge_plans, stamp
from autoseg.plan import Plan
from autoseg.planning import PLANNERS, NetworkRequest, PlannerBudget, SliceRequest
from autoseg.training import num_input_channels

MakeFingerprint = Callable[..., Fingerprint]
ALIKE = [((1.0, 0.9, 1.1), (96, 110, 128))] * 20
THICK = [((5.0, 0.8, 0.8), (24, 200, 180))] * 20
SLAB = [((1.0, 1.0, 1.0), (20, 200, 180))] * 20


@pytest.fixture(scope="module")
def dataset(make_dataset: Callable[..., Dataset]) -> Dataset:
    return make_dataset(num_labels=3, num_cases=20, channels=("T1", "T2"))


def plan_of(
    dataset: Dataset, fingerprint: Fingerprint, request: SliceRequest | None, *, planner: str = "unet", **more: object
) -> Plan:
    budget = PlannerBudget(slices=request, **more)  # type: ignore[arg-type]  # values of many types
    return PLANNERS.get(planner)().plan(dataset, fingerprint, budget)


def test_axes_that_are_alike_are_all_cut_and_share_the_3d_data(
    dataset: Dataset, make_fingerprint: MakeFingerprint
) -> None:
    plan = plan_of(dataset, make_fingerprint(ALIKE, num_channels=2), SliceRequest())
    found = plan.configuration("2p5d")
    assert found.slices is not None
    assert (found.slices.axes, found.slices.context) == ((0, 1, 2), 5)
    assert found.spacing == plan.configuration("3d_fullres").spacing
    assert found.data == plan.configuration("3d_fullres").data
    assert found.ndim == 2
    assert num_input_channels(plan, found) == 10
    # Rows are y, z or z, columns x, x or y: none of the slices is cut by less than it must.
    median = found.median_shape
    assert all(p >= m for p, m in zip(found.patch_size, (max(median[:2]), max(median[1:])), strict=True))
    assert "across all axes" in found.reasons["slices"]


@pytest.mark.parametrize(("grids", "why"), [(THICK, "out of shape"), (SLAB, "narrow strips")])
def test_others_are_cut_as_they_were_acquired_and_share_the_2d_data(
    dataset: Dataset, make_fingerprint: MakeFingerprint, grids: object, why: str
) -> None:
    plan = plan_of(dataset, make_fingerprint(grids, num_channels=2), SliceRequest(context=3))
    found, flat = plan.configuration("2p5d"), plan.configuration("2d")
    assert found.slices is not None
    assert (found.slices.axes, found.slices.context) == ((0,), 3)
    assert (found.spacing, found.patch_size, found.data) == (flat.spacing, flat.patch_size, "2d")
    assert why in found.reasons["slices"]


def test_axes_can_be_asked_for(dataset: Dataset, make_fingerprint: MakeFingerprint) -> None:
    plan = plan_of(dataset, make_fingerprint(ALIKE, num_channels=2), SliceRequest(axes=(1,)))
    found = plan.configuration("2p5d@axis1")
    assert found.slices is not None
    assert found.slices.axes == (1,)
    assert "as asked for" in found.reasons["slices"]


def test_it_is_planned_where_it_is_asked_for_only(dataset: Dataset, make_fingerprint: MakeFingerprint) -> None:
    without = plan_of(dataset, make_fingerprint(ALIKE, num_channels=2), None)
    assert "2p5d" not in without.configuration_names
    asked = plan_of(dataset, make_fingerprint(ALIKE, num_channels=2), SliceRequest())
    assert tuple(c for c in asked.configurations if c.slices is None) == without.configurations


def test_flat_cases_have_no_stacks(dataset: Dataset, make_fingerprint: MakeFingerprint) -> None:
    with pytest.raises(PlanError, match="single slices"):
        plan_of(dataset, make_fingerprint([((0.8, 0.8), (200, 180))] * 20, num_channels=2), SliceRequest())


def test_other_planners_and_networks_plan_it_too(dataset: Dataset, make_fingerprint: MakeFingerprint) -> None:
    fingerprint = make_fingerprint(ALIKE, num_channels=2)
    assert "2p5d@resenc_m" in plan_of(dataset, fingerprint, SliceRequest(), planner="resenc_m").configuration_names
    request = NetworkRequest(name="acc_unet", label="mine", bases=("2p5d",))
    plan = plan_of(dataset, fingerprint, SliceRequest(axes=(0, 2)), network=request)
    assert plan.configuration_names == ("2p5d@axis02@mine",)
    found = plan.configurations[0]
    assert found.network.name == "acc_unet"
    assert found.slices is not None


def test_asking_for_it_later_leaves_the_other_configurations_as_they_are(
    dataset: Dataset, make_fingerprint: MakeFingerprint
) -> None:
    fingerprint = make_fingerprint(ALIKE, num_channels=2)
    first = stamp(plan_of(dataset, fingerprint, None), fingerprint, PlannerBudget())
    request = SliceRequest()
    later = stamp(plan_of(dataset, fingerprint, request), fingerprint, PlannerBudget(slices=request))
    merged = merge_plans(first, later, trained=["2d", "3d_fullres"])
    assert merged.messages == ()
    assert set(merged.plan.configuration_names) == {*first.configuration_names, "2p5d"}
    again = merge_plans(merged.plan, first, trained=["2p5d"])
    assert "2p5d" in again.plan.configuration_names
    other = SliceRequest(context=7)
    fresh = stamp(plan_of(dataset, fingerprint, other), fingerprint, PlannerBudget(slices=other))
    assert "2p5d is planned anew" in merge_plans(merged.plan, fresh, trained=[]).messages[0]


@pytest.mark.parametrize(("axes", "mirrored"), [((0, 1, 2), (1,)), ((0,), None), ((1,), (1,)), ((2,), (1,))])
def test_sides_are_kept_apart_in_every_slice_that_shows_both(
    make_dataset: Callable[..., Dataset],
    make_fingerprint: MakeFingerprint,
    axes: tuple[int, ...],
    mirrored: tuple[int, ...] | None,
) -> None:
    labels = LabelScheme.from_table({"background": 0, "kidney_left": 1, "kidney_right": 2}, where="test")
    dataset = replace(make_dataset(num_labels=3, num_cases=20), labels=labels)
    plan = keep_sides_apart(plan_of(dataset, make_fingerprint(ALIKE), SliceRequest(axes=axes)))
    assert plan.transpose == (2, 0, 1)  # of the orientation SPL: left and right come first
    assert plan.configurations[-1].mirror_axes == mirrored
