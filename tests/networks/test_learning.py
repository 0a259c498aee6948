from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.losses.factory import build_loss
from autoseg.networks.catalog import NETWORKS, network_rules
from autoseg.networks.factory import build_network
from autoseg.planners.network_planning import plan_network, topology_for


def balls(num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy volumes (n, 1, 16, 16, 16), each with a bright ball, and their segmentations."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randint(5, 11, (num, 3, 1, 1, 1), generator=generator)
    radii = 2.5 + 2 * torch.rand((num, 1, 1, 1), generator=generator)
    grid = torch.stack(torch.meshgrid(*(torch.arange(16),) * 3, indexing="ij"))
    inside = (grid - centers).square().sum(dim=1).sqrt() < radii
    images = inside.float() + 0.4 * torch.randn((num, 16, 16, 16), generator=generator)
    return images[:, None], inside[:, None].to(torch.int16)


@pytest.mark.parametrize("name", NETWORKS.names())
def test_a_tiny_network_learns_to_find_a_ball(name: str) -> None:
    torch.manual_seed(0)
    rules = network_rules(name)
    topology = topology_for(rules, (1.0, 1.0, 1.0), (16, 16, 16))
    if topology.patch_size != (16, 16, 16):
        pytest.skip(f"its smallest patch is {topology.patch_size}")
    plan = plan_network(name, rules, topology, width=0.25)
    labels = LabelScheme.from_table({"background": 0, "ball": 1}, where="dataset.json")
    network = build_network(plan, num_channels=1, num_outputs=labels.num_outputs)
    criterion = build_loss(
        "dice_ce", labels=labels, batch_dice=True, num_scales=len(plan.output_strides), supervision=plan.supervision
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    images, target = balls(4, seed=0)
    targets = [target[(..., *(slice(step // 2, None, step) for step in stride))] for stride in plan.output_strides]
    for _ in range(40):
        optimizer.zero_grad()
        loss = criterion(network(images), targets)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
    network.deep_supervision = False
    unseen, reference = balls(4, seed=1)
    with torch.no_grad():
        found = network(unseen).argmax(dim=1, keepdim=True)
    dice = 2 * (found & reference).sum() / (found.sum() + reference.sum())
    assert dice > 0.9
