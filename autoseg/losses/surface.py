"""Losses that look at surfaces: how far predicted voxels lie from the true one, and how many of its cells agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.errors import SettingsError
from autoseg.labels import LabelScheme
from autoseg.losses.overlap import OverlapLoss
from autoseg.losses.targets import foreground_pairs, mean_of_counted

_SMALLEST = 1e-6  # of a probability, before its logarithm
_MOST_LEFT_OUT = 0.8


def signed_distances(reference: np.ndarray, edges: Sequence[float] | None = None) -> np.ndarray:
    """Distance of every voxel to the surface of a mask: positive outside, zero or negative inside.

    Outside it is the distance to the nearest voxel of the mask, inside that to the nearest voxel outside less the
    shortest edge of a voxel, so that the mask's outermost voxels have zero where voxels are cubes. A mask that is empty
    or full has no surface: zero.

    Args:
        reference: Boolean mask (...).
        edges: Edges of a voxel per axis, in whatever the distances shall be in; None counts voxels.
    """
    if not reference.any() or reference.all():
        return np.zeros(reference.shape, dtype=np.float32)
    outside, inside = (distance_transform_edt(mask, sampling=edges) for mask in (~reference, reference))
    return np.where(reference, min(edges or (1.0,)) - inside, outside).astype(np.float32)


class BoundaryLoss(nn.Module):
    """Mean of probability times signed distance to the true surface (https://arxiv.org/abs/1812.07032).

    It has no lower bound of its own and vanishes where a class is absent from the patch, so it goes with another loss
    in a sum, e.g. ``dice_ce+0.01*boundary``. Distances are computed from the targets on the CPU; what is ignored
    counts as background there.

    Args:
        labels: What the outputs mean.
        batch_dice: Not used; every loss is built with the same settings.
        mm: 1 measures in millimetres, so that thick slices count as thick; 0 in voxels of each resolution.
        extent: Millimetres that a patch measures per axis; the voxels of every resolution follow from it.

    Raises:
        SettingsError: When millimetres are asked for and nobody knows the extent.
    """

    def __init__(
        self,
        *,
        labels: LabelScheme,
        batch_dice: bool = False,  # noqa: ARG002 - see above
        mm: float = 0.0,
        extent: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        if mm not in (0, 1):
            raise SettingsError(f"loss boundary: mm must be 0 or 1, got {mm:g}")
        self.labels = labels
        self.extent = extent if mm else None
        if mm and extent is None:
            raise SettingsError("loss boundary: the size of a patch in mm is not known here; use boundary without mm")

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
        with torch.autocast(logits.device.type, enabled=False):
            predicted, reference, counts = foreground_pairs(logits, target, self.labels)
            shape = reference.shape[2:]
            edges = None if self.extent is None else [e / n for e, n in zip(self.extent, shape, strict=True)]
            masks = reference.detach().cpu().numpy().reshape(-1, *reference.shape[2:])
            distances = np.stack([signed_distances(mask, edges) for mask in masks]).reshape(reference.shape)
            weights = torch.from_numpy(distances).to(predicted.device, predicted.dtype)
            return mean_of_counted(predicted * weights, counts)


class BoundaryDifferenceLoss(OverlapLoss):
    """Difference over union with part of the overlap left out, averaged over classes: 0 is perfect, below 1 is worst.

    Per class ``(g + p - 2 * o) / (g + p - (1 + a) * o)`` with the sums of squares g of the truth and p of the
    probabilities, and their overlap o. The longer the surface C of the truth for its size S, the less overlap is left
    out: ``a = 1 - 2 * C / S``, at most 0.8, so that in large objects the boundary counts more than the inside. The
    surface are voxels with a face towards another class. "Boundary DoU" of https://arxiv.org/abs/2308.00220.

    Args:
        labels: What the outputs mean.
        batch_dice: Whether sums run over the batch too.
        smooth: Added to numerators and denominators.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: (b, k, ...).
            target: (b, 1, ...) or (b, r, ...), see :mod:`autoseg.losses.targets`.
        """
        with torch.autocast(logits.device.type, enabled=False):
            predicted, inside, _ = foreground_pairs(logits, target, self.labels)
            over = self.summed_axes(logits.ndim)
            reference = inside.to(predicted.dtype)
            size = reference.sum(over)
            surface = (reference * (_neighbors(reference) < 2 * (logits.ndim - 2) - 0.5)).sum(over)
            left_out = (1 - 2 * (surface + self.smooth) / (size + self.smooth)).clamp_max(_MOST_LEFT_OUT)
            overlap = (predicted * reference).sum(over)
            total = size + (predicted**2).sum(over) + self.smooth
            return ((total - 2 * overlap) / (total - (1 + left_out) * overlap)).mean()


def _neighbors(mask: Tensor) -> Tensor:
    """How many voxels that share a face are inside, (b, c, ...); what lies beyond the patch is outside."""
    found = torch.zeros_like(mask)
    for axis in range(2, mask.ndim):
        length = mask.shape[axis] - 1
        found.narrow(axis, 1, length).add_(mask.narrow(axis, 0, length))
        found.narrow(axis, 0, length).add_(mask.narrow(axis, 1, length))
    return found


class SurfaceDiceLoss(OverlapLoss):
    """Negative Dice of full, empty and surface cells, averaged over the three and over classes: -1 is perfect.

    Every block of two voxels per axis is a cell. With voxels taken as independent it is full with the product of their
    probabilities, empty with that of their complements, and crossed by the surface otherwise. The surface weighs as
    much as the whole inside, so thin and wrinkled targets are not outvoted. A differentiable relative of the surface
    Dice (https://arxiv.org/abs/1809.04430) with every cell counting the same.

    Args:
        labels: What the outputs mean.
        batch_dice: Whether sums run over the batch too.
        smooth: Added to numerator and denominator.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: (b, k, ...) with at least two voxels along every axis.
            target: (b, 1, ...) or (b, r, ...), see :mod:`autoseg.losses.targets`.
        """
        with torch.autocast(logits.device.type, enabled=False):
            predicted, reference, counts = foreground_pairs(logits, target, self.labels)
            over = self.summed_axes(logits.ndim)
            cells = zip(_cells(predicted), _cells(reference.to(predicted.dtype)), strict=True)
            # A cell counts when all its voxels do.
            counting = (
                None if counts is None else _window_sums(counts.to(predicted.dtype)) > 2 ** (logits.ndim - 2) - 0.5
            )
            scores = []
            for found, true in cells:
                if counting is not None:
                    found, true = found * counting, true * counting
                total = found.sum(over) + true.sum(over)
                scores.append((2 * (found * true).sum(over) + self.smooth) / (total + self.smooth))
            return -torch.stack(scores).mean()


def _window_sums(values: Tensor) -> Tensor:
    """Sum over every block of two voxels per axis of (b, c, ...): one entry less per axis."""
    ndim = values.ndim - 2
    pool = F.avg_pool3d if ndim == 3 else F.avg_pool2d
    sums: Tensor = pool(values, kernel_size=2, stride=1) * 2**ndim
    return sums


def _cells(probabilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probability of each cell to be full, empty, or crossed by the surface."""
    full = _window_sums(probabilities.clamp_min(_SMALLEST).log()).exp()
    empty = _window_sums((1 - probabilities).clamp_min(_SMALLEST).log()).exp()
    return full, empty, 1 - full - empty
