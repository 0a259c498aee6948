"""Blocks around large depth-wise kernels: ConvNeXt V2's and 3D UX-Net's, in two and three dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.networks.blocks import convolution_class

_EPSILON = 1e-6
_EXPANSION = 4  # inner feature maps per feature map


class ChannelNorm(nn.Module):
    """Layer norm over the channels of every voxel.

    Args:
        num_features: Channels.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, ...) to (b, c, ...)."""
        return channels_first(F.layer_norm(channels_last(x), self.weight.shape, self.weight, self.bias, _EPSILON))


class GlobalResponseNorm(nn.Module):
    """Scale each channel by its share of the response, and add the input (https://arxiv.org/abs/2301.00808).

    Weight and bias start at zero, so that it begins as the identity.

    Args:
        num_features: Channels.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, ..., c) to (b, ..., c)."""
        response = torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim - 1)), keepdim=True)  # (b, 1, ..., c)
        share = response / (response.mean(dim=-1, keepdim=True) + _EPSILON)
        out: Tensor = self.weight * (x * share) + self.bias + x
        return out


class DropPath(nn.Module):
    """Leave a residual branch out for whole cases of the batch (https://arxiv.org/abs/1603.09382), in training only.

    Args:
        rate: Probability of leaving it out.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, ...) to (b, ...), scaled so that the mean stays."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        return x * x.new_empty((len(x),) + (1,) * (x.ndim - 1)).bernoulli_(keep) / keep


class ConvNextBlock(nn.Module):
    """ConvNeXt V2: depth-wise convolution, then a two-layer perceptron per voxel (https://arxiv.org/abs/2301.00808).

    Args:
        num_features: Feature maps.
        kernel_size: Odd number of voxels per axis of the depth-wise convolution.
        drop_path: Probability of leaving the branch out in training.
    """

    def __init__(self, num_features: int, *, kernel_size: Sequence[int], drop_path: float = 0.0) -> None:
        super().__init__()
        self.depthwise = depthwise_convolution(num_features, kernel_size)
        self.norm = nn.LayerNorm(num_features, eps=_EPSILON)
        self.expand = nn.Linear(num_features, _EXPANSION * num_features)
        self.response_norm = GlobalResponseNorm(_EXPANSION * num_features)
        self.project = nn.Linear(_EXPANSION * num_features, num_features)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, ...) to (b, c, ...)."""
        inner = self.norm(channels_last(self.depthwise(x)))
        inner = self.project(self.response_norm(F.gelu(self.expand(inner))))
        out: Tensor = x + self.drop_path(channels_first(inner))
        return out


class UxBlock(nn.Module):
    """3D UX-Net: depth-wise convolution, then a perceptron per voxel and channel (https://arxiv.org/abs/2209.15076).

    Channels are never mixed here; the strided convolutions between stages do that.

    Args:
        num_features: Feature maps.
        kernel_size: Odd number of voxels per axis, for instance (7, 7, 7) or (1, 7, 7).
        drop_path: Probability of leaving the branch out in training.
        initial_scale: First value of the scale of the branch; small ones let a deep network begin as the identity.
    """

    def __init__(
        self,
        num_features: int,
        *,
        kernel_size: Sequence[int],
        drop_path: float = 0.0,
        initial_scale: float = 1e-6,
    ) -> None:
        super().__init__()
        convolution = convolution_class(len(kernel_size))
        inner = _EXPANSION * num_features
        self.depthwise = depthwise_convolution(num_features, kernel_size)
        self.norm = ChannelNorm(num_features)
        self.expand = convolution(num_features, inner, 1, groups=num_features)
        self.project = convolution(inner, num_features, 1, groups=num_features)
        self.scale = nn.Parameter(torch.full((num_features,), initial_scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, ...) to (b, c, ...)."""
        inner = self.project(F.gelu(self.expand(self.norm(self.depthwise(x)))))
        scale = self.scale.reshape(-1, *(1,) * (x.ndim - 2))
        out: Tensor = x + self.drop_path(scale * inner)
        return out


class ConvNextDown(nn.Module):
    """Layer norm, then a convolution whose kernel is its stride.

    Args:
        num_inputs: Feature maps that come in.
        num_features: Feature maps that go out.
        stride: Step per axis.
    """

    def __init__(self, num_inputs: int, num_features: int, *, stride: Sequence[int]) -> None:
        super().__init__()
        self.norm = ChannelNorm(num_inputs)
        self.conv = convolution_class(len(stride))(num_inputs, num_features, tuple(stride), tuple(stride))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, i, ...) to (b, f, ... / stride)."""
        out: Tensor = self.conv(self.norm(x))
        return out


def depthwise_convolution(num_features: int, kernel_size: Sequence[int]) -> nn.Module:
    """Convolution of every channel by itself that keeps the size."""
    padding = tuple(k // 2 for k in kernel_size)
    return convolution_class(len(kernel_size))(
        num_features, num_features, tuple(kernel_size), padding=padding, groups=num_features
    )


@torch.no_grad()
def initialize_convnext_weights(network: nn.Module) -> None:
    """Draw convolutions and linear layers from a normal distribution of deviation 0.02, cut at two deviations.

    Biases start at zero. As the ConvNeXt papers do; the residual units of a decoder keep torch's own start.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def channels_last(x: Tensor) -> Tensor:
    """Move channels (b, c, ...) to the end (b, ..., c)."""
    return x.movedim(1, -1)


def channels_first(x: Tensor) -> Tensor:
    """Move channels (b, ..., c) to the second place (b, c, ...)."""
    return x.movedim(-1, 1).contiguous()
