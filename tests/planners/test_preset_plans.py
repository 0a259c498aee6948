"""Presets planned on images as large as those of their sources: patch, stages, feature maps and weights published."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from torch import nn

from autoseg.dataset import Dataset
from autoseg.errors import SettingsError
from autoseg.fingerprint import Fingerprint
from autoseg.networks.catalog import NETWORKS, planned_rules
from autoseg.networks.rules import option_names, with_choices
from autoseg.pipeline.intensities import parse_intensities
from autoseg.plan import Configuration
from autoseg.planners.unet import UNetPlanner
from autoseg.planning import NetworkRequest, PlannerBudget
from autoseg.preprocessing.normalization import normalize
from autoseg.presets import PRESETS

Grid = tuple[Sequence[float], Sequence[int]]
Planned = Callable[..., Configuration]


@pytest.fixture
def planned(make_fingerprint: Callable[..., Fingerprint], make_dataset: Callable[..., Dataset]) -> Planned:
    def plan(name: str, grid: Grid, *, num_labels: int, memory_gb: float = 24.0) -> Configuration:
        preset = PRESETS[name]
        request = NetworkRequest(
            name=preset.network.value,
            label=name,
            options=tuple(option.value for option in preset.network_options),
            patch=None if preset.patch is None else preset.patch.value,
            bases=(preset.configuration,),
        )
        budget = PlannerBudget(
            gpu_memory_gb=memory_gb,
            gpu_memory_source="test",
            spacing=None if preset.spacing is None else preset.spacing.value,
            intensities=() if preset.normalization is None else (parse_intensities(preset.normalization.value),),
            network=request,
        )
        dataset = make_dataset(num_labels=num_labels, num_cases=100)
        return UNetPlanner().plan(dataset, make_fingerprint([grid] * 3), budget).configuration(preset.stored_as)

    return plan


def weights(configuration: Configuration, *, num_outputs: int) -> int:
    network = NETWORKS.get(configuration.network.name)(configuration.network, num_channels=1, num_outputs=num_outputs)
    assert isinstance(network, nn.Module)
    return sum(parameter.numel() for parameter in network.parameters())


def test_aicup(planned: Planned) -> None:
    found = planned("aicup", ((0.5, 0.4, 0.4), (300, 512, 512)), num_labels=4)
    assert found.spacing == (1.0, 0.7, 0.7)
    assert found.patch_size == (120, 128, 128)
    assert found.network.features == (64, 128, 256, 256)
    assert weights(found, num_outputs=4) == 5_105_476
    hounsfield = np.random.default_rng(0).uniform(-1000, 2000, (1, 4, 5, 6)).astype(np.float32)
    seen = normalize(hounsfield.copy(), found.normalization, np.zeros(hounsfield.shape[1:], bool))
    np.testing.assert_allclose(seen, (np.clip(hounsfield, -42, 423) + 42) / 465, atol=1e-6)


def test_mnms2(planned: Planned) -> None:
    found = planned("mnms2", ((10.0, 1.25, 1.25), (10, 256, 256)), num_labels=4)
    assert found.patch_size == (256, 256)
    assert found.network.features == (32, 64, 128, 256, 480, 480, 480)
    assert len(found.network.output_strides) == 6  # heads of 256 to 8 pixels
    assert found.batch_dice
    assert weights(found, num_outputs=4) == 29_968_992


def test_cm_trancaf(planned: Planned) -> None:
    found = planned("cm_trancaf", ((1.0, 0.6, 0.6), (300, 512, 512)), num_labels=8)
    assert found.spacing == (3.0, 3.0, 3.0)
    assert found.patch_size == (64, 64, 64)
    assert found.network.features == (32, 64, 128, 256)  # four levels
    assert not found.network.deep_supervision
    assert found.network.encoder_blocks == (1, 1, 1, 1)  # of residual blocks
    network = NETWORKS.get("scn")(found.network, num_channels=1, num_outputs=8)
    names = {type(module).__name__ for module in network.modules()}
    assert {"MAUNet", "PositionAttention", "SpatialConfiguration"} <= names
    assert any("gate" in name for name, _ in network.named_modules())


def test_spine(planned: Planned) -> None:
    found = planned("spine", ((4.4, 0.34, 0.34), (12, 880, 880)), num_labels=2)
    assert found.patch_size == (12, 128, 128)
    assert all(stride[0] == 1 for stride in found.network.strides)
    assert found.network.features[0] == 16
    network = NETWORKS.get("spine_hybrid")(found.network, num_channels=1, num_outputs=2)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv3d))
    assert first.kernel_size == (1, 27, 27)


def test_a_refined_network_is_planned_by_its_own_rules() -> None:
    inside = planned_rules("scn", ("refines=unetcnx",))
    alone = planned_rules("unetcnx", ())
    assert (inside.stages, inside.feature_ratios, inside.heeds) == (alone.stages, alone.feature_ratios, alone.heeds)
    assert inside.builder == planned_rules("scn", ()).builder
    assert "drop_path" in option_names(inside)
    assert planned_rules("scn", ()).max_stages == planned_rules("unet", ()).max_stages


def test_limits_are_planned_and_wrong_ones_refused(planned: Planned) -> None:
    limited = planned_rules("unet", ("max_features=48", "max_stages=3", "norm=batch"))
    assert limited.features(3, 2) == (32, 48, 48)
    assert limited.max_stages == 3
    for wrong in ("max_features=0", "max_stages=none", "max_stages=2.5"):
        with pytest.raises(SettingsError, match="--network-option max_"):
            planned_rules("unet", (wrong,))
    assert "max_stages" not in planned_rules("spine_hybrid", ()).sizes  # its stages are its own


@pytest.mark.parametrize("is_on", [True, False])
def test_options_of_the_refined_network_reach_it(planned: Planned, is_on: bool) -> None:
    found = planned("cm_trancaf", ((3.0, 3.0, 3.0), (48, 48, 48)), num_labels=3)
    choices = ("refines=maunet", f"position_attention={str(is_on).lower()}")
    plan = with_choices(found.network, planned_rules("scn", choices), choices)
    network = NETWORKS.get("scn")(plan, num_channels=1, num_outputs=3)
    assert any(type(module).__name__ == "PositionAttention" for module in network.modules()) is is_on
    with pytest.raises(SettingsError, match="no option 'column'"):
        with_choices(found.network, planned_rules("scn", choices), ("column=2",))
