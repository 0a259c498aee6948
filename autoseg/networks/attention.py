"""Attention gates on the skips of a U-Net, and attention between the positions of a feature map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks.blocks import BlockStyle, convolution_class
from autoseg.plan import NetworkPlan

_MOST_POSITIONS = 4096  # beyond, keys and values are pooled: attention takes memory by the square of the positions


class OpenGate(nn.Module):
    """No gate: the skip passes as it is."""

    def forward(self, skip: Tensor, coarser: Tensor, upsampled: Tensor) -> Tensor:  # noqa: ARG002 - as all gates
        """Return the skip."""
        return skip


class GridGate(nn.Module):
    """Attention gate steered by the coarser decoder stage (Oktay et al., https://arxiv.org/abs/1804.03999).

    Skip and coarser features meet on the coarser grid; the attention found there is interpolated to the skip's.

    Args:
        num_features: Feature maps of the skip.
        num_coarser: Feature maps of the coarser stage.
        stride: Voxels of the skip per voxel of the coarser stage, per axis.
        style: Its normalization follows the gated skip.
    """

    def __init__(self, num_features: int, num_coarser: int, stride: Sequence[int], style: BlockStyle) -> None:
        super().__init__()
        ndim, hidden = len(stride), max(1, num_features // 2)
        convolution = convolution_class(ndim)
        self.of_skip = convolution(num_features, hidden, tuple(stride), tuple(stride), bias=False)
        self.of_coarser = convolution(num_coarser, hidden, 1)
        self.join = convolution(hidden, 1, 1)
        self.attention = nn.Sigmoid()
        self.out = nn.Sequential(convolution(num_features, num_features, 1), style.normalization(num_features, ndim))

    def forward(self, skip: Tensor, coarser: Tensor, upsampled: Tensor) -> Tensor:  # noqa: ARG002 - as all gates
        """Weigh the positions of a skip.

        Args:
            skip: (b, f, ...).
            coarser: Decoder features (b, g, ... / stride).
            upsampled: The same on the skip's grid; not used.
        """
        attention = self.attention(self.join(torch.relu(self.of_skip(skip) + self.of_coarser(coarser))))
        mode = "bilinear" if skip.ndim == 4 else "trilinear"
        out: Tensor = self.out(functional.interpolate(attention, skip.shape[2:], mode=mode) * skip)
        return out


class SameGate(nn.Module):
    """Attention gate steered by the upsampled decoder features, as in MONAI's AttentionBlock.

    Args:
        num_features: Feature maps of the skip, and of the upsampled features.
        ndim: Spatial axes, 2 or 3.
        style: Its normalization follows every convolution.
    """

    def __init__(self, num_features: int, ndim: int, style: BlockStyle) -> None:
        super().__init__()
        hidden = max(1, num_features // 2)
        convolution = convolution_class(ndim)
        self.of_upsampled = nn.Sequential(convolution(num_features, hidden, 1), style.normalization(hidden, ndim))
        self.of_skip = nn.Sequential(convolution(num_features, hidden, 1), style.normalization(hidden, ndim))
        self.join = nn.Sequential(convolution(hidden, 1, 1), style.normalization(1, ndim))
        self.attention = nn.Sigmoid()

    def forward(self, skip: Tensor, coarser: Tensor, upsampled: Tensor) -> Tensor:  # noqa: ARG002 - as all gates
        """Weigh the positions of a skip.

        Args:
            skip: (b, f, ...).
            coarser: Decoder features of the coarser stage; not used.
            upsampled: The same on the skip's grid, (b, f, ...).
        """
        joined = self.join(torch.relu(self.of_upsampled(upsampled) + self.of_skip(skip)))
        return skip * cast("Tensor", self.attention(joined))


def make_gate(network: NetworkPlan, level: int, style: BlockStyle) -> nn.Module:
    """The gate on the skip of an encoder stage.

    Args:
        network: Says which kind of gate. "grid" leaves the full resolution without one, as Oktay et al. do.
        level: Encoder stage, 0 for the full resolution.
        style: What blocks are made of.
    """
    features, ndim = network.features[level], len(network.strides[0])
    if network.skip_gate == "same":
        return SameGate(features, ndim, style)
    if network.skip_gate == "grid" and level > 0:
        return GridGate(features, network.features[level + 1], network.strides[level + 1], style)
    return OpenGate()


class PositionAttention(nn.Module):
    """Lets every position of a feature map look at all others (Fu et al., https://arxiv.org/abs/1809.02983).

    The result is added to the input with a weight that begins at zero. Where there are more than 4096 positions, keys
    and values are averaged over 2 voxels per axis.

    Args:
        num_features: Feature maps.
        ndim: Spatial axes, 2 or 3.
    """

    def __init__(self, num_features: int, ndim: int) -> None:
        super().__init__()
        hidden, convolution = max(1, num_features // 8), convolution_class(ndim)
        self.query = convolution(num_features, hidden, 1)
        self.key = convolution(num_features, hidden, 1)
        self.value = convolution(num_features, num_features, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, f, ...) to the same shape."""
        source = x
        if math.prod(x.shape[2:]) > _MOST_POSITIONS:
            pool = functional.avg_pool2d if x.ndim == 4 else functional.avg_pool3d
            source = pool(x, 2, ceil_mode=True)
        query, key, value = (
            layer(of).flatten(2).transpose(1, 2)
            for layer, of in ((self.query, x), (self.key, source), (self.value, source))
        )  # (b, positions, features)
        # The paper has no 1/sqrt(d).
        attended = functional.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + self.gamma * attended.transpose(1, 2).reshape(x.shape)
