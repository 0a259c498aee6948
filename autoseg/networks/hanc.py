"""Blocks of ACC-UNet (https://arxiv.org/abs/2308.13680): convolutions that look far by pooling, skips that see all.

Written from the paper's description. Where that leaves open how often values are normalized, they are normalized as
often as the published number of parameters tells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.networks.blocks import BlockStyle, ConvBlock, SqueezeExcitation

EXPANSION = 3
"""Inner feature maps per feature map of a HANC block."""

PUBLISHED_STYLE = BlockStyle(norm="batch")
_SQUEEZE = 8


class Reweighing(nn.Module):
    """Squeeze and excitation, then normalization and activation.

    Args:
        num_features: Feature maps.
        ndim: Spatial axes.
        style: Kinds of normalization and activation.
    """

    def __init__(self, num_features: int, ndim: int, style: BlockStyle) -> None:
        super().__init__()
        self.squeeze = SqueezeExcitation(num_features, ndim, reduction=_SQUEEZE)
        self.norm = style.normalization(num_features, ndim)
        self.activation = style.nonlinearity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, f, ...) to (b, f, ...)."""
        out: Tensor = self.activation(self.norm(self.squeeze(x)))
        return out


class NeighborhoodContext(nn.Module):
    """Each voxel beside the mean and the maximum of larger and larger blocks around it, mixed by a 1x1 convolution.

    Args:
        num_inputs: Feature maps that come in.
        num_features: Feature maps that go out.
        reach: Levels of pooling; level s looks at blocks of 2**s voxels per pooled axis, level 0 at the voxel alone.
        pooled: Per axis whether blocks extend along it.
        style: Kinds of normalization and activation.
    """

    def __init__(
        self, num_inputs: int, num_features: int, *, reach: int, pooled: Sequence[bool], style: BlockStyle
    ) -> None:
        super().__init__()
        self.windows = [tuple(2**level if p else 1 for p in pooled) for level in range(1, reach)]
        self.mix = _pointwise((2 * reach - 1) * num_inputs, num_features, len(pooled), style)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, i, ...) to (b, f, ...)."""
        means = [_resized(_mean_pool(x, window), x.shape[2:]) for window in self.windows]
        maxima = [_resized(_max_pool(x, window), x.shape[2:]) for window in self.windows]
        out: Tensor = self.mix(torch.cat([x, *means, *maxima], dim=1))
        return out


class HancBlock(nn.Module):
    """Hierarchical aggregation of neighborhood context: an inverted bottleneck whose middle looks far.

    Args:
        num_inputs: Feature maps that come in.
        num_features: Feature maps that go out.
        kernel_size: Odd number of voxels per axis of the depth-wise convolution; axes of 1 are not pooled either.
        reach: Levels of pooling; with 1 the block is an inverted bottleneck.
        expansion: Inner feature maps per feature map that comes in.
        style: Kinds of normalization and activation.
    """

    def __init__(
        self,
        num_inputs: int,
        num_features: int,
        *,
        kernel_size: Sequence[int],
        reach: int,
        expansion: int = EXPANSION,
        style: BlockStyle = PUBLISHED_STYLE,
    ) -> None:
        super().__init__()
        ndim, inner = len(kernel_size), num_inputs * expansion
        self.expand = _pointwise(num_inputs, inner, ndim, style)
        self.depthwise = ConvBlock(inner, inner, kernel_size=kernel_size, stride=(1,) * ndim, groups=inner, style=style)
        pooled = [k > 1 for k in kernel_size]
        self.context = NeighborhoodContext(inner, num_inputs, reach=reach, pooled=pooled, style=style)
        self.norm = style.normalization(num_inputs, ndim)
        self.project = _pointwise(num_inputs, num_features, ndim, style)
        self.reweigh = Reweighing(num_features, ndim, style)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, i, ...) to (b, f, ...)."""
        inner = self.norm(self.context(self.depthwise(self.expand(x))) + x)
        out: Tensor = self.reweigh(self.project(inner))
        return out


