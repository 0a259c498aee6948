"""From a network's rules, a spacing and a patch to its plan: stages, a patch that divides, feature maps, blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from autoseg.errors import PlanError
from autoseg.networks.rules import NetworkRules, Stages, with_choices
from autoseg.plan import NetworkPlan
from autoseg.planners.preset import repeat_last
from autoseg.planners.topology import Topology, network_topology
from autoseg.planners.wording import voxels

_FEWEST_SUPERVISED_STAGES = 3  # two stages have one output only: there is nothing coarser to supervise


def topology_for(rules: NetworkRules, spacing: Sequence[float], size: Sequence[float]) -> Topology:
    """Stages of a network on a patch, and the patch rounded up to what they divide.

    Args:
        rules: What the network needs.
        spacing: Millimeters per axis, 2 or 3.
        size: Voxels per axis that the patch should at least have.

    Raises:
        PlanError: When the network has no form with so many axes.
    """
    if len(spacing) not in rules.dims:
        raise PlanError(f"this network has {' or '.join(map(str, rules.dims))} axes, not {len(spacing)}")
    edges = [max(n, rules.smallest_edge) for n in size]
    if max(edges) < rules.smallest_longest_edge:
        edges[max(range(len(edges)), key=lambda axis: edges[axis])] = rules.smallest_longest_edge
    if rules.stages is not None:
        return _rounded(rules.stages(spacing, edges), edges)
    found = network_topology(spacing, edges)
    if rules.max_stages is None or len(found.strides) <= rules.max_stages:
        return found
    cut = Stages(strides=found.strides[: rules.max_stages], kernel_sizes=found.kernel_sizes[: rules.max_stages])
    return _rounded(cut, edges)


def _rounded(stages: Stages, edges: Sequence[float]) -> Topology:
    patch_size = tuple(math.ceil(n / d) * d for n, d in zip(edges, stages.divisor, strict=True))
    return Topology(strides=stages.strides, kernel_sizes=stages.kernel_sizes, patch_size=patch_size)


def plan_network(
    name: str, rules: NetworkRules, topology: Topology, *, width: float = 1.0, choices: Sequence[str] = ()
) -> NetworkPlan:
    """The plan of a network with given stages.

    Args:
        name: In the network registry.
        rules: What it needs.
        topology: Its stages.
        width: Share of the usual feature maps.
        choices: Options as ``name=value``.

    Raises:
        SettingsError: When the network has no such option.
    """
    num_stages = len(topology.strides)
    network = NetworkPlan(
        name=name,
        features=rules.features(num_stages, len(topology.patch_size), width=width),
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        encoder_blocks=repeat_last(rules.encoder_blocks, num_stages),
        decoder_blocks=repeat_last(rules.decoder_blocks, num_stages - 1),
        deep_supervision=rules.supervision != "none" and num_stages >= _FEWEST_SUPERVISED_STAGES,
        supervision="nested" if rules.supervision == "nested" else "pyramid",
        supervised_stages=rules.supervised_stages,
    )
    styled = replace(network, **rules.style)  # type: ignore[arg-type]  # the contract test checks the catalog's
    return with_choices(styled, rules, choices)


def require_thick_enough(name: str, rules: NetworkRules, median_shape: Sequence[float]) -> None:
    """Refuse a network that would see mostly padding.

    Raises:
        PlanError: When the median case is thinner than the network can use.
    """
    if min(median_shape) < rules.smallest_median_edge:
        raise PlanError(
            f"{name} needs at least {rules.smallest_median_edge} voxels along every axis; the median case has "
            f"{voxels([round(n) for n in median_shape])}. Use its 2d configuration, or another network"
        )
