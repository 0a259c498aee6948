"""The plain U-Net with one convolution per stage that CardiacSeg trains as its 3D baseline.

MONAI's UNet(channels=(64, 128, 256, 256), strides=(2, 2, 2), num_res_units=0, norm=BATCH, act=RELU): the first
convolution already strides, and the last transposed one gives the logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from autoseg.networks.base import SegmentationNetwork
from autoseg.networks.blocks import (
    BlockStyle,
    ConvBlock,
    convolution_class,
    initialize_weights,
    transposed_convolution_class,
)
from autoseg.plan import NetworkPlan


class CardiacUNet(SegmentationNetwork):
    """Strided convolutions down, transposed ones up, skips joined before each of them; no deep supervision.

    The features of a stage are those of the convolution that strides to the next one, and of the last stage those of
    the convolution at the bottom.

    Args:
        network: Topology.
        num_channels: Channels of the image.
        num_outputs: Channels of the output.
    """

    def __init__(self, network: NetworkPlan, *, num_channels: int, num_outputs: int) -> None:
        super().__init__()
        style, features, ndim = BlockStyle.of(network), network.features, len(network.strides[0])
        steps = network.strides[1:]
        inputs = (num_channels, *features)
        self.encoder = nn.ModuleList(
            ConvBlock(i, f, kernel_size=k, stride=s, style=style)
            for i, f, k, s in zip(inputs[: len(steps)], features[:-1], network.kernel_sizes, steps, strict=False)
        )
        ones = (1,) * ndim
        self.bottom = ConvBlock(
            inputs[-2], features[-1], kernel_size=network.kernel_sizes[-1], stride=ones, style=style
        )
        decoder: list[nn.Module] = []
        coming = features[-1]
        for level in reversed(range(1, len(steps))):
            upsample = _upsampling(
                coming + features[level], features[level - 1], network.kernel_sizes[level], steps[level]
            )
            decoder.append(
                nn.Sequential(
                    upsample, style.dropping(ndim), style.normalization(features[level - 1], ndim), style.nonlinearity()
                )
            )
            coming = features[level - 1]
        self.decoder = nn.ModuleList(decoder)
        kernel = network.kernel_sizes[0]
        self.head: nn.Module = (
            _upsampling(coming + features[0], num_outputs, kernel, steps[0])
            if steps
            else convolution_class(ndim)(coming, num_outputs, kernel, padding=tuple(k // 2 for k in kernel))
        )
        initialize_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits.

        Args:
            x: Images (b, c, ...), every edge a multiple of the network's divisor.
        """
        skips = []
        for block in self.encoder:
            x = self.stage(block, x)
            skips.append(x)
        x = self.stage(self.bottom, x)
        for block in self.decoder:
            x = self.stage(block, torch.cat((skips.pop(), x), dim=1))
        logits: Tensor = self.head(torch.cat((skips.pop(), x), dim=1) if skips else x)
        return logits

    def tap_modules(self) -> Mapping[str, nn.Module]:
        """The deepest feature maps, and those before the last layer."""
        return {"bottleneck": self.bottom, "last_decoder": self.decoder[-1] if self.decoder else self.bottom}


def _upsampling(num_inputs: int, num_outputs: int, kernel: Sequence[int], stride: Sequence[int]) -> nn.Module:
    """A transposed convolution that multiplies every edge by the stride, for odd kernels."""
    return transposed_convolution_class(len(stride))(
        num_inputs,
        num_outputs,
        tuple(kernel),
        tuple(stride),
        padding=tuple(k // 2 for k in kernel),
        output_padding=tuple(s - 1 for s in stride),
    )
