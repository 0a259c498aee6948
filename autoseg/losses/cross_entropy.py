"""Cross-entropy for labels, binary cross-entropy for regions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.labels import LabelScheme
from autoseg.losses.targets import SumOverBatch, at_least_float32, own_sums, require_share, separate_ignored, smoothed


class CrossEntropyLoss(nn.Module):
    """Mean cross-entropy over the voxels that are not ignored; zero when all are.

    With regions it is the binary cross-entropy of every region. With regions and an ignore label it is, as in nnU-Net,
    summed over regions and averaged over voxels only.

    Args:
        labels: What the outputs mean.
        batch_dice: Not used; every loss is built with the same settings.
        smoothing: Share of the truth that is spread evenly over all classes (https://arxiv.org/abs/1512.00567), or
            with regions over inside and outside.
    """

    def __init__(
        self,
        *,
        labels: LabelScheme,
        batch_dice: bool = False,  # noqa: ARG002 - see above
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.labels = labels
        self.smoothing = require_share(smoothing, "cross_entropy")
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
            wanted = smoothed(target.to(logits.dtype), self.smoothing)
            losses = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        else:
            truth = target[:, 0].long()
            losses = F.cross_entropy(logits, truth, reduction="none", label_smoothing=self.smoothing)[:, None]
        if counts is None:
            return losses.mean()
        total, num = self.sum_over_batch(torch.stack(((losses * counts).sum(), counts.sum())))
        mean: Tensor = total / num.clamp_min(1)
        return mean
