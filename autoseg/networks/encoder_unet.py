"""U-Nets whose encoder is a classification network, so that weights learned from photographs can begin them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autoseg.errors import SettingsError
from autoseg.networks.base import SegmentationNetwork
from autoseg.networks.blocks import BlockStyle, ConvStack
from autoseg.networks.encoders import Encoder, ResNetEncoder
from autoseg.networks.options import (
    DenseNetOptions,
    EfficientNetOptions,
    ResNetOptions,
    ResNeXtOptions,
    SEResNeXtOptions,
)
from autoseg.networks.rules import read_options
from autoseg.plan import NetworkPlan

_STAGES = 6  # full resolution and five strides
_PUBLISHED_FEATURES = 16  # of the decoder at full resolution, beside which the encoder has its published width


class EncoderUNet(SegmentationNetwork):
    """The decoder of segmentation-models-pytorch's Unet on an encoder of 2D images.

    Features of the coarser stage are doubled in size by their nearest neighbors, joined with the encoder's, and
    convolved; at full resolution there is nothing to join. Features of the plan are the decoder's; the last stage is
    the encoder's own. With 16 features at full resolution the encoder has its published width, with fewer in
    proportion. Norm, activation and dropout are the decoder's.

    Args:
        network: Topology: six stages that halve both axes.
        encoder: The encoder.
        num_outputs: Channels of the output.

    Raises:
        SettingsError: When the plan is of a form that the network does not have.
    """

    def __init__(self, network: NetworkPlan, encoder: Encoder, *, num_outputs: int) -> None:
        super().__init__()
        if network.strides != ((1, 1), *((2, 2),) * (_STAGES - 1)):
            raise SettingsError(
                f"{network.name} has {_STAGES} stages that halve both axes, the plan has strides {network.strides}"
            )
        self.deep_supervision = False
        self.encoder = encoder
        style, features = BlockStyle.of(network), network.features[:-1]
        skips = (0, *encoder.channels[:-1])  # per stage, full resolution first
        coming, decoder = encoder.channels[-1], list[nn.Module]()
        for stage in reversed(range(_STAGES - 1)):
            block = ConvStack(
                coming + skips[stage],
                features[stage],
                num_convs=network.decoder_blocks[_STAGES - 2 - stage],
                kernel_size=network.kernel_sizes[stage],
                stride=(1, 1),
                style=style,
            )
            coming = features[stage]
            decoder.append(block)
        self.decoder = nn.ModuleList(decoder)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.seg_layers = nn.Conv2d(coming, num_outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits.

        Args:
            x: Images (b, c, ...), every edge a multiple of 32.
        """
        skips = list[Tensor]()
        for level in self.encoder.levels():
            x = self.stage(level, x)  # type: ignore[arg-type]  # a method of the module is called alike
            skips.append(x)
        skips.pop()
        for block in self.decoder:
            x = self.upsample(x)
            x = self.stage(block, torch.cat([x, skips.pop()], dim=1) if skips else x)
        logits: Tensor = self.seg_layers(x)
        return logits

    def tap_modules(self) -> Mapping[str, nn.Module]:
        """The features before the output layer."""
        return {"last_decoder": self.decoder[-1]}

    def published_names(self) -> Mapping[str, str]:
        """What the encoder's parameters are called in files of published weights."""
        return {f"encoder.{name}": self.encoder.published_name(name) for name in self.encoder.state_dict()}


def _scale(network: NetworkPlan) -> float:
    return min(1.0, network.features[0] / _PUBLISHED_FEATURES)


def resnet(network: NetworkPlan, *, num_channels: int, num_outputs: int) -> EncoderUNet:
    """A U-Net on a ResNet."""
    name = read_options(network, ResNetOptions).encoder
    encoder = ResNetEncoder(name, num_channels=num_channels, scale=_scale(network))
    return EncoderUNet(network, encoder, num_outputs=num_outputs)


def resnext(network: NetworkPlan, *, num_channels: int, num_outputs: int) -> EncoderUNet:
    """A U-Net on a ResNeXt."""
    name = read_options(network, ResNeXtOptions).encoder
    encoder = ResNetEncoder(name, num_channels=num_channels, scale=_scale(network))
    return EncoderUNet(network, encoder, num_outputs=num_outputs)


def se_resnext(network: NetworkPlan, *, num_channels: int, num_outputs: int) -> EncoderUNet:
    """A U-Net on an SE-ResNeXt."""
    name = read_options(network, SEResNeXtOptions).encoder
    encoder = ResNetEncoder(name, num_channels=num_channels, scale=_scale(network))
    return EncoderUNet(network, encoder, num_outputs=num_outputs)


def efficientnet(network: NetworkPlan, *, num_channels: int, num_outputs: int) -> EncoderUNet:
    """A U-Net on an EfficientNet."""
    from autoseg.networks.monai_encoders import EfficientNetEncoder

    name = read_options(network, EfficientNetOptions).encoder
    encoder = EfficientNetEncoder(name, num_channels=num_channels, scale=_scale(network))
    return EncoderUNet(network, encoder, num_outputs=num_outputs)


def densenet(network: NetworkPlan, *, num_channels: int, num_outputs: int) -> EncoderUNet:
    """A U-Net on a DenseNet."""
    from autoseg.networks.monai_encoders import DenseNetEncoder

    name = read_options(network, DenseNetOptions).encoder
    encoder = DenseNetEncoder(name, num_channels=num_channels, scale=_scale(network))
    return EncoderUNet(network, encoder, num_outputs=num_outputs)
