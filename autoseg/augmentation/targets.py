"""From a patch of a segmentation to what the losses compare with; the form is told in autoseg.losses.targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autoseg.labels import LabelScheme


def make_targets(segmentation: Tensor, labels: LabelScheme, output_strides: Sequence[Sequence[int]]) -> list[Tensor]:
    """Make one target per output of the network.

    Args:
        segmentation: Label values (...); voxels below zero count as background.
        labels: What the values mean.
        output_strides: Voxels of the patch per voxel of each output, per axis.

    Returns:
        Per output (1, ...) int16 indices of output channels, or with regions (r, ...) booleans.
    """
    target = _region_masks(segmentation, labels) if labels.has_regions else _channel_indices(segmentation, labels)
    return [_thin_out(target, stride) for stride in output_strides]


def _region_masks(segmentation: Tensor, labels: LabelScheme) -> Tensor:
    masks = [torch.isin(segmentation, torch.tensor(t.values, dtype=segmentation.dtype)) for t in labels.targets]
    if labels.ignore_value is not None:
        masks.append(segmentation == labels.ignore_value)
    return torch.stack(masks)


def _channel_indices(segmentation: Tensor, labels: LabelScheme) -> Tensor:
    values = labels.values if labels.ignore_value is None else (*labels.values, labels.ignore_value)
    if values == tuple(range(len(values))):
        return segmentation.clamp_min(0).to(torch.int16)[None]
    lookup = torch.zeros(values[-1] + 1, dtype=torch.int16)
    lookup[list(values)] = torch.arange(len(values), dtype=torch.int16)
    return lookup[segmentation.clamp_min(0).long()][None]


def _thin_out(target: Tensor, stride: Sequence[int]) -> Tensor:
    """Take the voxel nearest to the center of each coarse voxel: for whole strides what "nearest-exact" means."""
    index = tuple(slice(step // 2, None, step) for step in stride)
    return target[(slice(None), *index)]
