"""Building blocks of the U-Nets, in two and three dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from autoseg.errors import SettingsError
from autoseg.plan import Activation, NetworkPlan, Norm

NEGATIVE_SLOPE = 0.01
_NUM_GROUPS = 8  # of group normalization
_SQUEEZE = 16  # feature maps per hidden unit of a squeeze-and-excitation layer


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStyle:
    """What blocks are made of; the defaults are nnU-Net's.

    Args:
        norm: Kind of normalization.
        activation: Nonlinearity.
        dropout: Share of feature maps that training drops after every convolution.
        squeeze_excitation: Whether blocks weigh their feature maps (https://arxiv.org/abs/1709.01507).
    """

    norm: Norm = "instance"
    activation: Activation = "leaky_relu"
    dropout: float = 0.0
    squeeze_excitation: bool = False

    @classmethod
    def of(cls, network: NetworkPlan) -> BlockStyle:
        """The style that a plan asks for."""
        return cls(
            norm=network.norm,
            activation=network.activation,
            dropout=network.dropout,
            squeeze_excitation=network.squeeze_excitation,
        )

    def normalization(self, num_features: int, ndim: int) -> nn.Module:
        """Make a normalization layer with a scale and a shift per feature map."""
        if self.norm == "batch":
            return (nn.BatchNorm2d if ndim == 2 else nn.BatchNorm3d)(num_features, eps=1e-5)
        if self.norm == "instance":
            return (nn.InstanceNorm2d if ndim == 2 else nn.InstanceNorm3d)(num_features, eps=1e-5, affine=True)
        return nn.GroupNorm(math.gcd(_NUM_GROUPS, num_features) if self.norm == "group" else 1, num_features, eps=1e-5)

    def nonlinearity(self) -> nn.Module:
        """Make an activation layer."""
        match self.activation:
            case "leaky_relu":
                return nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)
            case "relu":
                return nn.ReLU(inplace=True)
            case "elu":
                return nn.ELU(inplace=True)
            case "gelu":
                return nn.GELU()
            case "silu":
                return nn.SiLU(inplace=True)

    def dropping(self, ndim: int) -> nn.Module:
        """Make a layer that drops whole feature maps; nothing where none are dropped."""
        if self.dropout == 0:
            return nn.Identity()
        return (nn.Dropout2d if ndim == 2 else nn.Dropout3d)(self.dropout)

    def squeezing(self, num_features: int, ndim: int) -> nn.Module:
        """Make a squeeze-and-excitation layer; nothing where none is wanted."""
        return SqueezeExcitation(num_features, ndim) if self.squeeze_excitation else nn.Identity()


NNUNET_STYLE = BlockStyle()
"""Instance normalization and a leaky ReLU."""


class SqueezeExcitation(nn.Module):
    """Weighs feature maps by what an image shows as a whole (https://arxiv.org/abs/1709.01507).

    Args:
        num_features: Feature maps.
        ndim: Spatial axes, 2 or 3.
        reduction: Feature maps per hidden unit.
    """

    def __init__(self, num_features: int, ndim: int, *, reduction: int = _SQUEEZE) -> None:
        super().__init__()
        hidden = max(1, num_features // reduction)
        convolution = convolution_class(ndim)
        self.pool = (nn.AdaptiveAvgPool2d if ndim == 2 else nn.AdaptiveAvgPool3d)(1)
        # There are only few hidden units: one that a plain ReLU cut off for good would be missed.
        self.weigh = nn.Sequential(
            convolution(num_features, hidden, 1),
            nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
            convolution(hidden, num_features, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, f, ...) to the same shape."""
        return x * torch.sigmoid(self.weigh(self.pool(x)))


class ConvBlock(nn.Module):
    """Convolution, normalization and, if wanted, an activation.

    Padding keeps the size for odd kernels: ``(k - 1) // 2`` on both sides.

    Args:
        num_inputs: Feature maps that come in.
        num_features: Feature maps that go out.
        kernel_size: Voxels per axis.
        stride: Step per axis.
        bias: Whether the convolution has a bias.
        is_activated: Whether an activation follows the normalization.
        groups: Groups of feature maps that the convolution keeps apart.
        style: Kinds of normalization, activation and dropout.
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
        groups: int = 1,
        style: BlockStyle = NNUNET_STYLE,
    ) -> None:
        super().__init__()
        ndim = len(kernel_size)
        padding = tuple((k - 1) // 2 for k in kernel_size)
        self.conv = convolution_class(ndim)(
            num_inputs, num_features, tuple(kernel_size), tuple(stride), padding=padding, bias=bias, groups=groups
        )
        self.dropout = style.dropping(ndim)
        self.norm = style.normalization(num_features, ndim)
        self.activation = style.nonlinearity() if is_activated else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, i, ...) to (b, f, ... / stride)."""
        out: Tensor = self.activation(self.norm(self.dropout(self.conv(x))))
        return out


class ConvStack(nn.Module):
    """Convolution blocks in a row; the first one carries the stride.

    Args:
        num_inputs: Feature maps that come in.
        num_features: Feature maps of every block.
        num_convs: How many blocks, at least one.
        kernel_size: Voxels per axis.
        stride: Step of the first block per axis.
        style: What the blocks are made of; squeeze-and-excitation follows the last one.
    """

    def __init__(
        self,
        num_inputs: int,
        num_features: int,
        *,
        num_convs: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        style: BlockStyle = NNUNET_STYLE,
    ) -> None:
        super().__init__()
        ones = (1,) * len(kernel_size)
        first = ConvBlock(num_inputs, num_features, kernel_size=kernel_size, stride=stride, style=style)
        rest = [
            ConvBlock(num_features, num_features, kernel_size=kernel_size, stride=ones, style=style)
            for _ in range(num_convs - 1)
        ]
        self.convs = nn.Sequential(first, *rest)
        self.squeeze = style.squeezing(num_features, len(kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, i, ...) to (b, f, ... / stride)."""
        out: Tensor = self.squeeze(self.convs(x))
        return out


class ResidualBlock(nn.Module):
    """Two convolutions added to a shortcut (ResNet-D, https://arxiv.org/abs/1812.01187).

    The shortcut averages where the block strides, and projects without bias where the number of feature maps changes.

    Args:
        num_inputs: Feature maps that come in.
        num_features: Feature maps that go out.
        kernel_size: Voxels per axis of both convolutions.
        stride: Step of the first convolution per axis.
        style: What the block is made of; squeeze-and-excitation comes before the sum.
    """

    def __init__(
        self,
        num_inputs: int,
        num_features: int,
        *,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        style: BlockStyle = NNUNET_STYLE,
    ) -> None:
        super().__init__()
        ndim = len(kernel_size)
        ones = (1,) * ndim
        self.conv1 = ConvBlock(num_inputs, num_features, kernel_size=kernel_size, stride=stride, style=style)
        self.conv2 = ConvBlock(
            num_features, num_features, kernel_size=kernel_size, stride=ones, is_activated=False, style=style
        )
        shortcut: list[nn.Module] = []
        if any(s != 1 for s in stride):
            pooling: type[nn.Module] = nn.AvgPool2d if ndim == 2 else nn.AvgPool3d
            shortcut.append(pooling(tuple(stride), tuple(stride)))
        if num_inputs != num_features:
            projection = ConvBlock(
                num_inputs,
                num_features,
                kernel_size=ones,
                stride=ones,
                bias=False,
                is_activated=False,
                style=replace(style, dropout=0.0),
            )
            shortcut.append(projection)
        self.skip = nn.Sequential(*shortcut)
        self.squeeze = style.squeezing(num_features, ndim)
        self.activation = style.nonlinearity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, i, ...) to (b, f, ... / stride)."""
        out: Tensor = self.activation(self.squeeze(self.conv2(self.conv1(x))) + self.skip(x))
        return out


class ResidualStage(nn.Module):
    """Residual blocks in a row; the first one carries the stride.

    Args:
        num_inputs: Feature maps that come in.
        num_features: Feature maps of every block.
        num_blocks: How many blocks, at least one.
        kernel_size: Voxels per axis.
        stride: Step of the first block per axis.
        style: What the blocks are made of.
    """

    def __init__(
        self,
        num_inputs: int,
        num_features: int,
        *,
        num_blocks: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        style: BlockStyle = NNUNET_STYLE,
    ) -> None:
        super().__init__()
        ones = (1,) * len(kernel_size)
        first = ResidualBlock(num_inputs, num_features, kernel_size=kernel_size, stride=stride, style=style)
        rest = [
            ResidualBlock(num_features, num_features, kernel_size=kernel_size, stride=ones, style=style)
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
            for parameter in module.conv2.norm.parameters():
                nn.init.zeros_(parameter)
