"""The networks that come along, and how rules are found for any network. Imports no torch.

An entry here and a class that maps a :class:`NetworkPlan` to a module are all that a network takes; the contract test
runs for every entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from autoseg.networks.options import UNetOptions
from autoseg.networks.rules import STYLE, NetworkRules
from autoseg.plan import NetworkPlan
from autoseg.registry import Registry

if TYPE_CHECKING:
    from autoseg.networks.base import SegmentationNetwork


class NetworkBuilder(Protocol):
    """Makes a network from a topology; usually the network's class."""

    def __call__(self, network: NetworkPlan, *, num_channels: int, num_outputs: int) -> SegmentationNetwork:
        """Build a network with freshly drawn weights."""


_UNET_TAPS = ("bottleneck", "last_decoder")

RULES: dict[str, NetworkRules] = {
    "unet": NetworkRules(
        builder="autoseg.networks.unet:PlainUNet",
        summary="U-Net of stacked convolutions, nnU-Net's original network",
        source="https://doi.org/10.1038/s41592-020-01008-z",
        taps=_UNET_TAPS,
        heeds=STYLE,
        options=UNetOptions,
    ),
    "resenc": NetworkRules(
        builder="autoseg.networks.unet:ResidualEncoderUNet",
        summary="U-Net with a deep residual encoder and a shallow decoder, nnU-Net's ResEnc presets",
        source="https://arxiv.org/abs/2404.09556",
        encoder_blocks=(1, 3, 4, 6),
        decoder_blocks=(1,),
        taps=_UNET_TAPS,
        heeds=STYLE,
        options=UNetOptions,
    ),
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
