"""Whole plans: what nnU-Net cannot train, what a user asks for, and what the notes say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from autoseg.dataset import Dataset
from autoseg.errors import PlanError
from autoseg.fingerprint import Fingerprint
from autoseg.labels import LabelScheme
from autoseg.plan import Plan
from autoseg.planning import PLANNERS, PlannerBudget

MakeFingerprint = Callable[..., Fingerprint]
MakeDataset = Callable[..., Dataset]
LARGE = [((1.0, 0.8, 0.8), (400, 512, 512))] * 20


@pytest.fixture(scope="module")
def dataset(make_dataset: MakeDataset) -> Dataset:
    return make_dataset(num_labels=3, num_cases=20)


def plan_of(
    dataset: Dataset, fingerprint: Fingerprint, budget: PlannerBudget | None = None, planner: str = "unet"
) -> Plan:
    return PLANNERS.get(planner)().plan(dataset, fingerprint, budget or PlannerBudget())


@pytest.mark.parametrize("shape", [(6, 6, 6), (5, 12, 7), (4, 3, 4), (3, 3, 3), (2, 9, 9)])
def test_tiny_images_get_a_network_that_can_be_trained(
    dataset: Dataset, make_fingerprint: MakeFingerprint, shape: tuple[int, ...]
) -> None:
    plan = plan_of(dataset, make_fingerprint([((1.0, 1.0, 1.0), shape)] * 20))
    for configuration in plan.configurations:
        network = configuration.network
        assert len(network.output_strides) == (1 if network.num_stages < 3 else network.num_stages - 1)
        assert network.num_stages >= 2 or max(configuration.patch_size) < 4
    assert any("cannot be trained" in note for note in plan.notes)


def test_the_budget_without_a_figure_is_the_presets(dataset: Dataset, make_fingerprint: MakeFingerprint) -> None:
    fingerprint = make_fingerprint(LARGE)
    memories = {name: plan_of(dataset, fingerprint, planner=name).gpu_memory_gb for name in PLANNERS.names()[:4]}
    assert memories == {"unet": 8.0, "resenc_m": 8.0, "resenc_l": 24.0, "resenc_xl": 40.0}


def test_memory_scales_every_preset(dataset: Dataset, make_fingerprint: MakeFingerprint) -> None:
    fingerprint = make_fingerprint(LARGE)
    small = plan_of(dataset, fingerprint, PlannerBudget(gpu_memory_gb=4, gpu_memory_source="--gpu-memory"))
    assert (small.gpu_memory_gb, small.gpu_memory_source) == (4, "--gpu-memory")
    full = plan_of(dataset, fingerprint).configuration("3d_fullres")
    assert small.configuration("3d_fullres").patch_size < full.patch_size


@pytest.mark.parametrize("gigabytes", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_memory_is_refused(dataset: Dataset, make_fingerprint: MakeFingerprint, gigabytes: float) -> None:
    with pytest.raises(PlanError, match="positive number of GB"):
        plan_of(dataset, make_fingerprint(LARGE), PlannerBudget(gpu_memory_gb=gigabytes))


def test_a_requested_spacing_reaches_every_configuration(dataset: Dataset, make_fingerprint: MakeFingerprint) -> None:
    plan = plan_of(dataset, make_fingerprint(LARGE), PlannerBudget(spacing=(2.0, 1.5, 1.6)))
    assert plan.configuration("3d_fullres").spacing == (2.0, 1.5, 1.6)
    assert plan.configuration("2d").spacing == (1.5, 1.6)
    assert "requested" in plan.configuration("2d").reasons["spacing"]


def test_planners_keep_their_configurations_apart(dataset: Dataset, make_fingerprint: MakeFingerprint) -> None:
    plan = plan_of(dataset, make_fingerprint(LARGE), PlannerBudget(gpu_memory_gb=8), planner="resenc_l")
    assert plan.configuration_names == tuple(
        f"{name}@resenc_l" for name in ("2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres")
    )
    cascade = plan.configuration("3d_cascade_fullres@resenc_l")
    assert cascade.previous_stage == "3d_lowres@resenc_l"
    assert cascade.data == "3d_fullres@resenc_l"
    assert cascade.network.name == "resenc"


def test_what_the_dataset_declares_is_in_the_plan(dataset: Dataset, make_fingerprint: MakeFingerprint) -> None:
    plan = plan_of(dataset, make_fingerprint(LARGE))
    assert (plan.dataset, plan.channels, plan.labels) == (dataset.name, dataset.channels, dataset.labels)
    assert (plan.file_ending, plan.orientation) == (".nii.gz", "SPL")


def test_regions_and_ignore_count_like_nnunets_label_table(
    make_dataset: MakeDataset, make_fingerprint: MakeFingerprint
) -> None:
    """nnU-Net's estimate has an output per declared entry: here 5 at once with 4 declared and with regions."""
    fingerprint = make_fingerprint(LARGE)
    table = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "edge": 3, "ignore": 4}
    regions = LabelScheme.from_table(table, (1, 2, 3), where="test")
    plain = make_dataset(num_labels=5, num_cases=20)
    by_region = plan_of(replace(plain, labels=regions), fingerprint)
    by_label = plan_of(plain, fingerprint)
    assert [(c.patch_size, c.batch_size) for c in by_region.configurations] == [
        (c.patch_size, c.batch_size) for c in by_label.configurations
    ]


