"""EfficientNet and DenseNet of MONAI as encoders. Importing this module imports MONAI, which is slow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from autoseg.errors import SettingsError
from autoseg.networks.encoders import Encoder, Level, scaled

try:
    from monai.networks.nets import densenet as monai_densenet
    from monai.networks.nets import efficientnet as monai_efficientnet
except ImportError as error:
    _missing = (error.name or "monai").partition(".")[0]
    raise SettingsError(
        f"efficientnet and densenet have encoders of MONAI, and {_missing} is not installed: "
        "pip install 'autoseg[monai]'"
    ) from None

_BLOCKS = (
    "r1_k3_s11_e1_i32_o16_se0.25",
    "r2_k3_s22_e6_i16_o24_se0.25",
    "r2_k5_s22_e6_i24_o40_se0.25",
    "r3_k3_s22_e6_i40_o80_se0.25",
    "r3_k5_s11_e6_i80_o112_se0.25",
    "r4_k5_s22_e6_i112_o192_se0.25",
    "r1_k3_s11_e6_i192_o320_se0.25",
)
"""Repeats, kernel, stride, expansion, inputs, outputs and squeeze of B0, as MONAI writes them (arxiv 1905.11946)."""

_WIDTHS = (1.0, 1.0, 1.1, 1.2, 1.4, 1.6, 1.8, 2.0)
_DEPTHS = (1.0, 1.1, 1.2, 1.4, 1.8, 2.2, 2.6, 3.1)
"""Feature maps and repeats of B0 to B7 in those of B0."""

_EVEN = 256  # pixels for which MONAI computes paddings; those of every multiple of 32 are the same
_DROPPED = 0.2  # of the last block's branches, in training


class EfficientNetEncoder(Encoder):
    """EfficientNet (https://arxiv.org/abs/1905.11946) up to its last block.

    Args:
        name: "b0" to "b7".
        num_channels: Channels of the image.
        scale: Share of the published feature maps.
    """

    def __init__(self, name: str, *, num_channels: int, scale: float = 1.0) -> None:
        super().__init__()
        width, depth = _WIDTHS[int(name[1])], _DEPTHS[int(name[1])]
        net = monai_efficientnet.EfficientNet(
            blocks_args_str=list(_BLOCKS),
            spatial_dims=2,
            in_channels=num_channels,
            width_coefficient=width * scale,
            depth_coefficient=depth,
            image_size=_EVEN,
            drop_connect_rate=_DROPPED,
        )
        net.set_swish(memory_efficient=False)  # the other form cannot be compiled, nor its memory be counted
        self._conv_stem_padding: nn.Module = net._conv_stem_padding
        self._conv_stem: nn.Module = net._conv_stem
        self._bn0: nn.Module = net._bn0
        self._swish: nn.Module = net._swish
        self._blocks: nn.Sequential = net._blocks
        # Features are taken before the block that strides next; the last are those of all blocks.
        self._ends: Sequence[int] = net.extract_stacks
        outputs = [block[-1]._project_conv.out_channels for block in self._blocks]
        first = outputs[self._ends[0] - 1] if self._ends[0] else self._conv_stem.out_channels
        self.channels = (first, *(outputs[end - 1] for end in self._ends[1:]))

    def levels(self) -> Sequence[Level]:
        """Stem with the blocks at its resolution, then the blocks of every further stride."""
        parts = [self._blocks[first:last] for first, last in zip(self._ends, self._ends[1:], strict=False)]
        return (self._stem, *parts)

    def published_name(self, name: str) -> str:
        """As in the files of efficientnet-pytorch, whose blocks are one list."""
        return re.sub(r"^(_blocks)\.\d+\.", r"\1.", name)

    def _stem(self, x: Tensor) -> Tensor:
        out: Tensor = self._swish(self._bn0(self._conv_stem(self._conv_stem_padding(x))))
        for block in list(self._blocks)[: self._ends[0]]:
            out = block(out)
        return out


_DENSE = {
    "densenet121": (64, 32, (6, 12, 24, 16)),
    "densenet161": (96, 48, (6, 12, 36, 24)),
    "densenet169": (64, 32, (6, 12, 32, 32)),
    "densenet201": (64, 32, (6, 12, 48, 32)),
}
"""First feature maps, those that every layer adds, and layers per block (https://arxiv.org/abs/1608.06993)."""


class DenseNetEncoder(Encoder):
    """DenseNet without its classifier.

    Args:
        name: "densenet121", "densenet161", "densenet169" or "densenet201".
        num_channels: Channels of the image.
        scale: Share of the published feature maps.
    """

    def __init__(self, name: str, *, num_channels: int, scale: float = 1.0) -> None:
        super().__init__()
        first, growth, depths = _DENSE[name]
        growth = scaled(growth, scale, multiple=4)
        first = scaled(first, scale, multiple=4)
        net = monai_densenet.DenseNet(
            spatial_dims=2,
            in_channels=num_channels,
            out_channels=1,
            init_features=first,
            growth_rate=growth,
            block_config=depths,
        )
        self.features: nn.Sequential = net.features
        channels = [first]
        for place, depth in enumerate(depths):
            coming = channels[-1] if place == 0 else channels[-1] // 2
            channels.append(coming + depth * growth)
        self.channels = tuple(channels)

    def levels(self) -> Sequence[Level]:
        """Stem; then each block, which begins with the maximum or with the transition that strides."""
        middle = [(f"transition{n}", f"denseblock{n + 1}") for n in (1, 2)]
        parts = [("conv0", "norm0", "relu0"), ("pool0", "denseblock1"), *middle]
        return [partial(self._through, names) for names in (*parts, ("transition3", "denseblock4", "norm5"))]

    def _through(self, names: tuple[str, ...], x: Tensor) -> Tensor:
        for name in names:
            x = self.features.get_submodule(name)(x)
        return x

    def published_name(self, name: str) -> str:
        """As in torchvision's files of the present."""
        return name.replace(".layers.", ".")
