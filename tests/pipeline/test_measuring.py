"""Plans against what training steps take in memory."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autoseg.codec import write_json
from autoseg.errors import SettingsError
from autoseg.networks.memory import estimate_memory
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.plan import Configuration, Plan
from autoseg.training import StepMemory, num_input_channels
from autoseg.workspace import Workspace


def estimated(plan: Plan, configuration: Configuration) -> float:
    return estimate_memory(
        configuration.network,
        patch_size=configuration.patch_size,
        batch_size=configuration.batch_size,
        num_channels=num_input_channels(plan, configuration),
        labels=plan.labels,
    ).gigabytes


def measured_plan(dataset: Path, folder: Path, memory_gb: float, **options: str) -> Plan:
    space = plan_and_preprocess(
        dataset, workspace=folder, gpu_memory_gb=memory_gb, measure_on="cpu", workers=0, **options
    )
    return space.load_plan()


def test_what_fits_stays_and_the_estimate_is_noted_as_one(ball_dataset: Path, tmp_path: Path) -> None:
    plan = measured_plan(ball_dataset, tmp_path / "measured", 8.0)
    without = plan_and_preprocess(ball_dataset, workspace=tmp_path / "plain", gpu_memory_gb=8.0, workers=0).load_plan()
    assert "memory" not in without.configurations[0].reasons
    for found, planned in zip(plan.configurations, without.configurations, strict=True):
        reason = found.reasons["memory"]
        assert f"takes {estimated(plan, planned):.2f} GB of 8 GB" in reason
        assert "estimated, not measured: cpu" in reason
        assert (found.network, found.patch_size, found.batch_size) == (
            planned.network,
            planned.patch_size,
            planned.batch_size,
        )


def test_batches_that_do_not_fit_shrink_and_the_plan_says_from_what(ball_dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    space = plan_and_preprocess(ball_dataset, workspace=folder, gpu_memory_gb=2.0, workers=0)
    plan = space.load_plan()
    large = [replace(c, batch_size=20_000) for c in plan.configurations]
    write_json(replace(plan, configurations=tuple(large)), space.plan_path)
    trained = large[0]
    space.run_record_path(trained.name).parent.mkdir(parents=True)
    space.run_record_path(trained.name).write_text("{}")

    found = measured_plan(ball_dataset, folder, 2.0)

    assert found.configuration(trained.name).batch_size == 20_000  # it has results
    assert "left as it is" in found.configuration(trained.name).reasons["memory"]
    for configuration in found.configurations[1:]:
        assert 2 <= configuration.batch_size < 20_000
        assert configuration.patch_size == plan.configuration(configuration.name).patch_size
        assert estimated(found, configuration) <= 2.0
        assert "instead of 20000" in configuration.reasons["batch_size"]
        assert "made smaller" in configuration.reasons["memory"]
    again = plan_and_preprocess(ball_dataset, workspace=folder, gpu_memory_gb=2.0, workers=0).load_plan()
    assert again.configurations == found.configurations  # a later run without measuring keeps what was found


def test_after_the_batch_the_planner_decides_for_less_memory(
    ball_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that does not even hold two of the planned patches."""

    def heavy(plan: Plan, configuration: Configuration, device: str) -> StepMemory:
        assert device == "cpu"
        voxels = math.prod(configuration.patch_size) * configuration.batch_size
        return StepMemory(gigabytes=voxels / budget, is_measured=True)

    planned = plan_and_preprocess(ball_dataset, workspace=tmp_path / "plain", gpu_memory_gb=1.0, workers=0).load_plan()
    full = planned.configuration("3d_fullres")
    budget = 1.5 * math.prod(full.patch_size)  # not even two patches
    monkeypatch.setattr("autoseg.trainers.metering.step_memory", heavy)
    plan = measured_plan(ball_dataset, tmp_path / "own", 1.0)
    found = plan.configuration("3d_fullres")
    assert heavy(plan, found, "cpu").gigabytes <= 1.0
    assert found.batch_size == 2
    assert math.prod(found.patch_size) < math.prod(full.patch_size)
    assert "x".join(map(str, full.patch_size)) in found.reasons["patch_size"]
    assert "measured on cpu" in found.reasons["memory"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_real_steps_are_measured_on_a_gpu(ball_dataset: Path, tmp_path: Path) -> None:
    space = plan_and_preprocess(
        ball_dataset, workspace=tmp_path / "own", gpu_memory_gb=8.0, measure_on="cuda:0", workers=0
    )
    for configuration in space.load_plan().configurations:
        assert "(measured on cuda:0)" in configuration.reasons["memory"]


def test_a_device_that_is_not_there_is_refused(ball_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="choose auto, cpu"):
        plan_and_preprocess(ball_dataset, workspace=tmp_path / "own", measure_on="gpu", workers=0)
    assert not Workspace(tmp_path / "own").preprocessed_dir("2d").exists()
