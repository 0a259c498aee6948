"""U-Nets with a plain or a residual encoder (https://arxiv.org/abs/1505.04597, https://arxiv.org/abs/2404.09556).

Parameters carry the names that nnU-Net's checkpoints have, without the duplicates there, so that weights can be
exchanged by renaming nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autoseg.networks.attention import OpenGate, make_gate
from autoseg.networks.base import SegmentationNetwork
from autoseg.networks.blocks import (
    BlockStyle,
    ConvStack,
    ResidualStage,
    convolution_class,
    initialize_weights,
    transposed_convolution_class,
)
from autoseg.networks.options import UNetOptions
from autoseg.networks.rules import read_options
from autoseg.plan import NetworkPlan

Run = Callable[..., Any]
"""Calls a module with tensors; :meth:`SegmentationNetwork.stage`, which may save memory on the way."""


class PlainEncoder(nn.Module):
    """Stages of convolution blocks, each at a lower resolution than the one before.

    Args:
        network: Topology.
        num_channels: Channels of the image.
    """

    def __init__(self, network: NetworkPlan, num_channels: int) -> None:
        super().__init__()
        inputs = (num_channels, *network.features[:-1])
        style = BlockStyle.of(network)
        stages = [
            nn.Sequential(ConvStack(i, f, num_convs=n, kernel_size=k, stride=s, style=style))
            for i, f, n, k, s in zip(
                inputs, network.features, network.encoder_blocks, network.kernel_sizes, network.strides, strict=True
            )
        ]
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor, run: Run) -> list[Tensor]:
        """Map an image (b, c, ...) to the feature maps of all stages, highest resolution first."""
        skips = []
        for stage in self.stages:
            x = run(stage, x)
            skips.append(x)
        return skips


class ResidualEncoder(nn.Module):
    """A convolution block, then stages of residual blocks, each at a lower resolution than the one before.

    Args:
        network: Topology.
        num_channels: Channels of the image.
    """

    def __init__(self, network: NetworkPlan, num_channels: int) -> None:
        super().__init__()
        first = network.features[0]
        kernel_size = network.kernel_sizes[0]
        style = BlockStyle.of(network)
        ones = (1,) * len(kernel_size)
        self.stem = ConvStack(
            num_channels,
            first,
            num_convs=1,
            kernel_size=kernel_size,
            stride=ones,
            style=replace(style, squeeze_excitation=False),
        )
        inputs = (first, *network.features[:-1])
        stages = [
            ResidualStage(i, f, num_blocks=n, kernel_size=k, stride=s, style=style)
            for i, f, n, k, s in zip(
                inputs, network.features, network.encoder_blocks, network.kernel_sizes, network.strides, strict=True
            )
        ]
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor, run: Run) -> list[Tensor]:
        """Map an image (b, c, ...) to the feature maps of all stages, highest resolution first."""
        x = run(self.stem, x)
        skips = []
        for stage in self.stages:
            x = run(stage, x)
            skips.append(x)
        return skips


class Decoder(nn.Module):
    """Way back to full resolution: upsample, join with the encoder's feature maps, convolve.

    Every stage has its own 1x1 output layer. A network of one stage has nothing to decode: its output layer sits on
    the encoder.

    Args:
        network: Topology.
        num_outputs: Channels of the output.
        options: Which layers have a bias.
    """

    def __init__(self, network: NetworkPlan, num_outputs: int, options: UNetOptions) -> None:
        super().__init__()
        ndim = len(network.strides[0])
        ones = (1,) * ndim
        style = BlockStyle.of(network)
        self.num_supervised = len(replace(network, deep_supervision=True).output_strides)
        stages, transposed, heads, gates = [], [], [], []
        # Lowest resolution first, as features travel.
        for level, num_convs in zip(reversed(range(network.num_stages - 1)), network.decoder_blocks, strict=True):
            features = network.features[level]
            stride = network.strides[level + 1]
            upsample = transposed_convolution_class(ndim)(
                network.features[level + 1], features, stride, stride, bias=options.upsampling_bias
            )
            kernel_size = network.kernel_sizes[level]
            stack = ConvStack(
                2 * features, features, num_convs=num_convs, kernel_size=kernel_size, stride=ones, style=style
            )
            stages.append(stack)
            transposed.append(upsample)
            heads.append(convolution_class(ndim)(features, num_outputs, 1, bias=options.head_bias))
            gates.append(make_gate(network, level, style))
        if not heads:
            heads.append(convolution_class(ndim)(network.features[0], num_outputs, 1, bias=options.head_bias))
        self.gates = nn.ModuleList(gates)
        self.stages = nn.ModuleList(stages)
        self.transpconvs = nn.ModuleList(transposed)
        self.seg_layers = nn.ModuleList(heads)

    def forward(self, skips: list[Tensor], run: Run, *, with_all_scales: bool) -> list[Tensor]:
        """Map the encoder's feature maps to logits.

        Args:
            skips: Feature maps of all stages, highest resolution first.
            run: Calls the stages.
            with_all_scales: Whether the lower resolutions' logits are wanted too.

        Returns:
            Logits (b, k, ...) with the full resolution first.
        """
        x = skips[-1]
        if not self.stages:
            return [self.seg_layers[0](x)]
        outputs = []
        first_supervised = len(self.stages) - (self.num_supervised if with_all_scales else 1)
        parts = zip(self.transpconvs, self.gates, self.stages, self.seg_layers, strict=True)
        for depth, (upsample, gate, stage, head) in enumerate(parts):
            finer = upsample(x)
            skip = gate(skips[-2 - depth], x, finer)
            x = run(stage, torch.cat((finer, skip), dim=1))
            if depth >= first_supervised:
                outputs.append(head(x))
        return outputs[::-1]

    def gated_depths(self) -> list[tuple[int, nn.Module]]:
        """Decoder stages, counted from the lowest resolution, whose skip has an attention gate, and the gates."""
        return [(depth, gate) for depth, gate in enumerate(self.gates) if not isinstance(gate, OpenGate)]


class UNet(SegmentationNetwork):
    """Encoder and decoder.

    Args:
        encoder: Maps an image to feature maps, highest resolution first.
        network: Topology, the same as the encoder's.
        num_outputs: Channels of the output.
        options: Which layers have a bias; None reads them from the plan.
        bottleneck: What the deepest feature maps pass through before the decoder; None for nothing.
    """

    def __init__(
        self,
        encoder: nn.Module,
        network: NetworkPlan,
        num_outputs: int,
        *,
        options: UNetOptions | None = None,
        bottleneck: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.bottleneck = bottleneck or nn.Identity()
        self.decoder = Decoder(network, num_outputs, options or read_options(network, UNetOptions))
        self.deep_supervision = network.deep_supervision
        initialize_weights(self)

    def forward(self, x: Tensor) -> list[Tensor] | Tensor:
        """Compute logits.

        Args:
            x: Images (b, c, ...), every edge a multiple of the network's divisor.

        Returns:
            With deep supervision a list, full resolution (b, k, ...) first; otherwise its first entry alone.
        """
        skips = self.encoder(x, self.stage)
        skips[-1] = self.bottleneck(skips[-1])
        outputs: list[Tensor] = self.decoder(skips, self.stage, with_all_scales=self.deep_supervision)
        return outputs if self.deep_supervision else outputs[0]

    def tap_modules(self) -> Mapping[str, nn.Module]:
        """The deepest feature maps, those before the last output layer, and the attention of every gate."""
        decoded = list(self.decoder.stages or self.encoder.children())[-1]
        attention = {f"attention{i}": gate.get_submodule("attention") for i, gate in self.decoder.gated_depths()}
        return {"bottleneck": self.bottleneck, "last_decoder": decoded, **attention}


class PlainUNet(UNet):
    """U-Net whose encoder stacks convolutions; nnU-Net's original network (https://arxiv.org/abs/1904.08128).

    Args:
        network: Topology.
        num_channels: Channels of the image.
        num_outputs: Channels of the output.
    """

    def __init__(self, network: NetworkPlan, *, num_channels: int, num_outputs: int) -> None:
        super().__init__(PlainEncoder(network, num_channels), network, num_outputs)


class ResidualEncoderUNet(UNet):
    """U-Net whose encoder stacks residual blocks (https://arxiv.org/abs/2404.09556).

    Args:
        network: Topology.
        num_channels: Channels of the image.
        num_outputs: Channels of the output.
    """

    def __init__(self, network: NetworkPlan, *, num_channels: int, num_outputs: int) -> None:
        super().__init__(ResidualEncoder(network, num_channels), network, num_outputs)
