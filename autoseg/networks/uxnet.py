"""3D UX-Net (https://arxiv.org/abs/2209.15076): large depth-wise kernels in place of window attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from autoseg.networks.base import SegmentationNetwork
from autoseg.networks.blocks import convolution_class
from autoseg.networks.convnext import ChannelNorm, ConvNextDown, UxBlock, initialize_convnext_weights
from autoseg.networks.options import UXNetOptions
from autoseg.networks.rules import read_options
from autoseg.networks.unetr import ResidualUnit, UnetrDecoder, dense_kernel
from autoseg.plan import NetworkPlan


class UXNet(SegmentationNetwork):
    """UX-Net blocks, a residual unit on every scale, and UNETR's decoder.

    The published network has strides 1, 2, 2, 2, 2, features 48, 96, 192, 384, 768, depth-wise kernels of 7 voxels and
    two blocks per stage. Blocks work on half of a stage's features; stage 0 is a residual unit on the image. Kernels
    of (1, 7, 7) make the blocks two-dimensional, for thick slices.

    Args:
        network: Topology: ``kernel_sizes`` are those of the depth-wise convolutions (the second stage's is the stem's
            too), ``encoder_blocks`` counts UX-Net blocks from the second stage on.
        num_channels: Channels of the image.
        num_outputs: Channels of the output.
    """

    def __init__(self, network: NetworkPlan, *, num_channels: int, num_outputs: int) -> None:
        super().__init__()
        options = read_options(network, UXNetOptions)
        self.deep_supervision = network.deep_supervision
        widths = [f // 2 for f in network.features[1:]]
        stages, norms, units = [], [], []
        inputs = (num_channels, *widths[:-1])
        for level, (num_inputs, width) in enumerate(zip(inputs, widths, strict=True), start=1):
            kernel, stride = network.kernel_sizes[level], network.strides[level]
            down = (
                _stem(num_inputs, width, kernel, stride)
                if level == 1
                else ConvNextDown(num_inputs, width, stride=stride)
            )
            blocks = [
                UxBlock(width, kernel_size=kernel, drop_path=options.drop_path, initial_scale=options.initial_scale)
                for _ in range(network.encoder_blocks[level])
            ]
            stages.append(nn.Sequential(down, *blocks))
            norms.append(ChannelNorm(width))
            units.append(ResidualUnit(width, network.features[level], kernel_size=dense_kernel(kernel)))
        self.stages = nn.ModuleList(stages)
        self.norms = nn.ModuleList(norms)
        initialize_convnext_weights(self.stages)
        raw = ResidualUnit(num_channels, network.features[0], kernel_size=dense_kernel(network.kernel_sizes[0]))
        self.units = nn.ModuleList([raw, *units])
        self.decoder = UnetrDecoder(network, num_outputs, has_last_unit=True)

    def forward(self, x: Tensor) -> list[Tensor] | Tensor:
        """Compute logits.

        Args:
            x: Images (b, c, ...), every edge a multiple of the network's divisor.

        Returns:
            With deep supervision a list, full resolution (b, k, ...) first; otherwise its first entry alone.
        """
        scales = [x]
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = self.stage(stage, x)
            scales.append(norm(x))
        skips = [self.stage(unit, scale) for unit, scale in zip(self.units, scales, strict=True)]
        outputs: list[Tensor] = self.decoder(skips, self.stage, with_all_scales=self.deep_supervision)
        return outputs if self.deep_supervision else outputs[0]

    def tap_modules(self) -> Mapping[str, nn.Module]:
        """The deepest feature maps, and those before the last output layer."""
        return {"bottleneck": self.units[-1], "last_decoder": self.decoder.stages[-1]}


def _stem(num_channels: int, num_features: int, kernel_size: Sequence[int], stride: Sequence[int]) -> nn.Module:
    padding = tuple(k // 2 for k in kernel_size)
    convolution = convolution_class(len(stride))(
        num_channels, num_features, tuple(kernel_size), tuple(stride), padding=padding
    )
    return nn.Sequential(convolution, ChannelNorm(num_features))
