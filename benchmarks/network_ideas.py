"""Every network's own idea solves a small task that the same network without it cannot solve.

Prints the Dice with and without the idea, three seeds each:

    python benchmarks/network_ideas.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.losses.factory import build_loss
from autoseg.networks.base import SegmentationNetwork
from autoseg.networks.catalog import network_rules
from autoseg.networks.factory import build_network
from autoseg.plan import NetworkPlan
from autoseg.planners.network_planning import plan_network, topology_for

SEEDS = (0, 1, 2)

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
    return trained(plan, sample, seed, steps=steps, classes=classes)[0]


def trained(
    plan: NetworkPlan, sample: Sample, seed: int, *, steps: int, classes: int, num_channels: int | None = None
) -> tuple[float, list[float]]:
    """Mean Dice of the foreground classes on unseen examples, and how much each gate attends to them."""
    torch.manual_seed(seed)
    labels = LabelScheme.from_table(
        {"background": 0, **{f"c{value}": value for value in range(1, classes + 1)}}, where="test"
    )
    generator = torch.Generator().manual_seed(seed)
    if num_channels is None:
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


def main() -> None:
    """Train every pair and print what came of it."""
    torch.set_num_threads(1)
    refined = small_plan("scn", ((1, 1), (2, 2), (2, 2)), 8, 8, 8)
    rules = network_rules("spine_hybrid")
    spine = plan_network("spine_hybrid", rules, topology_for(rules, (4.0, 1.0, 1.0), (6, 32, 32)), width=0.5)
    spine = replace(spine, deep_supervision=False)
    # Batch normalization: the statistics of instance normalization would carry news across the image as well.
    attends = replace(small_plan("maunet", ((1, 1), (2, 2), (2, 2)), 8, 16, 16), norm="batch", skip_gate="grid")
    tasks: list[tuple[str, NetworkPlan, NetworkPlan, Sample, int, int]] = [
        ("scn: left and right", refined, replace(refined, name="unet"), left_and_right, 120, 2),
        (
            "maunet: told from afar",
            attends,
            replace(attends, options={"position_attention": False}),
            told_from_afar,
            150,
            2,
        ),
        (
            "spine_hybrid: seen again above",
            replace(spine, options={"link": "hanc", "slice_convolutions": False}),
            replace(spine, options={"link": "none", "slice_convolutions": False}),
            seen_again_above,
            100,
            1,
        ),
    ]
    for name, with_it, without, sample, steps, classes in tasks:
        for seed in SEEDS:
            found = [dice_after_training(p, sample, seed, steps=steps, classes=classes) for p in (with_it, without)]
            print(f"{name}, seed {seed}: {found[0]:.3f} with, {found[1]:.3f} without", flush=True)
    for features, steps in (((8, 16, 16), 120), ((8, 16, 16), 60), ((4, 8, 8), 120)):
        plain = small_plan("unet", ((1, 1), (2, 2), (2, 2)), *features)
        for seed in SEEDS:
            dice, ratios = trained(
                replace(plain, skip_gate="grid"), distractors, seed, steps=steps, classes=1, num_channels=1
            )
            without_gates, _ = trained(plain, distractors, seed, steps=steps, classes=1, num_channels=1)
            print(
                f"gates: distractors, features {features}, {steps} steps, seed {seed}: {dice:.3f} with, "
                f"{without_gates:.3f} without, attention {ratios[0]:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
