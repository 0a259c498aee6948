"""The networks that come along, and how rules are found for any network. Imports no torch.

An entry here and a class that maps a :class:`NetworkPlan` to a module are all that a network takes; the contract test
runs for every entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from autoseg.networks.options import (
    ACCUNetOptions,
    DenseNetOptions,
    EfficientNetOptions,
    MAUNetOptions,
    MedNeXtOptions,
    ResNetOptions,
    ResNeXtOptions,
    SCNASOptions,
    ScnOptions,
    SEResNeXtOptions,
    SpineHybridOptions,
    SwinUNETROptions,
    UNetCNXOptions,
    UNetOptions,
    UNetPlusPlusOptions,
    UXNetOptions,
)
from autoseg.networks.rules import STYLE, NetworkRules, TrainingDefaults, fixed_stages, large_kernel_stages
from autoseg.plan import NetworkPlan
from autoseg.registry import Registry

if TYPE_CHECKING:
    from autoseg.networks.base import SegmentationNetwork


class NetworkBuilder(Protocol):
    """Makes a network from a topology; usually the network's class."""

    def __call__(self, network: NetworkPlan, *, num_channels: int, num_outputs: int) -> SegmentationNetwork:
        """Build a network with freshly drawn weights."""


_TAPS = ("bottleneck", "last_decoder")


def _on_encoder(name: str, what: str, source: str, options: type) -> NetworkRules:
    """Rules of a 2D U-Net whose encoder is a classification network."""
    return NetworkRules(
        builder=f"autoseg.networks.encoder_unet:{name}",
        summary=f"2D U-Net on {what}, which weights learned from photographs may begin",
        source=source,
        dims=(2,),
        is_anisotropic=False,
        stages=fixed_stages(1, 2, 2, 2, 2, 2),
        first_features=16,
        feature_ratios=(1, 2, 4, 8, 16, 32),
        encoder_blocks=(1,),
        decoder_blocks=(2,),
        supervision="none",
        taps=("last_decoder",),
        heeds=("norm", "activation", "dropout", "checkpointing"),
        style={"norm": "batch", "activation": "relu"},
        options=options,
        training=TrainingDefaults(optimizer="adamw", learning_rate=6e-5, schedule="one_cycle", loss="dice"),
    )


