"""Workspaces that predict with networks that nobody trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autoseg.codec import write_json
from autoseg.fingerprint import IntensityStatistics
from autoseg.inference.ensemble import Ensemble, Member
from autoseg.inference.model import ModelRecord, write_checkpoint
from autoseg.labels import LabelScheme
from autoseg.networks.factory import build_network
from autoseg.plan import Configuration, NetworkPlan, NormalizationPlan, Plan
from autoseg.workspace import Workspace

LABELS = LabelScheme.from_table({"background": 0, "liver": 3, "big tumor": 200}, where="test")


def _make_workspace(
    folder: Path, *, ndim: int = 3, ending: str = ".nii.gz", scheme: str = "zscore", num_channels: int = 1
) -> Workspace:
    """A workspace that predicts with a network that nobody trained."""
    workspace = Workspace.create(folder, None)
    statistics = IntensityStatistics(
        mean=50, median=50, std=20, min=-100, max=200, percentile_00_5=0, percentile_99_5=100
    )
    configuration = Configuration(
        name="2d" if ndim == 2 else "3d_fullres",
        data="2d" if ndim == 2 else "3d_fullres",
        spacing=(1.0,) * ndim,
        median_shape=(12.0,) * ndim,
        patch_size=(8,) * ndim,
        batch_size=2,
        batch_dice=False,
        normalization=(NormalizationPlan(scheme=scheme, statistics=statistics if scheme == "ct" else None),)
        * num_channels,
        network=NetworkPlan(
            name="unet",
            features=(4, 8),
            strides=((1,) * ndim, (2,) * ndim),
            kernel_sizes=((3,) * ndim,) * 2,
            encoder_blocks=(1, 1),
            decoder_blocks=(1,),
        ),
    )
    plan = Plan(
        planner="unet",
        dataset="Dataset001_Test",
        channels=("CT", *(f"MR {number}" for number in range(1, num_channels))),
        labels=LABELS,
        file_ending=ending,
        gpu_memory_gb=8.0,
        gpu_memory_source="test",
        orientation="SPL" if ndim == 3 else None,
        transpose=tuple(range(ndim)),
        median_spacing=(1.0,) * ndim,
        median_shape=(12.0,) * ndim,
        configurations=(configuration,),
    )
    write_json(plan, workspace.plan_path)
    torch.manual_seed(1)
    network = build_network(configuration.network, num_channels=num_channels, num_outputs=3)
    record = ModelRecord(
        configuration=configuration,
        labels=LABELS,
        num_channels=num_channels,
        mirror_axes=(),
        iterations=0,
        plan_digest="",
    )
    write_checkpoint(workspace.run(configuration.name, 0).final, record=record, weights=network.state_dict())
    ensemble = Ensemble(members=(Member(configuration=configuration.name, folds=(0,)),), selection="given")
    write_json(ensemble, workspace.ensemble_path)
    return workspace


@pytest.fixture
def make_workspace() -> Callable[..., Workspace]:
    """Factory of workspaces."""
    return _make_workspace


@pytest.fixture(scope="session")
def untrained_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One for three dimensions; shared, never write to it."""
    return _make_workspace(tmp_path_factory.mktemp("untrained"))
