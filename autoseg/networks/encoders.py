"""Encoders of classification networks, for a decoder: feature maps at strides 2, 4, 8, 16 and 32 of an image.

Every encoder knows the names that its parameters have in files of published weights. ResNets are written here, because
MONAI has none whose convolutions are grouped and none that can be made narrower; EfficientNet and DenseNet are MONAI's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

Level = Callable[[Tensor], Tensor]
"""From the features of one stride to those of the next."""

_EXPANSION = 4  # feature maps of a bottleneck's output in those inside


class Encoder(nn.Module):
    """Answers with features at strides 2 to 32.

    Attributes:
        channels: Feature maps at each of the five strides.
    """

    channels: tuple[int, ...]

    def levels(self) -> Sequence[Level]:
        """The five steps, each of which halves the resolution."""
        raise NotImplementedError

    def published_name(self, name: str) -> str:
        """What a parameter of this module is called in files of published weights."""
        return name


def scaled(number: int, scale: float, *, multiple: int = 16) -> int:
    """A share of a number of feature maps, as a multiple of a number.

    Example:
        >>> scaled(64, 1.0), scaled(64, 0.3)
        (64, 16)
    """
    return max(multiple, round(number * scale / multiple) * multiple)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNetForm:
    """What distinguishes one ResNet from another.

    Args:
        depths: Blocks at strides 4, 8, 16 and 32.
        block: Two convolutions ("basic"), or a bottleneck.
        groups: Groups that the middle convolution of a bottleneck keeps apart.
        group_width: Feature maps of each group at the highest resolution, in 64 of the block.
        reduction: Feature maps per hidden unit of squeeze and excitation; 0 has none.
    """

    depths: tuple[int, ...]
    block: Literal["basic", "bottleneck"] = "bottleneck"
    groups: int = 1
    group_width: int = 64
    reduction: int = 0


RESNETS = {
    "resnet18": ResNetForm(depths=(2, 2, 2, 2), block="basic"),
    "resnet34": ResNetForm(depths=(3, 4, 6, 3), block="basic"),
    "resnet50": ResNetForm(depths=(3, 4, 6, 3)),
    "resnet101": ResNetForm(depths=(3, 4, 23, 3)),
    "resnext50_32x4d": ResNetForm(depths=(3, 4, 6, 3), groups=32, group_width=4),
    "resnext101_32x8d": ResNetForm(depths=(3, 4, 23, 3), groups=32, group_width=8),
    "resnext101_32x16d": ResNetForm(depths=(3, 4, 23, 3), groups=32, group_width=16),
    "se_resnext50_32x4d": ResNetForm(depths=(3, 4, 6, 3), groups=32, group_width=4, reduction=16),
    "se_resnext101_32x4d": ResNetForm(depths=(3, 4, 23, 3), groups=32, group_width=4, reduction=16),
}
"""ResNet (https://arxiv.org/abs/1512.03385), ResNeXt (https://arxiv.org/abs/1611.05431) and SE-ResNeXt
(https://arxiv.org/abs/1709.01507) by their usual names."""


class _Squeeze(nn.Module):
    """Weighs feature maps by what the image shows as a whole; names are those of the published weights."""

    def __init__(self, num_features: int, reduction: int) -> None:
        super().__init__()
        hidden = max(1, num_features // reduction)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(num_features, hidden, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(hidden, num_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, f, ...) to the same shape."""
        weight: Tensor = self.fc2(self.relu(self.fc1(self.avg_pool(x)))).sigmoid()
        return x * weight


class _Block(nn.Module):
    """Convolutions with batch normalization, added to a shortcut; names are those of the published weights."""

    def __init__(self, num_inputs: int, planes: int, stride: int, form: ResNetForm) -> None:
        super().__init__()
        if form.block == "basic":
            outputs = planes
            kernels = [(num_inputs, planes, 3, stride, 1), (planes, outputs, 3, 1, 1)]
        else:
            outputs, inner = planes * _EXPANSION, math.floor(planes * form.group_width / 64) * form.groups
            kernels = [(num_inputs, inner, 1, 1, 1), (inner, inner, 3, stride, form.groups), (inner, outputs, 1, 1, 1)]
        self.num_convs, self.num_outputs = len(kernels), outputs
        for number, (i, o, kernel, step, groups) in enumerate(kernels, start=1):
            convolution = nn.Conv2d(i, o, kernel, step, padding=kernel // 2, groups=groups, bias=False)
            self.add_module(f"conv{number}", convolution)
            self.add_module(f"bn{number}", nn.BatchNorm2d(o))
        self.relu = nn.ReLU(inplace=True)
        self.se_module = _Squeeze(outputs, form.reduction) if form.reduction else nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or num_inputs != outputs:
            projection = nn.Conv2d(num_inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, i, ...) to (b, o, ... / stride)."""
        out = x
        for number in range(1, self.num_convs + 1):
            out = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(out))
            if number < self.num_convs:
                out = self.relu(out)
        result: Tensor = self.relu(self.se_module(out) + self.downsample(x))
        return result


class ResNetEncoder(Encoder):
    """ResNet, ResNeXt or SE-ResNeXt without its classifier.

    Args:
        name: One of :data:`RESNETS`.
        num_channels: Channels of the image.
        scale: Share of the published feature maps.
    """

    def __init__(self, name: str, *, num_channels: int, scale: float = 1.0) -> None:
        super().__init__()
        form = RESNETS[name]
        planes = [scaled(n, scale) for n in (64, 128, 256, 512)]
        self.conv1 = nn.Conv2d(num_channels, planes[0], 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.relu = nn.ReLU(inplace=True)
        # SE-ResNeXt was published with windows that begin inside the image.
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True) if form.reduction else nn.MaxPool2d(3, 2, padding=1)
        self.has_squeeze = form.reduction > 0
        channels = [planes[0]]
        for number, (depth, width) in enumerate(zip(form.depths, planes, strict=True), start=1):
            layer, inputs = nn.Sequential(), channels[-1]
            for place in range(depth):
                block = _Block(inputs, width, 2 if place == 0 and number > 1 else 1, form)
                layer.append(block)
                inputs = block.num_outputs
            self.add_module(f"layer{number}", layer)
            channels.append(inputs)
        self.channels = tuple(channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def levels(self) -> Sequence[Level]:
        """Stem, then the layers, the first of which begins with a maximum."""
        return (self._stem, self._first, *(self.get_submodule(f"layer{number}") for number in (2, 3, 4)))

    def published_name(self, name: str) -> str:
        """As in torchvision's files, and of SE-ResNeXt in those of Cadene's pretrained-models."""
        is_stem = name.startswith(("conv1.", "bn1."))
        return f"layer0.{name}" if self.has_squeeze and is_stem else name

    def _stem(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn1(self.conv1(x)))
        return out

    def _first(self, x: Tensor) -> Tensor:
        out: Tensor = self.get_submodule("layer1")(self.maxpool(x))
        return out
