"""Networks by name."""

from __future__ import annotations

from autoseg.networks.base import SegmentationNetwork
from autoseg.networks.catalog import NETWORKS
from autoseg.plan import NetworkPlan

__all__ = ["NETWORKS", "build_network"]


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
    built = NETWORKS.get(network.name)(network, num_channels=num_channels, num_outputs=num_outputs)
    built.checkpointing = network.checkpointing
    return built
