"""What losses compare with: the form of a target tensor, with and without regions, with and without ignored voxels.

Without regions a target is (b, 1, ...) with the index of the output channel of every voxel, and the number of outputs
where the voxel is ignored. With regions it is (b, r, ...) with 1 inside each region, plus one last channel that is 1
where the voxel is ignored, if the dataset declares an ignore label.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from autoseg.errors import SettingsError
from autoseg.labels import LabelScheme


def separate_ignored(target: Tensor, labels: LabelScheme) -> tuple[Tensor, Tensor | None]:
    """Take the ignored voxels out of a target.

    Args:
        target: (b, 1, ...) channel indices, or (b, r, ...) region masks.
        labels: Says which of the two it is, and whether voxels may be ignored.

    Returns:
        The target in the same form, background or any value where ignored; and (b, 1, ...) booleans that are True
        where the voxel counts, or None when all count.
    """
    if labels.ignore_value is None:
        return target, None
    if labels.has_regions:
        return target[:, :-1], target[:, -1:] == 0
    counts = target != labels.num_outputs
    return torch.where(counts, target, 0), counts


def at_least_float32(logits: Tensor) -> Tensor:
    """Leave half precision: sums over a patch would overflow there, and softmax lose its small values."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def indicators(target: Tensor, num_classes: int) -> Tensor:
    """Turn channel indices (b, 1, ...) into booleans per output channel (b, k, ...)."""
    shape = (target.shape[0], num_classes, *target.shape[2:])
    return torch.zeros(shape, dtype=torch.bool, device=target.device).scatter_(1, target.long(), value=True)


SumOverBatch = Callable[[Tensor], Tensor]
"""What a loss does with sums over its patches before it divides them, so that several processes can share a batch."""


def own_sums(sums: Tensor) -> Tensor:
    """The sums as they are: this process has the whole batch."""
    return sums


def smoothed(inside: Tensor, share: float) -> Tensor:
    """Truth of one region against the rest, a share of it spread evenly over both."""
    return inside * (1 - share) + 0.5 * share if share else inside


def require_share(smoothing: float, loss: str) -> float:
    """The share of the truth that is spread.

    Raises:
        SettingsError: When it is not at least 0 and below 1.
    """
    if not 0 <= smoothing < 1:
        raise SettingsError(f"loss {loss}: smoothing must be at least 0 and below 1, got {smoothing}")
    return smoothing


def mean_of_counted(losses: Tensor, counts: Tensor | None) -> Tensor:
    """Mean of losses (b, c, ...) over the voxels that count (b, 1, ...); zero when none does."""
    if counts is None:
        return losses.mean()
    return (losses * counts).sum() / (counts.sum() * losses.shape[1]).clamp_min(1)


def foreground_pairs(
    logits: Tensor, target: Tensor, labels: LabelScheme, *, with_background: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Probabilities and truth of what is segmented; call it outside of autocast.

    Without regions the probabilities are the softmax, with regions one sigmoid each.

    Args:
        logits: (b, k, ...).
        target: (b, 1, ...) or (b, r, ...).
        labels: What the outputs mean.
        with_background: Whether the background of labels is returned too, as the first channel.

    Returns:
        Probabilities (b, c, ...) in float32 at least and booleans of the same shape, both without ignored voxels; and
        (b, 1, ...) booleans that are True where a voxel counts, or None when all do.
    """
    target, counts = separate_ignored(target, labels)
    if labels.has_regions:
        predicted, reference = at_least_float32(logits).sigmoid(), target != 0
    else:
        first = 0 if with_background else 1
        predicted = at_least_float32(logits).softmax(dim=1)[:, first:]
        reference = indicators(target, logits.shape[1])[:, first:]
    if counts is not None:
        predicted, reference = predicted * counts, reference & counts
    return predicted, reference, counts
