"""Forecasts against what then happens: bytes on the disk, multiplications of the network, and warnings."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from autoseg.codec import read_json
from autoseg.fingerprint import Fingerprint
from autoseg.networks.factory import build_network
from autoseg.pipeline.forecast import Forecast, make_forecast, step_flops
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.workspace import Workspace


@pytest.fixture(scope="module")
def prepared(ball_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("forecast") / "own"
    return plan_and_preprocess(ball_dataset, workspace=folder, gpu_memory_gb=0.2, workers=0)


def test_the_disk_holds_what_was_forecast(prepared: Workspace) -> None:
    forecast = read_json(Forecast, prepared.forecast_path)
    found = sum(path.stat().st_size for path in prepared.root.glob("preprocessed/*/*.b2nd"))
    assert 0.6 < found / forecast.disk_bytes < 1.4
    assert forecast.disk_free > forecast.disk_bytes
    assert all(c.hours_per_fold is None or c.hours_per_fold > 0 for c in forecast.configurations)


@pytest.mark.parametrize("planner", ["unet", "resenc_m"])
def test_multiplications_are_those_of_the_networks_convolutions(prepared: Workspace, planner: str) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    space = prepared
    if planner != "unet":
        plan_and_preprocess(space.dataset_root, workspace=space.root, planner=planner, gpu_memory_gb=0.2, workers=0)
    plan = space.load_plan()
    configuration = plan.configuration("3d_fullres" if planner == "unet" else f"3d_fullres@{planner}")
    network = build_network(configuration.network, num_channels=1, num_outputs=3)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 1, *configuration.patch_size))
    forward = step_flops(configuration, 1) / 3 / configuration.batch_size
    assert forward == pytest.approx(counter.get_total_flops(), rel=0.15)


def test_what_will_not_suffice_is_said(prepared: Workspace) -> None:
    plan = prepared.load_plan()
    fingerprint = read_json(Fingerprint, prepared.fingerprint_path)
    forecast = make_forecast(plan, plan.configurations, fingerprint, prepared.root, workers=2, has_gpu=True)
    assert not forecast.warnings()
    assert all(c.hours_per_fold is None for c in forecast.configurations)
    short = replace(forecast, disk_free=10, memory_available=10)
    assert ["disk" in w or "memory" in w for w in short.warnings()] == [True, True]
    many = make_forecast(plan, plan.configurations, fingerprint, prepared.root, workers=8, has_gpu=True)
    assert many.memory_bytes > forecast.memory_bytes
    assert math.isfinite(many.memory_bytes)
