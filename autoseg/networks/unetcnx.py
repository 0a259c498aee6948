"""U-Net with a ConvNeXt V2 encoder (https://arxiv.org/abs/2301.00808), as CardiacSegV2's ``unetcnx_a1`` has it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from autoseg.networks.base import SegmentationNetwork
from autoseg.networks.blocks import convolution_class
from autoseg.networks.convnext import ChannelNorm, ConvNextBlock, ConvNextDown, initialize_convnext_weights
from autoseg.networks.options import UNetCNXOptions
from autoseg.networks.rules import read_options
from autoseg.networks.unetr import ResidualUnit, UnetrDecoder, dense_kernel
from autoseg.plan import NetworkPlan


class UNetCNX(SegmentationNetwork):
    """ConvNeXt V2 stages on patches of the image, a residual unit on the image itself, and UNETR's decoder.

    The published network has strides 1, 4, 2, 2, 2, features 48, 48, 96, 192, 384, depth-wise kernels of 7 voxels and
    (3, 3, 9, 3) blocks; stage 0 is the residual unit. Thick slices are cut less often by strides of one.

    Args:
        network: Topology: ``kernel_sizes`` are those of the depth-wise convolutions, ``encoder_blocks`` counts
            ConvNeXt blocks from the second stage on.
        num_channels: Channels of the image.
        num_outputs: Channels of the output.
    """

    def __init__(self, network: NetworkPlan, *, num_channels: int, num_outputs: int) -> None:
        super().__init__()
        drop_path = read_options(network, UNetCNXOptions).drop_path
        self.deep_supervision = network.deep_supervision
        self.raw_skip = ResidualUnit(
            num_channels, network.features[0], kernel_size=dense_kernel(network.kernel_sizes[0])
        )
        blocks = network.encoder_blocks[1:]
        rates = iter([drop_path * i / max(1, sum(blocks) - 1) for i in range(sum(blocks))])
        stages = []
        for level, num_blocks in enumerate(blocks, start=1):
            features, stride = network.features[level], network.strides[level]
            if level == 1:
                stem = convolution_class(len(stride))(num_channels, features, stride, stride)
                layers: list[nn.Module] = [stem, ChannelNorm(features)]
            else:
                layers = [ConvNextDown(network.features[level - 1], features, stride=stride)]
            layers += [
                ConvNextBlock(features, kernel_size=network.kernel_sizes[level], drop_path=next(rates))
                for _ in range(num_blocks)
            ]
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)
        initialize_convnext_weights(self.stages)
        self.decoder = UnetrDecoder(network, num_outputs)

    def forward(self, x: Tensor) -> list[Tensor] | Tensor:
        """Compute logits.

        Args:
            x: Images (b, c, ...), every edge a multiple of the network's divisor.

        Returns:
            With deep supervision a list, full resolution (b, k, ...) first; otherwise its first entry alone.
        """
        skips = [self.stage(self.raw_skip, x)]
        for stage in self.stages:
            x = self.stage(stage, x)
            skips.append(x)
        outputs: list[Tensor] = self.decoder(skips, self.stage, with_all_scales=self.deep_supervision)
        return outputs if self.deep_supervision else outputs[0]

    def tap_modules(self) -> Mapping[str, nn.Module]:
        """The deepest feature maps, and those before the last output layer."""
        return {"bottleneck": self.stages[-1], "last_decoder": self.decoder.stages[-1]}
