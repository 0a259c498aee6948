"""Networks by name."""

from __future__ import annotations

from typing import Protocol

from autoseg.networks.base import SegmentationNetwork
from autoseg.plan import NetworkPlan
from autoseg.registry import Registry


class NetworkBuilder(Protocol):
    """Makes a network from a topology; usually the network's class."""

    def __call__(self, network: NetworkPlan, *, num_channels: int, num_outputs: int) -> SegmentationNetwork:
        """Build a network with freshly drawn weights."""


NETWORKS: Registry[NetworkBuilder] = Registry(
    "network",
    group="autoseg.networks",
    built_in={
        "unet": "autoseg.networks.unet:PlainUNet",
        "resenc": "autoseg.networks.unet:ResidualEncoderUNet",
    },
)


def build_network(network: NetworkPlan, *, num_channels: int, num_outputs: int) -> SegmentationNetwork:
    """Build the network that a plan names, with weights drawn from torch's global random state.

    Its ``forward`` maps images (b, c, ...) to a list of logits (b, k, ...), one per entry of
    ``network.output_strides``, while its attribute ``deep_supervision`` is True, and to the full resolution's logits
    alone while it is False. The plan sets the attribute's first value.

    Args:
        network: Name and topology.
        num_channels: Channels of the image, previous-stage channels included.
        num_outputs: Channels of the output.

    Raises:
        SettingsError: When no network of that name is known.
    """
    return NETWORKS.get(network.name)(network, num_channels=num_channels, num_outputs=num_outputs)
