"""ACC-UNet (https://arxiv.org/abs/2308.13680): a U-Net that takes long range and level fusion from transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from autoseg.networks.base import SegmentationNetwork
from autoseg.networks.blocks import BlockStyle, convolution_class, transposed_convolution_class
from autoseg.networks.hanc import EXPANSION, HancBlock, LevelFusion, ResPath
from autoseg.networks.options import ACCUNetOptions
from autoseg.networks.rules import read_options
from autoseg.plan import NetworkPlan

_WIDE_EXPANSION = 34  # of the one block that the authors made wider, which brings the network to 16.77 million
_NUM_FUSIONS = 3


def reaches(num_stages: int, reach: int) -> tuple[int, ...]:
    """Levels of pooling per stage: at most ``reach``, fewer where feature maps are small already.

    Example:
        >>> reaches(5, 3)
        (3, 3, 3, 2, 1)
    """
    return tuple(min(reach, num_stages - stage) for stage in range(num_stages))


class ACCUNet(SegmentationNetwork):
    """U-Net of HANC blocks with residual paths and level fusion on the skips.

    The published network is two-dimensional with features 32, 64, 128, 256, 512 and two blocks per stage. Edges need
    not divide evenly: strided stages round up, and the decoder cuts what is over.

    Args:
        network: Topology.
        num_channels: Channels of the image.
        num_outputs: Channels of the output.
    """

    def __init__(self, network: NetworkPlan, *, num_channels: int, num_outputs: int) -> None:
        super().__init__()
        style = BlockStyle.of(network)
        self.deep_supervision = network.deep_supervision
        ndim, features, kernels = len(network.strides[0]), network.features, network.kernel_sizes
        num_skips = network.num_stages - 1
        reach_of = reaches(network.num_stages, read_options(network, ACCUNetOptions).reach)
        inputs = (num_channels, *features[:-1])
        self.pools = nn.ModuleList([_pool(stride) for stride in network.strides])
        self.encoder = nn.ModuleList(
            [
                _hanc_stage(i, f, [EXPANSION] * n, kernel_size=kernel, reach=r, style=style)
                for i, f, n, kernel, r in zip(inputs, features, network.encoder_blocks, kernels, reach_of, strict=True)
            ]
        )
        self.paths = nn.ModuleList(
            [
                ResPath(features[level], num_convs=num_skips - level, kernel_size=kernels[level], style=style)
                for level in range(num_skips)
            ]
        )
        self.fusions = nn.ModuleList(
            [LevelFusion(features[:-1], ndim=ndim, style=style) for _ in range(_NUM_FUSIONS if num_skips else 0)]
        )
        transposed, stages = [], []
        for level, num_blocks in zip(reversed(range(num_skips)), network.decoder_blocks, strict=True):
            stride = network.strides[level + 1]
            transposed.append(transposed_convolution_class(ndim)(features[level + 1], features[level], stride, stride))
            expansions = [EXPANSION] * num_blocks
            if 0 < level == num_skips - 2:
                expansions[1:] = [_WIDE_EXPANSION] * (num_blocks - 1)
            stage = _hanc_stage(
                2 * features[level],
                features[level],
                expansions,
                kernel_size=kernels[level],
                reach=reach_of[level],
                style=style,
            )
            stages.append(stage)
        self.transpconvs = nn.ModuleList(transposed)
        self.stages = nn.ModuleList(stages)
        self.seg_layers = nn.ModuleList(
            [
                convolution_class(ndim)(features[level], num_outputs, 1)
                for level in reversed(range(len(network.output_strides)))
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor] | Tensor:
        """Compute logits.

        Args:
            x: Images (b, c, ...).

        Returns:
            With deep supervision a list, full resolution (b, k, ...) first; otherwise its first entry alone.
        """
        features = []
        for pool, stage in zip(self.pools, self.encoder, strict=True):
            x = self.stage(stage, pool(x))
            features.append(x)
        skips = [self.stage(path, skip) for path, skip in zip(self.paths, features[:-1], strict=True)]
        for fusion in self.fusions:
            skips = fusion(skips)
        decoded = [x]
        for skip, upsample, stage in zip(reversed(skips), self.transpconvs, self.stages, strict=True):
            joined = torch.cat((_cut(upsample(decoded[-1]), skip.shape[2:]), skip), dim=1)
            decoded.append(self.stage(stage, joined))
        if not self.deep_supervision:
            logits: Tensor = self.seg_layers[-1](decoded[-1])
            return logits
        supervised = decoded[-len(self.seg_layers) :]
        return [head(x) for head, x in zip(self.seg_layers, supervised, strict=True)][::-1]

    def tap_modules(self) -> Mapping[str, nn.Module]:
        """The deepest feature maps, and those before the last output layer."""
        return {"bottleneck": self.encoder[-1], "last_decoder": [*self.encoder[:1], *self.stages][-1]}


def _hanc_stage(
    num_inputs: int,
    num_features: int,
    expansions: Sequence[int],
    *,
    kernel_size: Sequence[int],
    reach: int,
    style: BlockStyle,
) -> nn.Module:
    """Blocks in a row, one per entry of ``expansions``."""
    inputs = [num_inputs] + [num_features] * (len(expansions) - 1)
    return nn.Sequential(
        *(
            HancBlock(i, num_features, kernel_size=kernel_size, reach=reach, expansion=expansion, style=style)
            for i, expansion in zip(inputs, expansions, strict=True)
        )
    )


def _pool(stride: Sequence[int]) -> nn.Module:
    if max(stride) == 1:
        return nn.Identity()
    pool = nn.MaxPool2d if len(stride) == 2 else nn.MaxPool3d
    return pool(tuple(stride), tuple(stride), ceil_mode=True)


def _cut(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Without the voxels beyond ``shape`` that rounding up has added."""
    return x[(slice(None), slice(None), *(slice(n) for n in shape))]
