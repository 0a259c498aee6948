"""Losses that compare voxel by voxel: top-k, focal, mean squared error, binary cross-entropy.

Voxels that are ignored count nowhere. All are built with the same settings; ``batch_dice`` is not used here.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.errors import SettingsError
from autoseg.labels import LabelScheme
from autoseg.losses.targets import (
    at_least_float32,
    indicators,
    mean_of_counted,
    require_share,
    separate_ignored,
    smoothed,
)


class VoxelLoss(nn.Module):
    """Mean over voxels of what a subclass computes for each.

    Args:
        labels: What the outputs mean.
        batch_dice: Not used.
    """

    def __init__(self, *, labels: LabelScheme, batch_dice: bool = False) -> None:  # noqa: ARG002 - see the module
        super().__init__()
        self.labels = labels

    @property
    def is_mean_over_samples(self) -> bool:
        """Whether the loss of a batch is the mean of the losses of its patches: not where voxels are ignored."""
        return self.labels.ignore_value is None

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: (b, k, ...).
            target: (b, 1, ...) or (b, r, ...), see :mod:`autoseg.losses.targets`.
        """
        target, counts = separate_ignored(target, self.labels)
        with torch.autocast(logits.device.type, enabled=False):
            return self.reduce(self.per_voxel(at_least_float32(logits), target), counts)

    @abstractmethod
    def per_voxel(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of every voxel, (b, 1, ...) or (b, k, ...), from float32 logits and a target without ignored voxels."""

    def reduce(self, losses: Tensor, counts: Tensor | None) -> Tensor:
        """One number from the losses of the voxels that count."""
        return mean_of_counted(losses, counts)

    def cross_entropy(self, logits: Tensor, target: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of every voxel (b, 1, ...), or with regions of every voxel and region (b, r, ...)."""
        if self.labels.has_regions:
            wanted = smoothed(target.to(logits.dtype), smoothing)
            return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        truth = target[:, 0].long()
        return F.cross_entropy(logits, truth, reduction="none", label_smoothing=smoothing)[:, None]

    def reference(self, logits: Tensor, target: Tensor) -> Tensor:
        """What every output should be, 0 or 1, (b, k, ...)."""
        known = target != 0 if self.labels.has_regions else indicators(target, logits.shape[1])
        return known.to(logits.dtype)


class TopKLoss(VoxelLoss):
    """Mean cross-entropy of the worst voxels of the batch (https://arxiv.org/abs/1605.06885).

    Args:
        labels: What the outputs mean.
        batch_dice: Not used.
        share: Share of the voxels that counts; nnU-Net's variant takes a tenth.
        smoothing: See :class:`autoseg.losses.cross_entropy.CrossEntropyLoss`.
    """

    def __init__(
        self, *, labels: LabelScheme, batch_dice: bool = False, share: float = 0.1, smoothing: float = 0.0
    ) -> None:
        super().__init__(labels=labels, batch_dice=batch_dice)
        self.smoothing = require_share(smoothing, "topk")
        if not 0 < share <= 1:
            raise SettingsError(f"loss topk: share must lie above 0 and not above 1, got {share}")
        self.share = share

    @property
    def is_mean_over_samples(self) -> bool:
        """The worst voxels of a batch are not the worst of each patch."""
        return False

    def per_voxel(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy."""
        return self.cross_entropy(logits, target, smoothing=self.smoothing)

    def reduce(self, losses: Tensor, counts: Tensor | None) -> Tensor:
        """Mean of the largest."""
        values = losses.flatten() if counts is None else losses[counts.expand_as(losses)]
        if not len(values):
            return losses.sum() * 0
        return values.topk(max(1, int(self.share * len(values))), sorted=False).values.mean()


class FocalLoss(VoxelLoss):
    """Cross-entropy times ``(1 - p)^focus``, p being the probability of the truth (https://arxiv.org/abs/1708.02002).

    Args:
        labels: What the outputs mean.
        batch_dice: Not used.
        focus: The exponent; 0 is cross-entropy.
    """

    def __init__(self, *, labels: LabelScheme, batch_dice: bool = False, focus: float = 2.0) -> None:
        super().__init__(labels=labels, batch_dice=batch_dice)
        if focus < 0:
            raise SettingsError(f"loss focal: focus must not be negative, got {focus}")
        self.focus = focus

    def per_voxel(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, the less the surer."""
        entropy = self.cross_entropy(logits, target)
        return (1 - torch.exp(-entropy)) ** self.focus * entropy


class MeanSquaredErrorLoss(VoxelLoss):
    """Mean squared difference of outputs and truth: a regression on 0 and 1, half of it standing for one half.

    Outputs are taken as they are, shifted so that a logit of zero means one half: the class with the largest logit, or
    with regions a positive one, is the class nearest to 1. Of probabilities the squared error hardly has a gradient
    where a class is wrongly ruled out, so small classes inside others are never found.

    Args:
        labels: What the outputs mean.
        batch_dice: Not used.
        brier: 1 compares probabilities nevertheless, which is the Brier score.
    """

    def __init__(self, *, labels: LabelScheme, batch_dice: bool = False, brier: float = 0.0) -> None:
        super().__init__(labels=labels, batch_dice=batch_dice)
        if brier not in (0, 1):
            raise SettingsError(f"loss mse: brier must be 0 or 1, got {brier:g}")
        self.brier = brier

    def per_voxel(self, logits: Tensor, target: Tensor) -> Tensor:
        """Squared difference per output."""
        predicted = logits + 0.5
        if self.brier:
            predicted = logits.sigmoid() if self.labels.has_regions else logits.softmax(dim=1)
        return (predicted - self.reference(logits, target)) ** 2


class BinaryCrossEntropyLoss(VoxelLoss):
    """Every output against the rest, background included."""

    def per_voxel(self, logits: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy per output."""
        return F.binary_cross_entropy_with_logits(logits, self.reference(logits, target), reduction="none")