def test_notes_tell_what_concerns_all_configurations(
    make_dataset: MakeDataset, make_fingerprint: MakeFingerprint
) -> None:
    fingerprint = replace(make_fingerprint([((0.8, 0.8, 2.5), (300, 280, 60))] * 10, relative_size=0.4), intensities=())
    notes = " ".join(plan_of(make_dataset(num_labels=3, num_cases=12), fingerprint).notes)
    assert "reordered to (2, 0, 1)" in notes
    assert "3d_lowres is not planned" in notes
    assert "leaves 40%" in notes
    assert "no intensity statistics" in notes
    assert "declares 12 training cases, 10 were measured" in notes


@pytest.mark.parametrize(("planner", "expected"), [("unet", False), ("resenc_m", True)])
def test_very_large_batches_are_noted(
    make_dataset: MakeDataset, make_fingerprint: MakeFingerprint, planner: str, *, expected: bool
) -> None:
    """The residual presets fill the memory, however small the images are."""
    fingerprint = make_fingerprint([((1.0, 1.0, 1.0), (36, 50, 35))] * 260)
    plan = plan_of(make_dataset(num_labels=3, num_cases=260), fingerprint, planner=planner)
    noted = [note for note in plan.notes if "lower batch_size" in note]
    assert bool(noted) is expected
    if expected:  # 1618 * 56 * 40 / (36 * 50 * 35 * 260) = 22 %
        assert noted[0].startswith("2d@resenc_m: a batch of 1618 patches holds 22%")


def test_the_batch_follows_the_declared_number_of_cases(
    make_dataset: MakeDataset, make_fingerprint: MakeFingerprint
) -> None:
    fingerprint = make_fingerprint([((1.0, 1.0, 1.0), (36, 50, 35))] * 10)
    few, many = (
        plan_of(make_dataset(num_labels=3, num_cases=n), fingerprint).configuration("2d").batch_size for n in (10, 100)
    )
    assert (few, many) == (14, 141)


@pytest.mark.parametrize(("num_cases", "proposed"), [(260, True), (2000, False)])
def test_small_datasets_are_proposed_the_smaller_network(
    num_cases: int,
    make_fingerprint: Callable[..., Fingerprint],
    make_dataset: Callable[..., Dataset],
    *,
    proposed: bool,
) -> None:
    fingerprint = make_fingerprint([((1.0, 1.0, 1.0), (36, 50, 35))] * 3)
    dataset = make_dataset(num_labels=3, num_cases=num_cases)

    def notes(planner: str) -> str:
        return " ".join(PLANNERS.get(planner)().plan(dataset, fingerprint, PlannerBudget()).notes)

    assert ("Proposed: --planner unet" in notes("resenc_l")) is proposed
    assert "Proposed" not in notes("unet")
