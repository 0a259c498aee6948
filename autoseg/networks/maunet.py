"""Residual U-Net with attention gates on the skips and attention between positions at the bottom (MAUNet)."""

from __future__ import annotations

from torch import nn

from autoseg.networks.attention import PositionAttention
from autoseg.networks.options import MAUNetOptions
from autoseg.networks.rules import read_options
from autoseg.networks.unet import ResidualEncoder, UNet
from autoseg.plan import NetworkPlan


class MAUNet(UNet):
    """Residual encoder, gates as the plan says, and position attention between encoder and decoder.

    Args:
        network: Topology, of four levels as published.
        num_channels: Channels of the image.
        num_outputs: Channels of the output.
    """

    def __init__(self, network: NetworkPlan, *, num_channels: int, num_outputs: int) -> None:
        options = read_options(network, MAUNetOptions)
        bottleneck: nn.Module | None = None
        if options.position_attention:
            bottleneck = PositionAttention(network.features[-1], len(network.strides[0]))
        encoder = ResidualEncoder(network, num_channels)
        super().__init__(encoder, network, num_outputs, options=options, bottleneck=bottleneck)
