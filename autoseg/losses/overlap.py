"""Relatives of soft Dice: for targets of which nothing may be missed, and for classes of very different sizes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoseg.labels import LabelScheme
from autoseg.losses.targets import foreground_pairs


class OverlapLoss(nn.Module):
    """What losses share that divide sums over voxels: they run over a patch, or over the batch too.

    Args:
        labels: What the outputs mean.
        batch_dice: Whether sums run over the batch too.
        smooth: Added to numerator and denominator.
    """

    def __init__(self, *, labels: LabelScheme, batch_dice: bool, smooth: float = 1e-5) -> None:
        super().__init__()
        self.labels = labels
        self.batch_dice = batch_dice
        self.smooth = smooth

    @property
    def is_mean_over_samples(self) -> bool:
        """Whether the loss of a batch is the mean of the losses of its patches."""
        return not self.batch_dice

    def summed_axes(self, ndim: int) -> tuple[int, ...]:
        """Axes of (b, c, ...) that sums run over."""
        return (*((0,) if self.batch_dice else ()), *range(2, ndim))


class TverskyLoss(OverlapLoss):
    """Negative Tversky index, averaged over classes: -1 is perfect, 0 is worst.

    Per class ``(tp + smooth) / (tp + alpha * fp + beta * fn + smooth)``; with both weights 0.5 it is soft Dice. From
    https://arxiv.org/abs/1706.05721, whose weights are the defaults: a missed voxel costs more than a false one.

    Args:
        labels: What the outputs mean.
        batch_dice: Whether sums run over the batch too.
        alpha: Weight of false positives.
        beta: Weight of false negatives.
        smooth: Added to numerator and denominator.
    """

    def __init__(
        self,
        *,
        labels: LabelScheme,
        batch_dice: bool,
        alpha: float = 0.3,
        beta: float = 0.7,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__(labels=labels, batch_dice=batch_dice, smooth=smooth)
        self.alpha, self.beta = alpha, beta

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: (b, k, ...).
            target: (b, 1, ...) or (b, r, ...), see :mod:`autoseg.losses.targets`.
        """
        with torch.autocast(logits.device.type, enabled=False):
            predicted, reference, _ = foreground_pairs(logits, target, self.labels)
            over = self.summed_axes(logits.ndim)
            overlap = (predicted * reference).sum(over)
            false_positive = predicted.sum(over) - overlap
            false_negative = reference.sum(over) - overlap
            total = overlap + self.alpha * false_positive + self.beta * false_negative
            return -((overlap + self.smooth) / (total + self.smooth).clamp_min(1e-8)).mean()


class GeneralizedDiceLoss(OverlapLoss):
    """Negative generalized Dice: one ratio over all classes, each weighing as the inverse square of its size.

    ``(2 * sum_c w_c * overlap_c + smooth) / (sum_c w_c * (sum(p_c) + sum(t_c)) + smooth)``, background included. A
    class that is absent weighs as much as the smallest one that is there. From https://arxiv.org/abs/1707.03237.

    Args:
        labels: What the outputs mean.
        batch_dice: Whether sums run over the batch too; otherwise every patch has weights of its own.
        smooth: Added to numerator and denominator.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: (b, k, ...).
            target: (b, 1, ...) or (b, r, ...), see :mod:`autoseg.losses.targets`.
        """
        with torch.autocast(logits.device.type, enabled=False):
            predicted, reference, _ = foreground_pairs(logits, target, self.labels, with_background=True)
            over = self.summed_axes(logits.ndim)
            overlap = (predicted * reference).sum(over)
            sizes = reference.sum(over).to(predicted.dtype)
            weights = torch.where(sizes > 0, 1 / sizes.clamp_min(1) ** 2, 0)
            weights = torch.where(sizes > 0, weights, weights.amax(dim=-1, keepdim=True))
            total = (weights * (predicted.sum(over) + sizes)).sum(-1)
            return -((2 * (weights * overlap).sum(-1) + self.smooth) / (total + self.smooth)).mean()
