"""Every network's own idea solves a small task that the same network without it cannot solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.losses.factory import build_loss
from autoseg.networks.factory import build_network
from autoseg.plan import NetworkPlan

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


def dice_after_training(plan: NetworkPlan, sample: Sample, seed: int, *, steps: int, classes: int) -> float:
    """Mean Dice of the foreground classes on unseen examples."""
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
    return float(torch.stack(scores).mean())


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


@pytest.mark.slow
def test_refinement_tells_left_from_right(task_seed: int) -> None:
    refined = small_plan("scn", ((1, 1), (2, 2), (2, 2)), 8, 8, 8)
    alone = replace(refined, name="unet")
    with_it, without = (
        dice_after_training(plan, left_and_right, task_seed, steps=120, classes=2) for plan in (refined, alone)
    )
    assert with_it > 0.9
    assert with_it - without > MARGIN
    assert without < 0.65


@pytest.mark.slow
def test_position_attention_carries_news_across_the_image(task_seed: int) -> None:
    # Batch normalization: the statistics of instance normalization would carry the news as well.
    plan = replace(small_plan("maunet", ((1, 1), (2, 2), (2, 2)), 8, 16, 16), norm="batch", skip_gate="grid")

    def dice(*, attends: bool) -> float:
        chosen = replace(plan, options={"position_attention": attends})
        return dice_after_training(chosen, told_from_afar, task_seed, steps=150, classes=2)

    with_it, without = dice(attends=True), dice(attends=False)
    assert with_it > 0.8
    assert with_it - without > MARGIN