RULES: dict[str, NetworkRules] = {
    "unet": NetworkRules(
        builder="autoseg.networks.unet:PlainUNet",
        summary="U-Net of stacked convolutions, nnU-Net's original network",
        source="https://doi.org/10.1038/s41592-020-01008-z",
        taps=_TAPS,
        heeds=STYLE,
        options=UNetOptions,
    ),
    "resenc": NetworkRules(
        builder="autoseg.networks.unet:ResidualEncoderUNet",
        summary="U-Net with a deep residual encoder and a shallow decoder, nnU-Net's ResEnc presets",
        source="https://arxiv.org/abs/2404.09556",
        encoder_blocks=(1, 3, 4, 6),
        decoder_blocks=(1,),
        taps=_TAPS,
        heeds=STYLE,
        options=UNetOptions,
    ),
    "unetcnx": NetworkRules(
        builder="autoseg.networks.unetcnx:UNetCNX",
        summary="ConvNeXt V2 encoder on patches of four voxels, residual decoder",
        source="https://arxiv.org/abs/2301.00808, CardiacSegV2's unetcnx_a1",
        stages=large_kernel_stages(1, 4, 2, 2, 2),
        smallest_edge=4,
        first_features=48,
        feature_ratios=(1, 1, 2, 4, 8),
        encoder_blocks=(1, 3, 3, 9, 3),
        decoder_blocks=(1,),
        supervised_stages=3,
        taps=_TAPS,
        heeds=("checkpointing",),
        options=UNetCNXOptions,
        training=TrainingDefaults(optimizer="adamw", learning_rate=5e-4, weight_decay=5e-4),
    ),
    "uxnet": NetworkRules(
        builder="autoseg.networks.uxnet:UXNet",
        summary="large depth-wise kernels in place of window attention, residual decoder",
        source="https://arxiv.org/abs/2209.15076",
        stages=large_kernel_stages(1, 2, 2, 2, 2),
        smallest_edge=4,
        first_features=48,
        feature_ratios=(1, 2, 4, 8, 16),
        encoder_blocks=(1, 2),
        decoder_blocks=(1,),
        taps=_TAPS,
        heeds=("checkpointing",),
        options=UXNetOptions,
        training=TrainingDefaults(optimizer="adamw", learning_rate=1e-4),
    ),
    "acc_unet": NetworkRules(
        builder="autoseg.networks.acc_unet:ACCUNet",
        summary="convolutions that look far by pooling, skips that see all scales",
        source="https://arxiv.org/abs/2308.13680",
        max_stages=5,
        feature_ratios=(1, 2, 4, 8, 16),
        taps=_TAPS,
        heeds=("norm", "activation", "dropout", "checkpointing"),
        style={"norm": "batch"},
        options=ACCUNetOptions,
        training=TrainingDefaults(optimizer="adam", learning_rate=1e-3),
    ),
    "scnas": NetworkRules(
        builder="autoseg.networks.scnas:SCNAS",
        summary="cells of operations that an architecture search chose, with dilated convolutions",
        source="https://arxiv.org/abs/1811.06246",
        max_stages=4,
        first_features=8,
        feature_ratios=(1, 2, 4, 8),
        feature_multiple=2,
        encoder_blocks=(1, 2),
        decoder_blocks=(2,),
        taps=_TAPS,
        heeds=("checkpointing",),
        options=SCNASOptions,
        training=TrainingDefaults(optimizer="adam", learning_rate=2e-5, schedule="plateau", loss="dice"),
    ),
    "swin_unetr": NetworkRules(
        builder="autoseg.networks.monai_networks:SwinUNETR",
        summary="attention in shifted windows on the way down, convolutions on the way up; MONAI's",
        source="https://arxiv.org/abs/2201.01266",
        is_anisotropic=False,
        stages=fixed_stages(1, 2, 2, 2, 2, 2),
        smallest_longest_edge=64,
        smallest_median_edge=16,
        first_features=48,
        feature_ratios=(1, 1, 2, 4, 8, 16),
        feature_multiple=12,
        encoder_blocks=(1, 2, 2, 2, 2, 1),
        decoder_blocks=(1,),
        taps=_TAPS,
        heeds=("checkpointing",),
        style={"checkpointing": True},
        options=SwinUNETROptions,
        training=TrainingDefaults(optimizer="adamw", learning_rate=5e-4, weight_decay=5e-4, schedule="cosine"),
    ),
    "mednext": NetworkRules(
        builder="autoseg.networks.monai_networks:MedNeXt",
        summary="ConvNeXt blocks on the way down and up, resampling included; MONAI's",
        source="https://arxiv.org/abs/2303.09975",
        is_anisotropic=False,
        stages=fixed_stages(1, 2, 2, 2, 2),
        smallest_longest_edge=32,
        smallest_median_edge=8,
        feature_ratios=(1, 2, 4, 8, 16),
        taps=_TAPS,
        heeds=("checkpointing",),
        options=MedNeXtOptions,
        training=TrainingDefaults(optimizer="adamw", learning_rate=1e-3),
    ),
    "attention_unet": NetworkRules(
        builder="autoseg.networks.unet:PlainUNet",
        summary="U-Net whose skips pass attention gates",
        source="https://arxiv.org/abs/1804.03999",
        taps=_TAPS,
        heeds=STYLE,
        style={"skip_gate": "grid"},
        options=UNetOptions,
    ),
    "maunet": NetworkRules(
        builder="autoseg.networks.maunet:MAUNet",
        summary="residual U-Net of four levels with attention gates, and attention between positions at the bottom",
        source="https://arxiv.org/abs/1809.02983",
        max_stages=4,
        encoder_blocks=(1,),
        decoder_blocks=(2,),
        taps=_TAPS,
        heeds=STYLE,
        style={"skip_gate": "grid"},
        options=MAUNetOptions,
        training=TrainingDefaults(loss="dice+0.1*focal"),
    ),
    "cardiac_unet": NetworkRules(
        builder="autoseg.networks.cardiac_unet:CardiacUNet",
        summary="CardiacSeg's plain U-Net, one convolution per stage, which begins at half the resolution; MONAI's",
        source="https://docs.monai.io/en/stable/networks.html#unet",
        max_stages=4,
        first_features=64,
        feature_ratios=(1, 2, 4, 4),
        encoder_blocks=(1,),
        decoder_blocks=(1,),
        supervision="none",
        taps=_TAPS,
        heeds=("norm", "activation", "dropout", "checkpointing"),
        style={"norm": "batch", "activation": "relu"},
    ),
    "scn": NetworkRules(
        builder="autoseg.networks.scn:RefinedNetwork",
        summary="another network, its logits refined by where structures lie to each other",
        source="https://doi.org/10.1016/j.media.2019.03.007",
        taps=_TAPS,
        heeds=STYLE,
        options=ScnOptions,
        host_option="refines",
        auxiliary_weight=0.4,
    ),
    "unet_plus_plus": NetworkRules(
        builder="autoseg.networks.unet_plus_plus:UNetPlusPlus",
        summary="U-Nets of every depth inside each other, which can be pruned after training",
        source="https://arxiv.org/abs/1912.05074",
        supervision="nested",
        taps=_TAPS,
        heeds=("norm", "activation", "dropout", "squeeze_excitation", "checkpointing"),
        options=UNetPlusPlusOptions,
    ),
    "spine_hybrid": NetworkRules(
        builder="autoseg.networks.spine_hybrid:SpineHybrid",
        summary="2D encoder and decoder for thick slices, with links that see neighboring slices",
        source="https://arxiv.org/abs/2308.13680",
        dims=(3,),
        stages=fixed_stages(1, 2, 2, 2, 2, 2, along="in_plane"),
        smallest_edge=2,
        first_features=16,
        taps=_TAPS,
        heeds=("checkpointing",),
        options=SpineHybridOptions,
        training=TrainingDefaults(loss="mse"),
    ),
    "resnet": _on_encoder("resnet", "a ResNet", "https://arxiv.org/abs/1512.03385", ResNetOptions),
    "resnext": _on_encoder("resnext", "a ResNeXt", "https://arxiv.org/abs/1611.05431", ResNeXtOptions),
    "se_resnext": _on_encoder(
        "se_resnext",
        "a ResNeXt with squeeze and excitation",
        "https://arxiv.org/abs/1709.01507",
        SEResNeXtOptions,
    ),
    "efficientnet": _on_encoder(
        "efficientnet", "an EfficientNet of MONAI's", "https://arxiv.org/abs/1905.11946", EfficientNetOptions
    ),
    "densenet": _on_encoder("densenet", "a DenseNet of MONAI's", "https://arxiv.org/abs/1608.06993", DenseNetOptions),
}
"""Name -> rules of the built-in networks."""

