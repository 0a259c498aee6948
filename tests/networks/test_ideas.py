"""Every network's own idea solves a small task that the same network without it cannot solve.

    pytest -n0 -rP --seeds 3 tests/networks/test_ideas.py tests/networks/test_long_range.py

prints the Dice with and without each idea for three seeds; the suite itself runs one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.losses.factory import build_loss
from autoseg.networks.base import SegmentationNetwork
from autoseg.networks.catalog import network_rules
from autoseg.networks.factory import build_network
from autoseg.plan import NetworkPlan
from autoseg.planners.network_planning import plan_network, topology_for

MARGIN = 0.1  # of Dice, by which the idea must win

Sample = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""Number of examples, source of randomness -> images (n, c, ...), labels (n, 1, ...)."""


def small_plan(name: str, strides: tuple[tuple[int, ...], ...], *features: int) -> NetworkPlan:
    ndim, stages = len(strides[0]), len(strides)
    return NetworkPlan(
        name=name,
        features=features,
        strides=strides,
        kernel_sizes=((3,) * ndim,) * stages,
        encoder_blocks=(1,) * stages,
        decoder_blocks=(1,) * (stages - 1),
        deep_supervision=False,
    )


def trained(plan: NetworkPlan, sample: Sample, seed: int, *, steps: int, classes: int) -> tuple[float, list[float]]:
    """Mean Dice of the foreground classes on unseen examples, and how much each gate attends to them."""
    torch.manual_seed(seed)
    labels = LabelScheme.from_table(
        {"background": 0, **{f"c{value}": value for value in range(1, classes + 1)}}, where="test"
    )
    generator = torch.Generator().manual_seed(seed)
    num_channels = sample(1, generator)[0].shape[1]
    network = build_network(plan, num_channels=num_channels, num_outputs=classes + 1)
    criterion = build_loss("dice_ce", labels=labels, batch_dice=True, num_scales=1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for _ in range(steps):
        images, target = sample(8, generator)
        optimizer.zero_grad()
        criterion([network(images)], [target]).backward()
        optimizer.step()
        schedule.step()
    images, target = sample(16, torch.Generator().manual_seed(1000 + seed))
    with torch.no_grad():
        found = network.eval()(images).argmax(dim=1, keepdim=True)
    scores = [
        2 * ((found == c) & (target == c)).sum() / ((found == c).sum() + (target == c).sum())
        for c in range(1, classes + 1)
    ]
    with torch.no_grad():
        return float(torch.stack(scores).mean()), attention_on_object(network, images, target)


def with_and_without(
    idea: str, plans: tuple[NetworkPlan, NetworkPlan], sample: Sample, seed: int, *, steps: int, classes: int
) -> tuple[float, float]:
    """Dice of two networks, the first of which has the idea; printed too."""
    with_it, without = (trained(plan, sample, seed, steps=steps, classes=classes)[0] for plan in plans)
    sys.stdout.write(f"{idea}, seed {seed}: {with_it:.2f} with, {without:.2f} without\n")
    return with_it, without


def left_and_right(num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two equal disks side by side: the left one is class 1, the right one class 2."""
    images, labels = torch.zeros(num, 1, 48, 64), torch.zeros(num, 1, 48, 64, dtype=torch.int16)
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
    for i in range(num):
        row = torch.randint(16, 32, (1,), generator=generator)
        column = torch.randint(12, 28, (1,), generator=generator)
        for label, shift in ((1, 0), (2, 22)):
            disk = (rows - row).square() + (columns - column - shift).square() <= 16
            images[i, 0][disk] = 1
            labels[i, 0][disk] = label
    return images + 0.1 * torch.randn(images.shape, generator=generator), labels


def told_from_afar(num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Squares at the right whose class a mark at the far left tells."""
    images, labels = torch.zeros(num, 1, 16, 96), torch.zeros(num, 1, 16, 96, dtype=torch.int16)
    for i in range(num):
        kind = int(torch.randint(1, 3, (1,), generator=generator))
        row, column = (int(n) for n in torch.randint(2, 10, (2,), generator=generator))
        images[i, 0, row : row + 4, 80 - column : 84 - column] = 1
        labels[i, 0, row : row + 4, 80 - column : 84 - column] = kind
        mark = int(torch.randint(0, 12, (1,), generator=generator))
        images[i, 0, mark : mark + 4, 2:6] = 2.0 if kind == 1 else -2.0
    return images + 0.1 * torch.randn(images.shape, generator=generator), labels


def seen_again_above(num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Squares on a grid in every slice; those are labeled under which the next slice has one as well."""
    cells = (torch.rand(num, 1, 6, 4, 4, generator=generator) < 0.4).float()
    above = torch.cat((cells[:, :, 1:], torch.zeros_like(cells[:, :, :1])), dim=2)
    square = torch.zeros(8, 8)
    square[2:6, 2:6] = 1

    def drawn(which: Tensor) -> Tensor:
        return torch.kron(which, square)

    images = drawn(cells)
    return images + 0.1 * torch.randn(images.shape, generator=generator), drawn(cells * above).to(torch.int16)


def distractors(num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Seven equal squares; the one on a dim field is labeled, the others lie far from it."""
    images, labels = torch.zeros(num, 1, 64, 64), torch.zeros(num, 1, 64, 64, dtype=torch.int16)
    for i in range(num):
        row, column = (int(n) for n in torch.randint(8, 48, (2,), generator=generator))
        images[i, 0, max(0, row - 8) : row + 12, max(0, column - 8) : column + 12] = 0.5
        images[i, 0, row : row + 4, column : column + 4] = 1.5
        labels[i, 0, row : row + 4, column : column + 4] = 1
        placed = 0
        while placed < 6:
            y, x = (int(n) for n in torch.randint(0, 60, (2,), generator=generator))
            if abs(y - row) > 14 or abs(x - column) > 14:
                images[i, 0, y : y + 4, x : x + 4] = 1.5
                placed += 1
    return images + 0.2 * torch.randn(images.shape, generator=generator), labels


def attention_on_object(network: torch.nn.Module, images: Tensor, labels: Tensor) -> list[float]:
    """Of every gate: its mean attention on the object in that elsewhere."""
    _, taps = cast("SegmentationNetwork", network).forward_features(images)
    ratios = []
    for name, attention in taps.items():
        if name.startswith("attention"):
            on_image = torch.nn.functional.interpolate(attention.float(), images.shape[2:], mode="bilinear")
            ratios.append(float(on_image[labels > 0].mean() / on_image[labels == 0].mean()))
    return ratios


@pytest.mark.slow
def test_refinement_tells_left_from_right(task_seed: int) -> None:
    refined = small_plan("scn", ((1, 1), (2, 2), (2, 2)), 8, 8, 8)
    plans = (refined, replace(refined, name="unet"))
    with_it, without = with_and_without("scn", plans, left_and_right, task_seed, steps=120, classes=2)
    assert with_it > 0.9
    assert with_it - without > MARGIN
    assert without < 0.65


@pytest.mark.slow
def test_position_attention_carries_news_across_the_image(task_seed: int) -> None:
    # Batch normalization: the statistics of instance normalization would carry the news as well.
    plan = replace(small_plan("maunet", ((1, 1), (2, 2), (2, 2)), 8, 16, 16), norm="batch", skip_gate="grid")
    plans = (plan, replace(plan, options={"position_attention": False}))
    with_it, without = with_and_without("position attention", plans, told_from_afar, task_seed, steps=150, classes=2)
    assert with_it > 0.8
    assert with_it - without > MARGIN


@pytest.mark.slow
def test_links_tell_what_the_next_slice_shows(task_seed: int) -> None:
    rules = network_rules("spine_hybrid")
    plan = plan_network("spine_hybrid", rules, topology_for(rules, (4.0, 1.0, 1.0), (6, 32, 32)), width=0.5)
    plan = replace(plan, deep_supervision=False)
    with_links, without_links = (
        replace(plan, options={"link": link, "slice_convolutions": False}) for link in ("hanc", "none")
    )
    plans = (with_links, without_links)
    with_it, without = with_and_without("links", plans, seen_again_above, task_seed, steps=60, classes=1)
    assert with_it > 0.9
    assert with_it - without > 0.2


@pytest.mark.slow
def test_gates_attend_to_the_object_among_its_likes(task_seed: int) -> None:
    plan = replace(small_plan("unet", ((1, 1), (2, 2), (2, 2)), 8, 16, 16), skip_gate="grid")
    dice, ratios = trained(plan, distractors, task_seed, steps=120, classes=1)
    assert dice > 0.95
    assert ratios[0] > 1.3
