"""The score between epochs: Dice over a fixed set of patches of the held-out cases, cheap and comparable."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from autoseg.communication import sum_over_ranks
from autoseg.data.loading import Batch
from autoseg.labels import LabelScheme
from autoseg.losses.targets import separate_ignored
from autoseg.ranks import ALONE, Ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchScore:
    """Result of a validation pass.

    Args:
        loss: Mean loss of the batches.
        dice: Mean over targets of the Dice summed over all patches (nnU-Net's pseudo Dice); 0 when no target occurs.
    """

    loss: float
    dice: float


@torch.no_grad()
def validate(
    network: nn.Module,
    batches: Iterable[Batch],
    *,
    labels: LabelScheme,
    forward: Callable[[torch.Tensor], list[torch.Tensor]],
    criterion: nn.Module,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> PatchScore:
    """Score a network on batches without changing it.

    Args:
        network: In any mode; left in training mode.
        batches: Patches without augmentation.
        labels: What the outputs mean.
        forward: Network call under the run's precision, images (b,c,...) to outputs per scale.
        criterion: The training loss.
        device: Where to compute.
        ranks: Processes that take turns, each with batches of its own.
    """
    network.eval()
    losses: list[torch.Tensor] = []
    counts = torch.zeros(3, len(labels.targets), dtype=torch.int64, device=device)  # intersection, predicted, true
    for batch in batches:
        targets = [t.to(device, non_blocking=True) for t in batch.targets]
        outputs = forward(batch.images.to(device, non_blocking=True))
        losses.append(criterion(outputs, targets).detach())
        counts += _counts(outputs[0].float(), targets[0], labels)
    network.train()
    total = torch.stack(losses).cpu().double().sum() if losses else torch.tensor(0.0, dtype=torch.float64)
    loss, num = sum_over_ranks(ranks, torch.stack([total, total.new_tensor(len(losses))]))
    intersection, predicted, true = sum_over_ranks(ranks, counts.cpu().double())
    occurs = (predicted + true) > 0
    dice = (2 * intersection / (predicted + true).clamp(min=1))[occurs]
    return PatchScore(loss=float(loss / num), dice=float(dice.mean()) if occurs.any() else 0.0)


def _counts(output: torch.Tensor, target: torch.Tensor, labels: LabelScheme) -> torch.Tensor:
    """Voxels of (intersection, prediction, reference) per target, (3, t)."""
    target, counting = separate_ignored(target, labels)
    if labels.has_regions:
        predicted, true = output > 0, target > 0
    else:
        channels = torch.arange(1, output.shape[1], device=output.device).view(1, -1, *[1] * (output.ndim - 2))
        predicted, true = output.argmax(dim=1, keepdim=True) == channels, target == channels
    if counting is not None:
        predicted, true = predicted & counting, true & counting
    axes = (0, *range(2, output.ndim))
    return torch.stack([(predicted & true).sum(axes), predicted.sum(axes), true.sum(axes)])
