"""Cross-entropy for labels, binary cross-entropy for regions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.labels import LabelScheme
from autoseg.losses.targets import SumOverBatch, at_least_float32, own_sums, separate_ignored


class CrossEntropyLoss(nn.Module):
    """Mean cross-entropy over the voxels that are not ignored; zero when all are.

    With regions it is the binary cross-entropy of every region. With regions and an ignore label it is, as in nnU-Net,
    summed over regions and averaged over voxels only.

    Args:
        labels: What the outputs mean.
        batch_dice: Not used; every loss is built with the same settings.
    """

    def __init__(self, *, labels: LabelScheme, batch_dice: bool = False) -> None:  # noqa: ARG002 - see above
        super().__init__()
        self.labels = labels
        self.sum_over_batch: SumOverBatch = own_sums

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
        logits = at_least_float32(logits)
        if self.labels.has_regions:
            losses = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
        else:
            losses = F.cross_entropy(logits, target[:, 0].long(), reduction="none")[:, None]
        if counts is None:
            return losses.mean()
        total, num = self.sum_over_batch(torch.stack(((losses * counts).sum(), counts.sum())))
        mean: Tensor = total / num.clamp_min(1)
        return mean
