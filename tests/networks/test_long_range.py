"""Networks made to look far solve a task that needs it, and fail it when that is switched off."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.networks.factory import build_network
from autoseg.networks.hanc import HancBlock
from autoseg.networks.scnas import EXPANSION, SearchedCell
from autoseg.plan import NetworkPlan

SHAPE = (40, 16)
EDGE = 3


def marked_squares(num: int, seed: int, *, distance: int) -> tuple[Tensor, Tensor]:
    """Images (n, 1, y, x) of two equal squares side by side, one of them ``distance`` voxels below a marker.

    The marked one is the foreground of the segmentations (n, y, x): without the marker in sight, both look the same.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = SHAPE

    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (num, 1, 1), generator=generator)

    rows, left, right = draw(distance, height - EDGE), draw(1, width // 2 - EDGE), draw(width // 2 + 1, width - EDGE)
    marked = torch.where(draw(0, 2) == 0, left, right)
    y, x = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]

    def square(row: Tensor, column: Tensor) -> Tensor:
        return (y >= row) & (y < row + EDGE) & (x >= column) & (x < column + EDGE)

    squares = square(rows, left) | square(rows, right)
    noise = 0.1 * torch.randn((num, *SHAPE), generator=generator)
    images = noise + squares.float() + 2 * square(rows - distance, marked).float()
    return images[:, None], square(rows, marked).long()


class HancStack(nn.Module):
    """Two HANC blocks and an output layer: nothing else of ACC-UNet, whose skips and stages look far as well."""

    def __init__(self, *, looks_far: bool) -> None:
        super().__init__()
        reach = 3 if looks_far else 1
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 1),
            HancBlock(8, 8, kernel_size=(3, 3), reach=reach),
            HancBlock(8, 8, kernel_size=(3, 3), reach=reach),
            nn.Conv2d(8, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class CellStack(nn.Module):
    """Three of SCNAS's cells and an output layer, at one resolution: the network's strides look far as well."""

    def __init__(self, *, looks_far: bool) -> None:
        super().__init__()
        width, joined = 6, 18
        self.stem = nn.Conv2d(1, joined, 1)
        self.cells = nn.ModuleList(
            [
                SearchedCell(
                    EXPANSION,
                    num_before=joined,
                    num_last=joined,
                    num_features=width,
                    kernel_size=(3, 3),
                    stride=(1, 1),
                    before_is_finer=False,
                    has_dilation=looks_far,
                )
                for _ in range(3)
            ]
        )
        self.head = nn.Conv2d(joined, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        before = last = self.stem(x)
        for cell in self.cells:
            before, last = last, cell(before, last)
        out: Tensor = self.head(last)
        return out


def large_kernels(name: str, features: tuple[int, int], step: int, *, looks_far: bool) -> nn.Module:
    """A network of two stages, its depth-wise kernels of 7 voxels or of 1."""
    kernel = 7 if looks_far else 1
    plan = NetworkPlan(
        name=name,
        features=features,
        strides=((1, 1), (step, step)),
        kernel_sizes=((3, 3), (kernel, kernel)),
        encoder_blocks=(1, 2),
        decoder_blocks=(1,),
        deep_supervision=False,
        options={"initial_scale": 1.0} if name == "uxnet" else {},
    )
    return build_network(plan, num_channels=1, num_outputs=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Idea:
    """What makes a network look far.

    Args:
        build: Makes the network with it or without it.
        distance: Between square and marker: in the reach of the one, out of the reach of the other.
        steps: How long to train.
        rate: Largest learning rate.
    """

    build: Callable[..., nn.Module]
    distance: int
    steps: int
    rate: float


IDEAS = {
    "large kernels of uxnet": Idea(build=partial(large_kernels, "uxnet", (8, 16), 2), distance=9, steps=120, rate=0.01),
    "large kernels of unetcnx": Idea(
        build=partial(large_kernels, "unetcnx", (12, 12), 4), distance=7, steps=120, rate=0.01
    ),
    "pooled neighborhoods of acc_unet": Idea(build=HancStack, distance=6, steps=150, rate=0.02),
    "dilated cells of scnas": Idea(build=CellStack, distance=6, steps=150, rate=0.02),
}


def dice_after_training(idea: Idea, seed: int, *, looks_far: bool) -> float:
    torch.manual_seed(seed)
    network = idea.build(looks_far=looks_far)
    optimizer = torch.optim.AdamW(network.parameters(), lr=idea.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, idea.rate, total_steps=idea.steps, pct_start=0.2)
    for step in range(idea.steps):
        images, target = marked_squares(8, seed=1000 * (seed + 1) + step, distance=idea.distance)
        logits = network(images)
        foreground = logits.softmax(dim=1)[:, 1]
        overlap = 2 * (foreground * target).sum() + 1
        loss = F.cross_entropy(logits, target) + 1 - overlap / (foreground.sum() + target.sum() + 1)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
        schedule.step()
    images, target = marked_squares(64, seed=seed, distance=idea.distance)
    with torch.no_grad():
        found = network.eval()(images).argmax(dim=1)
    return float(2 * (found & target).sum() / (found.sum() + target.sum()))


@pytest.mark.slow
@pytest.mark.parametrize("name", IDEAS)
def test_what_makes_a_network_look_far_solves_a_task_that_needs_it(name: str, task_seed: int) -> None:
    idea = IDEAS[name]
    with_it = dice_after_training(idea, task_seed, looks_far=True)
    without = dice_after_training(idea, task_seed, looks_far=False)
    sys.stdout.write(f"{name}, seed {task_seed}: {with_it:.2f} with, {without:.2f} without\n")
    assert with_it > 0.9
    assert without < with_it - 0.1


def test_the_squares_alone_do_not_tell() -> None:
    """Calling both squares foreground, the best that one can do without the marker, scores two thirds."""
    images, target = marked_squares(50, seed=0, distance=8)
    bright = (images[:, 0] > 0.5) & (images[:, 0] < 1.5)
    assert float(2 * (bright & (target > 0)).sum() / (bright.sum() + target.sum())) == pytest.approx(2 / 3, abs=0.02)
    assert target.sum(dim=(1, 2)).tolist() == [EDGE**2] * 50
