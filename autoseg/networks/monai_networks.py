"""Networks of MONAI (https://monai.io) behind autoseg's contract. Importing this module imports MONAI, which is slow.

Parameters carry MONAI's names, so that its checkpoints load by renaming nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from autoseg.errors import SettingsError
from autoseg.networks.base import SegmentationNetwork
from autoseg.networks.blocks import convolution_class
from autoseg.networks.options import Expansion, MedNeXtOptions, SwinUNETROptions
from autoseg.networks.rules import read_options
from autoseg.plan import NetworkPlan

try:
    import einops  # noqa: F401 - MONAI asks for it as late as in the forward pass
    from monai.networks.nets import mednext as monai_mednext
    from monai.networks.nets import swin_unetr as monai_swin_unetr
except ImportError as error:
    _missing = (error.name or "monai").partition(".")[0]
    raise SettingsError(
        f"swin_unetr and mednext are MONAI's networks, and {_missing} is not installed: pip install 'autoseg[monai]'"
    ) from None

_HEADS = (3, 6, 12, 24)  # attention heads per stage, whatever the width: as published for 24 and 48 features
_SWIN_STAGES = 6

_EXPANSIONS: dict[Expansion, tuple[tuple[int, ...], int]] = {
    "small": ((2, 2, 2, 2), 2),
    "base": ((2, 3, 4, 4), 4),
    "large": ((3, 4, 8, 8), 8),
}
_MEDNEXT_STAGES = 5


class SwinUNETR(SegmentationNetwork):
    """Attention in shifted windows on the way down, convolutions on the way up (https://arxiv.org/abs/2201.01266).

    The published network has features 48, 48, 96, 192, 384, 768; 24 instead of 48 gives the small one.

    Args:
        network: Topology: six stages, every stride 2; the blocks of stages 1 to 4 are transformer blocks.
        num_channels: Channels of the image.
        num_outputs: Channels of the output.

    Raises:
        SettingsError: When the plan is of a form that the network does not have.
    """

    def __init__(self, network: NetworkPlan, *, num_channels: int, num_outputs: int) -> None:
        super().__init__()
        options = read_options(network, SwinUNETROptions)
        width, ndim = network.features[0], len(network.strides[0])
        _require_halving(network, _SWIN_STAGES)
        _require_features(network, (width, *(width * 2**i for i in range(_SWIN_STAGES - 1))))
        if width % 12:
            raise SettingsError(f"swin_unetr needs a multiple of 12 features, the plan says {width}")
        net = monai_swin_unetr.SwinUNETR(
            in_channels=num_channels,
            out_channels=num_outputs,
            depths=network.encoder_blocks[1:-1],
            num_heads=_HEADS,
            window_size=options.window,
            feature_size=width,
            dropout_path_rate=options.drop_path,
            use_checkpoint=network.checkpointing,
            spatial_dims=ndim,
            use_v2=options.has_residual_blocks,
        )
        self.deep_supervision = network.deep_supervision
        self.swinViT: nn.Module = net.swinViT
        self.encoder1: nn.Module = net.encoder1
        self.encoder2: nn.Module = net.encoder2
        self.encoder3: nn.Module = net.encoder3
        self.encoder4: nn.Module = net.encoder4
        self.encoder10: nn.Module = net.encoder10
        self.decoder5: nn.Module = net.decoder5
        self.decoder4: nn.Module = net.decoder4
        self.decoder3: nn.Module = net.decoder3
        self.decoder2: nn.Module = net.decoder2
        self.decoder1: nn.Module = net.decoder1
        self.out: nn.Module = net.out
        num_heads = len(network.output_strides) - 1
        self.seg_layers = nn.ModuleList(
            [convolution_class(ndim)(network.features[level], num_outputs, 1) for level in range(1, num_heads + 1)]
        )

    def forward(self, x: Tensor) -> list[Tensor] | Tensor:
        """Compute logits.

        Args:
            x: Images (b, c, ...), every edge a multiple of 32.

        Returns:
            With deep supervision a list, full resolution (b, k, ...) first; otherwise its first entry alone.
        """
        hidden = self.swinViT(x, normalize=True)  # from 1/2 to 1/32, each normalized
        decoded = self.stage(self.decoder5, self.stage(self.encoder10, hidden[4]), hidden[3])
        levels = [decoded]
        ways = (
            (self.decoder4, self.encoder4, hidden[2]),
            (self.decoder3, self.encoder3, hidden[1]),
            (self.decoder2, self.encoder2, hidden[0]),
            (self.decoder1, self.encoder1, x),
        )
        for decoder, encoder, features in ways:
            levels.append(self.stage(decoder, levels[-1], self.stage(encoder, features)))
        logits: Tensor = self.out(levels[-1])
        if not self.deep_supervision:
            return logits
        return [logits, *(head(f) for head, f in zip(self.seg_layers, levels[-2::-1], strict=False))]

    def tap_modules(self) -> Mapping[str, nn.Module]:
        """The deepest feature maps, and those before the output layer."""
        return {"bottleneck": self.encoder10, "last_decoder": self.decoder1}


class MedNeXt(SegmentationNetwork):
    """ConvNeXt blocks on the way down and up, resampling included (https://arxiv.org/abs/2303.09975).

    The published networks have features 32, 64, 128, 256, 512. S has two blocks per stage and expansion "small"; B the
    same with "base"; M has encoder blocks (3, 4, 4, 4, 4) with "base"; L has (3, 4, 8, 8, 8) with "large". The decoder
    mirrors the encoder.

    Args:
        network: Topology: five stages, every stride 2, one odd kernel for all stages and axes.
        num_channels: Channels of the image.
        num_outputs: Channels of the output.

    Raises:
        SettingsError: When the plan is of a form that the network does not have.
    """

    def __init__(self, network: NetworkPlan, *, num_channels: int, num_outputs: int) -> None:
        super().__init__()
        width, ndim = network.features[0], len(network.strides[0])
        _require_halving(network, _MEDNEXT_STAGES)
        _require_features(network, [width * 2**i for i in range(_MEDNEXT_STAGES)])
        kernels = {k for kernel in network.kernel_sizes for k in kernel}
        if len(kernels) > 1:
            raise SettingsError(f"mednext has one kernel size for all stages and axes, the plan has {sorted(kernels)}")
        ratios, bottleneck = _EXPANSIONS[read_options(network, MedNeXtOptions).expansion]
        has_heads = len(network.output_strides) > 1
        net = monai_mednext.MedNeXt(
            spatial_dims=ndim,
            init_filters=width,
            in_channels=num_channels,
            out_channels=num_outputs,
            encoder_expansion_ratio=ratios,
            decoder_expansion_ratio=ratios[::-1],
            bottleneck_expansion_ratio=bottleneck,
            kernel_size=kernels.pop(),
            deep_supervision=has_heads,
            use_residual_connection=True,
            blocks_down=network.encoder_blocks[:-1],
            blocks_bottleneck=network.encoder_blocks[-1],
            blocks_up=network.decoder_blocks,
        )
        self.deep_supervision = network.deep_supervision
        self.stem: nn.Module = net.stem
        self.enc_stages: nn.ModuleList = net.enc_stages
        self.down_blocks: nn.ModuleList = net.down_blocks
        self.bottleneck: nn.Module = net.bottleneck
        self.up_blocks: nn.ModuleList = net.up_blocks
        self.dec_stages: nn.ModuleList = net.dec_stages
        self.out_0: nn.Module = net.out_0
        self.num_heads = len(network.output_strides) - 1
        # MONAI's output layers begin with the bottleneck's; autoseg supervises the decoder alone.
        self.out_blocks = nn.ModuleList(net.out_blocks if has_heads else [])
        for index in range(len(self.out_blocks) - self.num_heads):
            self.out_blocks[index] = nn.Identity()

    def forward(self, x: Tensor) -> list[Tensor] | Tensor:
        """Compute logits.

        Args:
            x: Images (b, c, ...), every edge a multiple of 16.

        Returns:
            With deep supervision a list, full resolution (b, k, ...) first; otherwise its first entry alone.
        """
        x = self.stem(x)
        skips = []
        for stage, down in zip(self.enc_stages, self.down_blocks, strict=True):
            skips.append(self.stage(stage, x))
            x = self.stage(down, skips[-1])
        x = self.stage(self.bottleneck, x)
        levels = []
        for up, stage in zip(self.up_blocks, self.dec_stages, strict=True):
            levels.append(x)
            x = self.stage(stage, self.stage(up, x) + skips.pop())
        logits: Tensor = self.out_0(x)
        if not self.deep_supervision:
            return logits
        coarser = [head(level) for head, level in zip(self.out_blocks, levels, strict=False)]
        return [logits, *coarser[::-1][: self.num_heads]]

    def tap_modules(self) -> Mapping[str, nn.Module]:
        """The deepest feature maps, and those before the output layer."""
        return {"bottleneck": self.bottleneck, "last_decoder": self.dec_stages[-1]}


def _require_halving(network: NetworkPlan, num_stages: int) -> None:
    ndim = len(network.strides[0])
    wanted = ((1,) * ndim, *((2,) * ndim,) * (num_stages - 1))
    if network.strides != wanted:
        raise SettingsError(
            f"{network.name} has {num_stages} stages that halve every axis, the plan has strides {network.strides}"
        )


def _require_features(network: NetworkPlan, wanted: Sequence[int]) -> None:
    if network.features != tuple(wanted):
        raise SettingsError(f"{network.name} has features {tuple(wanted)}, the plan has {network.features}")
