"""The memory of a training step is found without computing it; here it is computed as well."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.networks.catalog import NETWORKS, network_rules
from autoseg.networks.factory import build_network
from autoseg.networks.memory import estimate_memory
from autoseg.plan import NetworkPlan
from autoseg.planners.network_planning import plan_network, topology_for

LABELS = LabelScheme.from_table({"background": 0, "a": 1, "b": 2}, where="test")


def planned(name: str, size: tuple[int, ...], *, width: float = 0.25) -> tuple[NetworkPlan, tuple[int, ...]]:
    rules = network_rules(name)
    topology = topology_for(rules, (1.0,) * len(size), size)
    return plan_network(name, rules, topology, width=width), topology.patch_size


def really_saved(plan: NetworkPlan, patch_size: tuple[int, ...], batch_size: int) -> int:
    """Bytes of the distinct storages that a real forward pass keeps for the backward pass."""
    torch.manual_seed(0)
    network = build_network(plan, num_channels=1, num_outputs=LABELS.num_outputs)
    images = torch.randn(batch_size, 1, *patch_size)
    there_anyway = {t.untyped_storage().data_ptr() for t in (*network.parameters(), *network.buffers(), images)}
    kept: dict[int, tuple[Tensor, int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in there_anyway:
            kept[storage.data_ptr()] = (tensor.detach(), storage.nbytes())  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = network(images)
    for output in [outputs] if isinstance(outputs, Tensor) else outputs:  # the loss waits for them
        storage = output.untyped_storage()
        kept[storage.data_ptr()] = (output.detach(), storage.nbytes())
    return sum(size for _, size in kept.values())


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", NETWORKS.names())
def test_estimated_feature_maps_are_the_real_ones(name: str, ndim: int) -> None:
    if ndim not in network_rules(name).dims:
        pytest.skip(f"{name} has no {ndim}D form")
    plan, patch_size = planned(name, (32,) * ndim)
    found = estimate_memory(
        plan, patch_size=patch_size, batch_size=2, num_channels=1, labels=LABELS, precision="float32"
    )
    assert found.saved == pytest.approx(really_saved(plan, patch_size, 2), rel=0.1)
    assert found.peak > found.saved


@pytest.mark.parametrize("name", ["unet", "maunet", "unet_plus_plus"])
def test_memory_grows_by_the_same_amount_with_every_patch(name: str) -> None:
    plan, patch_size = planned(name, (32, 32))
    few, more, most = (
        estimate_memory(plan, patch_size=patch_size, batch_size=batch, num_channels=2, labels=LABELS).saved
        for batch in (2, 4, 8)
    )
    assert most - more == pytest.approx(2 * (more - few), rel=0.01)
    assert more > few


def test_checkpointing_and_half_precision_save_memory() -> None:
    plan, patch_size = planned("unet", (64, 64, 64))

    def gigabytes(**changes: bool) -> tuple[int, int]:
        found = [
            estimate_memory(
                replace(plan, **changes),  # type: ignore[arg-type]
                patch_size=patch_size,
                batch_size=2,
                num_channels=1,
                labels=LABELS,
                precision=precision,
            ).peak
            for precision in ("half", "float32")
        ]
        return found[0], found[1]

    (half, full), (half_again, full_again) = gigabytes(), gigabytes(checkpointing=True)
    assert half < 0.65 * full
    assert half_again < 0.9 * half
    assert full_again < 0.9 * full


def test_many_classes_cost_memory() -> None:
    plan, patch_size = planned("unet", (32, 32, 32))
    many = LabelScheme.from_table({"background": 0, **{f"l{i}": i for i in range(1, 100)}}, where="test")
    few, more = (
        estimate_memory(plan, patch_size=patch_size, batch_size=2, num_channels=1, labels=labels).peak
        for labels in (LABELS, many)
    )
    # Logits, their softmax and their gradients, in float32, of 97 more classes.
    assert more - few > 3 * 97 * 2 * 32**3 * 4


def test_the_estimate_of_the_default_network_is_within_its_budget() -> None:
    """nnU-Net's 3D network on 128 voxels with two patches trains in 8 GB."""
    plan, patch_size = planned("unet", (128, 128, 128), width=1.0)
    found = estimate_memory(plan, patch_size=patch_size, batch_size=2, num_channels=1, labels=LABELS)
    assert patch_size == (128, 128, 128)
    assert 4 < found.gigabytes < 8


@pytest.mark.parametrize("name", ["unet", "scnas"])
def test_a_step_of_four_subvolumes_of_128_voxels(name: str) -> None:
    """The step that SCNAS and its baseline were published with, on tensors without values."""
    plan, patch_size = planned(name, (128, 128, 128), width=1.0)
    assert patch_size == (128, 128, 128)
    found = estimate_memory(plan, patch_size=patch_size, batch_size=4, num_channels=1, labels=LABELS)
    assert found.gigabytes < 80
