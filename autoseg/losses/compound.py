"""Sums of losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autoseg.labels import LabelScheme
from autoseg.losses.cross_entropy import CrossEntropyLoss
from autoseg.losses.dice import SoftDiceLoss


class DiceCrossEntropyLoss(nn.Module):
    """Cross-entropy plus soft Dice, both with weight one: nnU-Net's loss, -1 at best.

    Args:
        labels: What the outputs mean.
        batch_dice: Whether the Dice sums over the batch before it divides.
    """

    def __init__(self, *, labels: LabelScheme, batch_dice: bool) -> None:
        super().__init__()
        self.cross_entropy = CrossEntropyLoss(labels=labels)
        self.dice = SoftDiceLoss(labels=labels, batch_dice=batch_dice)

    @property
    def is_mean_over_samples(self) -> bool:
        """Whether the loss of a batch is the mean of the losses of its patches."""
        return self.cross_entropy.is_mean_over_samples and self.dice.is_mean_over_samples

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: (b, k, ...).
            target: (b, 1, ...) or (b, r, ...), see :mod:`autoseg.losses.targets`.
        """
        loss: Tensor = self.cross_entropy(logits, target) + self.dice(logits, target)
        return loss


class WeightedSumLoss(nn.Module):
    """Sum of losses, each with its weight.

    Args:
        terms: Weight and loss.
    """

    def __init__(self, terms: Sequence[tuple[float, nn.Module]]) -> None:
        super().__init__()
        self.weights = tuple(weight for weight, _ in terms)
        self.losses = nn.ModuleList(loss for _, loss in terms)

    @property
    def is_mean_over_samples(self) -> bool:
        """Whether the loss of a batch is the mean of the losses of its patches; a loss that does not say is not."""
        return all(bool(getattr(loss, "is_mean_over_samples", False)) for loss in self.losses)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: (b, k, ...).
            target: (b, 1, ...) or (b, r, ...), see :mod:`autoseg.losses.targets`.
        """
        parts = [weight * loss(logits, target) for weight, loss in zip(self.weights, self.losses, strict=True)]
        return torch.stack(parts).sum()
