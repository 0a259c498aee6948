"""Building blocks of the U-Nets, in two and three dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autoseg.errors import SettingsError

NEGATIVE_SLOPE = 0.01


def convolution_class(ndim: int) -> type[nn.Module]:
    """Convolution over ``ndim`` spatial axes.

    Raises:
        SettingsError: When ``ndim`` is neither 2 nor 3.
    """
    if ndim not in (2, 3):
        raise SettingsError(f"networks have two or three axes, found {ndim}")
    return nn.Conv2d if ndim == 2 else nn.Conv3d


def transposed_convolution_class(ndim: int) -> type[nn.Module]:
    """Transposed convolution over ``ndim`` spatial axes, 2 or 3."""
    return nn.ConvTranspose2d if ndim == 2 else nn.ConvTranspose3d


class ConvBlock(nn.Module):
    """Convolution, instance normalization and, if wanted, a leaky ReLU.

    Padding keeps the size for odd kernels: ``(k - 1) // 2`` on both sides.

    Args:
        num_inputs: Feature maps that come in.
        num_features: Feature maps that go out.
        kernel_size: Voxels per axis.
        stride: Step per axis.
        bias: Whether the convolution has a bias.
        is_activated: Whether a leaky ReLU follows the normalization.
    """

    def __init__(
        self,
        num_inputs: int,
        num_features: int,
        *,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        bias: bool = True,
        is_activated: bool = True,
    ) -> None:
        super().__init__()
        ndim = len(kernel_size)
        padding = tuple((k - 1) // 2 for k in kernel_size)
        self.conv = convolution_class(ndim)(
            num_inputs, num_features, tuple(kernel_size), tuple(stride), padding=padding, bias=bias
        )
        self.norm = (nn.InstanceNorm2d if ndim == 2 else nn.InstanceNorm3d)(num_features, eps=1e-5, affine=True)
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True) if is_activated else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, i, ...) to (b, f, ... / stride)."""
        out: Tensor = self.activation(self.norm(self.conv(x)))
        return out


class ConvStack(nn.Module):
    """Convolution blocks in a row; the first one carries the stride.

    Args:
        num_inputs: Feature maps that come in.
        num_features: Feature maps of every block.
        num_convs: How many blocks, at least one.
        kernel_size: Voxels per axis.
        stride: Step of the first block per axis.
    """

    def __init__(
        self, num_inputs: int, num_features: int, *, num_convs: int, kernel_size: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        ones = (1,) * len(kernel_size)
        first = ConvBlock(num_inputs, num_features, kernel_size=kernel_size, stride=stride)
        rest = [
            ConvBlock(num_features, num_features, kernel_size=kernel_size, stride=ones) for _ in range(num_convs - 1)
        ]
        self.convs = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, i, ...) to (b, f, ... / stride)."""
        out: Tensor = self.convs(x)
        return out


class ResidualBlock(nn.Module):
    """Two convolutions added to a shortcut (ResNet-D, https://arxiv.org/abs/1812.01187).

    The shortcut averages where the block strides, and projects without bias where the number of feature maps changes.

    Args:
        num_inputs: Feature maps that come in.
        num_features: Feature maps that go out.
        kernel_size: Voxels per axis of both convolutions.
        stride: Step of the first convolution per axis.
    """

    def __init__(
        self, num_inputs: int, num_features: int, *, kernel_size: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        ndim = len(kernel_size)
        ones = (1,) * ndim
        self.conv1 = ConvBlock(num_inputs, num_features, kernel_size=kernel_size, stride=stride)
        self.conv2 = ConvBlock(num_features, num_features, kernel_size=kernel_size, stride=ones, is_activated=False)
        shortcut: list[nn.Module] = []
        if any(s != 1 for s in stride):
            pooling: type[nn.Module] = nn.AvgPool2d if ndim == 2 else nn.AvgPool3d
            shortcut.append(pooling(tuple(stride), tuple(stride)))
        if num_inputs != num_features:
            projection = ConvBlock(
                num_inputs, num_features, kernel_size=ones, stride=ones, bias=False, is_activated=False
            )
            shortcut.append(projection)
        self.skip = nn.Sequential(*shortcut)
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, i, ...) to (b, f, ... / stride)."""
        out: Tensor = self.activation(self.conv2(self.conv1(x)) + self.skip(x))
        return out


class ResidualStage(nn.Module):
    """Residual blocks in a row; the first one carries the stride.

    Args:
        num_inputs: Feature maps that come in.
        num_features: Feature maps of every block.
        num_blocks: How many blocks, at least one.
        kernel_size: Voxels per axis.
        stride: Step of the first block per axis.
    """

    def __init__(
        self, num_inputs: int, num_features: int, *, num_blocks: int, kernel_size: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        ones = (1,) * len(kernel_size)
        first = ResidualBlock(num_inputs, num_features, kernel_size=kernel_size, stride=stride)
        rest = [
            ResidualBlock(num_features, num_features, kernel_size=kernel_size, stride=ones)
            for _ in range(num_blocks - 1)
        ]
        self.blocks = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, i, ...) to (b, f, ... / stride)."""
        out: Tensor = self.blocks(x)
        return out


@torch.no_grad()
def initialize_weights(network: nn.Module) -> None:
    """Draw initial weights, in place.

    Convolutions follow He et al. (https://arxiv.org/abs/1502.01852) for the leaky ReLU's slope, with zero biases.
    The last normalization of a residual block starts at zero, so that the block begins as its shortcut
    (https://arxiv.org/abs/1706.02677, section 5.1).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.conv2.norm.weight)
            nn.init.zeros_(module.conv2.norm.bias)
