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


def topology_for(
    rules: NetworkRules, spacing: Sequence[float], size: Sequence[float], *, keep: Sequence[int] = ()
) -> Topology:
    """Stages of a network on a patch, and the patch rounded up to what they divide.

    Args:
        rules: What the network needs.
        spacing: Millimeters per axis, 2 or 3.
        size: Voxels per axis that the patch should at least have.
        keep: Axes that are halved less often rather than rounded up, where the network leaves its stages to the
            planner and the length is even enough.

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
    is_cut = rules.max_stages is not None and len(found.strides) > rules.max_stages
    if not is_cut and not keep:
        return found
    cut = Stages(strides=found.strides[: rules.max_stages], kernel_sizes=found.kernel_sizes[: rules.max_stages])
    return _rounded(_halved_while_even(cut, edges, keep) if keep else cut, edges)


_FEWEST_HALVINGS = 2  # an axis that cannot be halved so often is rounded up after all


def _halved_while_even(stages: Stages, edges: Sequence[float], keep: Sequence[int]) -> Stages:
    """The stages without the strides that the kept axes do not divide by; stages without any stride go."""
    left = [round(edge) for edge in edges]
    kept = {axis for axis in keep if left[axis] % min(stages.divisor[axis], 2**_FEWEST_HALVINGS) == 0}
    strides, kernels = [stages.strides[0]], [stages.kernel_sizes[0]]
    for wanted, kernel in zip(stages.strides[1:], stages.kernel_sizes[1:], strict=True):
        stride = tuple(1 if axis in kept and left[axis] % step else step for axis, step in enumerate(wanted))
        left = [n // step for n, step in zip(left, stride, strict=True)]
        if max(stride) > 1:
            strides.append(stride)
            kernels.append(kernel)
    return Stages(strides=tuple(strides), kernel_sizes=tuple(kernels))


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
    is_deep = rules.supervision != "none" and num_stages >= _FEWEST_SUPERVISED_STAGES
    network = NetworkPlan(
        name=name,
        features=rules.features(num_stages, len(topology.patch_size), width=width),
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        encoder_blocks=repeat_last(rules.encoder_blocks, num_stages),
        decoder_blocks=repeat_last(rules.decoder_blocks, num_stages - 1),
        deep_supervision=is_deep or rules.auxiliary_weight > 0,
        supervision="nested" if rules.supervision == "nested" else "pyramid",
        supervised_stages=rules.supervised_stages if is_deep or not rules.auxiliary_weight else 1,
        auxiliary_weight=rules.auxiliary_weight,
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