class ResPath(nn.Module):
    """Residual convolutions on a skip, so that encoder features catch up with the decoder's.

    Args:
        num_features: Feature maps.
        num_convs: How many.
        kernel_size: Odd number of voxels per axis.
        style: Kinds of normalization and activation.
    """

    def __init__(self, num_features: int, *, num_convs: int, kernel_size: Sequence[int], style: BlockStyle) -> None:
        super().__init__()
        ndim = len(kernel_size)
        self.convs = nn.ModuleList(
            [
                nn.Sequential(
                    ConvBlock(num_features, num_features, kernel_size=kernel_size, stride=(1,) * ndim, style=style),
                    Reweighing(num_features, ndim, style),
                )
                for _ in range(num_convs)
            ]
        )
        self.finish = nn.Sequential(
            style.normalization(num_features, ndim), style.nonlinearity(), style.normalization(num_features, ndim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, f, ...) to (b, f, ...)."""
        for conv in self.convs:
            x = x + conv(x)
        out: Tensor = self.finish(x)
        return out


class LevelFusion(nn.Module):
    """Multi-level feature compilation: every level receives what all levels know.

    Args:
        features: Feature maps per level, highest resolution first.
        ndim: Spatial axes.
        style: Kinds of normalization and activation.
    """

    def __init__(self, features: Sequence[int], *, ndim: int, style: BlockStyle) -> None:
        super().__init__()
        total = sum(features)
        self.gather = nn.ModuleList([_weighed_mix(total, f, ndim, style) for f in features])
        self.merge = nn.ModuleList(
            [nn.Sequential(_pointwise(2 * f, f, ndim, style), Reweighing(f, ndim, style)) for f in features]
        )
        self.finish = nn.ModuleList(
            [
                nn.Sequential(style.normalization(f, ndim), style.nonlinearity(), Reweighing(f, ndim, style))
                for f in features
            ]
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Map feature maps of all levels, highest resolution first, to as many of the same shapes."""
        fused = []
        for x, gather, merge, finish in zip(levels, self.gather, self.merge, self.finish, strict=True):
            everything = torch.cat([_fitted(other, x.shape[2:]) for other in levels], dim=1)
            fused.append(finish(merge(torch.cat([x, gather(everything)], dim=1)) + x))
        return fused


def _pointwise(num_inputs: int, num_features: int, ndim: int, style: BlockStyle) -> ConvBlock:
    ones = (1,) * ndim
    return ConvBlock(num_inputs, num_features, kernel_size=ones, stride=ones, style=style)


def _weighed_mix(num_inputs: int, num_features: int, ndim: int, style: BlockStyle) -> nn.Module:
    return nn.Sequential(
        _pointwise(num_inputs, num_features, ndim, style),
        Reweighing(num_features, ndim, style),
        style.normalization(num_features, ndim),
        style.nonlinearity(),
    )


def _mean_pool(x: Tensor, window: Sequence[int]) -> Tensor:
    pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool3d
    return pool(x, tuple(window), ceil_mode=True, count_include_pad=False)


def _max_pool(x: Tensor, window: Sequence[int]) -> Tensor:
    pool = F.max_pool2d if x.ndim == 4 else F.max_pool3d
    return pool(x, tuple(window), ceil_mode=True)


def _resized(x: Tensor, shape: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(shape), mode="nearest")


def _fitted(x: Tensor, shape: Sequence[int]) -> Tensor:
    """A feature map on another level's grid: means where that is coarser, repetition where it is finer."""
    if tuple(x.shape[2:]) == tuple(shape):
        return x
    if all(n <= m for n, m in zip(x.shape[2:], shape, strict=True)):
        return _resized(x, shape)
    if x.ndim == 4:
        return F.adaptive_avg_pool2d(x, (shape[0], shape[1]))
    return F.adaptive_avg_pool3d(x, (shape[0], shape[1], shape[2]))
