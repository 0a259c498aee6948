"""The decoder that UNETR and its successors share (https://arxiv.org/abs/2103.10504), in two and three dimensions.

Convolutions have no biases and instance norms no weights of their own, as in the published networks, so that parameter
counts can be compared with theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoseg.networks.blocks import NEGATIVE_SLOPE, convolution_class, transposed_convolution_class
from autoseg.plan import NetworkPlan

Run = Callable[..., Any]
"""Calls a module with tensors; a network's ``stage``, which may save memory on the way."""

_LARGEST_KERNEL = 3  # of the dense convolutions: a large kernel is affordable depth-wise only


def dense_kernel(kernel_size: Sequence[int]) -> tuple[int, ...]:
    """Kernel of dense convolutions in a stage whose depth-wise kernel is ``kernel_size``.

    Example:
        >>> dense_kernel((1, 7, 7))
        (1, 3, 3)
    """
    return tuple(min(k, _LARGEST_KERNEL) for k in kernel_size)


class ResidualUnit(nn.Module):
    """Two convolutions with instance norms, added to the input and activated.

    The input is projected where the number of feature maps changes.

    Args:
        num_inputs: Feature maps that come in.
        num_features: Feature maps that go out.
        kernel_size: Odd number of voxels per axis.
    """

    def __init__(self, num_inputs: int, num_features: int, *, kernel_size: Sequence[int]) -> None:
        super().__init__()
        ndim = len(kernel_size)
        convolution = convolution_class(ndim)
        norm = nn.InstanceNorm2d if ndim == 2 else nn.InstanceNorm3d
        kernel = tuple(kernel_size)
        padding = tuple(k // 2 for k in kernel)
        self.conv1 = convolution(num_inputs, num_features, kernel, padding=padding, bias=False)
        self.norm1 = norm(num_features)
        self.conv2 = convolution(num_features, num_features, kernel, padding=padding, bias=False)
        self.norm2 = norm(num_features)
        self.skip = nn.Sequential()
        if num_inputs != num_features:
            self.skip.extend([convolution(num_inputs, num_features, 1, bias=False), norm(num_features)])
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, i, ...) to (b, f, ...)."""
        inner = self.activation(self.norm1(self.conv1(x)))
        out: Tensor = self.activation(self.norm2(self.conv2(inner)) + self.skip(x))
        return out


class UnetrDecoder(nn.Module):
    """Upsample, join with the encoder's feature maps, one residual unit per stage, and a 1x1 output layer each.

    Args:
        network: Topology; ``features`` are those of the skips and of the decoder alike.
        num_outputs: Channels of the output.
        has_last_unit: Whether one more residual unit follows at full resolution.
    """

    def __init__(self, network: NetworkPlan, num_outputs: int, *, has_last_unit: bool = False) -> None:
        super().__init__()
        ndim = len(network.strides[0])
        stages, transposed, heads = [], [], []
        for level in reversed(range(network.num_stages - 1)):  # lowest resolution first, as features travel
            features, stride = network.features[level], network.strides[level + 1]
            kernel = dense_kernel(network.kernel_sizes[level])
            transposed.append(
                transposed_convolution_class(ndim)(network.features[level + 1], features, stride, stride, bias=False)
            )
            units = [ResidualUnit(2 * features, features, kernel_size=kernel)]
            if has_last_unit and level == 0:
                units.append(ResidualUnit(features, features, kernel_size=kernel))
            stages.append(nn.Sequential(*units))
            if level < len(network.output_strides):
                heads.append(convolution_class(ndim)(features, num_outputs, 1))
        self.stages = nn.ModuleList(stages)
        self.transpconvs = nn.ModuleList(transposed)
        self.seg_layers = nn.ModuleList(heads)

    def forward(self, skips: Sequence[Tensor], run: Run, *, with_all_scales: bool) -> list[Tensor]:
        """Map feature maps to logits.

        Args:
            skips: Feature maps of all stages, highest resolution first.
            run: Calls the stages.
            with_all_scales: Whether the lower resolutions' logits are wanted too.

        Returns:
            Logits (b, k, ...) with the full resolution first.
        """
        x, decoded = skips[-1], []
        for skip, upsample, stage in zip(reversed(skips[:-1]), self.transpconvs, self.stages, strict=True):
            x = run(stage, torch.cat((upsample(x), skip), dim=1))
            decoded.append(x)
        if not with_all_scales:
            return [self.seg_layers[-1](x)]
        supervised = decoded[-len(self.seg_layers) :]
        return [head(x) for head, x in zip(self.seg_layers, supervised, strict=True)][::-1]