NETWORKS: Registry[NetworkBuilder] = Registry(
    "network", group="autoseg.networks", built_in={name: rules.builder for name, rules in RULES.items()}
)

NETWORK_RULES: Registry[NetworkRules] = Registry("network's rules", group="autoseg.network_rules", built_in={})
"""Rules of installed networks, found without importing the network itself."""


def network_rules(name: str) -> NetworkRules:
    """Rules of a network.

    Args:
        name: A name of the network registry.

    Returns:
        The built-in's entry; of an installed network its entry point of the group ``autoseg.network_rules``, else its
        class attribute ``rules``, else rules without deep supervision.

    Raises:
        SettingsError: When there is no such network, or it cannot be imported.
    """
    if name in RULES:
        return RULES[name]
    if name in NETWORK_RULES.names():
        return NETWORK_RULES.get(name)
    rules = getattr(NETWORKS.get(name), "rules", None)
    return rules if isinstance(rules, NetworkRules) else NetworkRules(supervision="none")


def planned_rules(name: str, choices: Sequence[str]) -> NetworkRules:
    """Rules of a network with what was chosen for its size, and those of the network that it was told to hold.

    Args:
        name: A name of the network registry.
        choices: Options as ``name=value``.

    Raises:
        SettingsError: When there is no such network, or a limit is no positive whole number.
    """
    rules = network_rules(name)
    if rules.host_option and rules.options is not None:
        chosen = dict(choice.split("=", 1) for choice in choices if "=" in choice)
        host = chosen.get(rules.host_option, getattr(rules.options(), rules.host_option))
        if host != name:  # its own class refuses that with a sentence of its own
            rules = rules.within(network_rules(host))
    return rules.sized(choices)


def rules_of(network: NetworkPlan) -> NetworkRules:
    """Rules of a network that is planned already, those of a network that it holds included."""
    return planned_rules(network.name, [f"{name}={value}" for name, value in network.options.items()])
