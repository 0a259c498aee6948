from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.losses.factory import build_loss
from autoseg.networks.catalog import NETWORKS, network_rules
from autoseg.networks.factory import build_network
from autoseg.planners.network_planning import plan_network, topology_for

EDGE = 16


def balls(num: int, seed: int, ndim: int) -> tuple[Tensor, Tensor]:
    """Noisy images (n, 1, ...) of 16 voxels per axis, each with a bright ball, and their segmentations."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randint(5, 11, (num, ndim, *(1,) * ndim), generator=generator)
    radii = 2.5 + 2 * torch.rand((num, *(1,) * ndim), generator=generator)
    grid = torch.stack(torch.meshgrid(*(torch.arange(EDGE),) * ndim, indexing="ij"))
    inside = (grid - centers).square().sum(dim=1).sqrt() < radii
    images = inside.float() + 0.4 * torch.randn((num, *(EDGE,) * ndim), generator=generator)
    return images[:, None], inside[:, None].to(torch.int16)


@pytest.mark.parametrize("name", NETWORKS.names())
def test_a_tiny_network_learns_to_find_a_ball(name: str) -> None:
    torch.manual_seed(0)
    rules = network_rules(name)
    ndim = min(rules.dims)  # two axes are quick and show the same
    topology = topology_for(rules, (1.0,) * ndim, (EDGE,) * ndim)
    if topology.patch_size != (EDGE,) * ndim:
        pytest.skip(f"its smallest patch is {topology.patch_size}")
    plan = plan_network(name, rules, topology, width=max(0.25, 8 / rules.first_features))
    labels = LabelScheme.from_table({"background": 0, "ball": 1}, where="dataset.json")
    network = build_network(plan, num_channels=1, num_outputs=labels.num_outputs)
    criterion = build_loss(
        "dice_ce", labels=labels, batch_dice=True, num_scales=len(plan.output_strides), supervision=plan.supervision
    )
    steps = 60
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
    for step in range(steps):
        images, target = balls(8, seed=2 + step, ndim=ndim)
        targets = [target[(..., *(slice(s // 2, None, s) for s in stride))] for stride in plan.output_strides]
        optimizer.zero_grad()
        loss = criterion(network(images), targets)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
        schedule.step()
    network.deep_supervision = False
    unseen, reference = balls(32, seed=1, ndim=ndim)
    with torch.no_grad():
        found = network.eval()(unseen).argmax(dim=1, keepdim=True)
    dice = 2 * (found & reference).sum() / (found.sum() + reference.sum())
    assert dice > 0.85  # all of the image as foreground: about 0.3
