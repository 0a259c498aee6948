"""Soft Dice loss."""

from __future__ import annotations

import torch
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.losses.overlap import OverlapLoss
from autoseg.losses.targets import SumOverBatch, foreground_pairs, own_sums


class SoftDiceLoss(OverlapLoss):
    """Negative soft Dice, averaged over classes: -1 is perfect, 0 is worst.

    Per class, with sums over space and also over the batch when ``batch_dice`` is set:
    ``(2 * sum(p * t) + smooth) / (sum(p) + sum(t) + smooth)``. Without regions p is the softmax and background is left
    out; with regions p is the sigmoid and every channel counts. Never computed in half precision.
    From https://arxiv.org/abs/1606.04797; the form is nnU-Net's.

    Args:
        labels: What the outputs mean.
        batch_dice: Whether sums run over the batch too, which keeps classes stable that few patches contain.
        smooth: Added to numerator and denominator; makes a class that is rightly absent count as perfect.
    """

    def __init__(self, *, labels: LabelScheme, batch_dice: bool, smooth: float = 1e-5) -> None:
        super().__init__(labels=labels, batch_dice=batch_dice, smooth=smooth)
        self.sum_over_batch: SumOverBatch = own_sums

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: (b, k, ...).
            target: (b, 1, ...) or (b, r, ...), see :mod:`autoseg.losses.targets`.
        """
        # Autocast would compute the products and sums in half precision again.
        with torch.autocast(logits.device.type, enabled=False):
            predicted, reference, _ = foreground_pairs(logits, target, self.labels)
            over = self.summed_axes(logits.ndim)
            overlap = (predicted * reference).sum(over)
            total = predicted.sum(over) + reference.sum(over)
            if self.batch_dice:
                overlap, total = self.sum_over_batch(torch.stack((overlap, total)))
            dice = (2 * overlap + self.smooth) / (total + self.smooth).clamp_min(1e-8)
            return -dice.mean()
