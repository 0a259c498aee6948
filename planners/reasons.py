"""Why a configuration is as it is: one sentence per field, with the figures that decided."""

from __future__ import annotations

import math

from autoseg.planners.budget import Sizing
from autoseg.planners.preset import PlannerPreset
from autoseg.planners.spacing import Grid
from autoseg.planners.topology import SMALLEST_EDGE
from autoseg.planners.wording import counted, millimeters, millions, voxels

ALONE = "none: trained on images alone"


def transpose(grid: Grid) -> str:
    """Say in which order the plan has the axes."""
    shape = f"the median case has {voxels(grid.median_shape)} voxels at full resolution"
    if grid.transpose == tuple(range(len(grid.transpose))):
        return f"Axes stay as stored; {shape}."
    return (
        f"Axes are reordered to {grid.transpose}, because stored axis {grid.transpose[0]} has the coarsest spacing, "
        f"{grid.spacing[0]:.3g} mm; in that order {shape}."
    )


def patch_size(sizing: Sizing, memory_gb: float) -> str:
    """Say from which patch the planner started and why it stopped."""
    start = (
        f"starts at {voxels(sizing.first_patch_size)}: equally many millimeters along every axis, cut to the median "
        f"case of {voxels(sizing.median_shape)} and rounded up to what the network divides"
    )
    fits = (
        f"{sizing.batch_to_fit} patches of {millions(sizing.elements)} feature-map values fit into "
        f"{memory_gb:g} GB, which hold {millions(sizing.capacity)}"
    )
    if sizing.num_shrinks == 0:
        return f"{start}; {fits}"
    steps = counted(sizing.num_shrinks, "step")
    return f"{start}; {steps} smaller, each along the axis that covers most of the median case, until {fits}"


def batch_size(sizing: Sizing, preset: PlannerPreset) -> str:
    """Say which limit decided the batch size."""
    by_memory = (
        f"memory holds {sizing.memory_batch_size} "
        f"({millions(sizing.capacity)} / {millions(sizing.elements)} feature-map values)"
    )
    by_dataset = f"{preset.max_dataset_share:.0%} of all training voxels are {sizing.dataset_batch_size} patches"
    if sizing.batch_size == sizing.memory_batch_size <= sizing.dataset_batch_size:
        return f"{by_memory}; no more than {by_dataset}"
    if sizing.batch_size == sizing.dataset_batch_size:
        return f"{by_dataset}, and more would only repeat themselves; {by_memory}"
    return f"the smallest batch that is ever used; {by_memory}, {by_dataset}"


def network(sizing: Sizing) -> str:
    """Say how the topology follows from spacing and patch."""
    plan = sizing.network
    halvings = " and ".join(str(round(math.log2(d))) for d in plan.divisor)
    sentence = (
        f"{counted(plan.num_stages, 'stage')} with {plan.features[0]} to {plan.features[-1]} feature maps: the axes of "
        f"{millimeters(sizing.spacing)} are halved {halvings} times, as long as {SMALLEST_EDGE} voxels are left and "
        "the spacing is within 2 times the finest"
    )
    num_flat = sum(min(kernel) == 1 for kernel in plan.kernel_sizes)
    if num_flat:
        sentence += f"; until then kernels do not reach along coarser axes ({counted(num_flat, 'stage')})"
    if sizing.topology.is_forced:
        sentence += (
            f"; no axis is long enough ({2 * SMALLEST_EDGE} voxels, or {3 * SMALLEST_EDGE} where it is alone), yet one "
            "halving is made so that there is a decoder"
        )
    if not plan.deep_supervision:
        sentence += "; no deep supervision, because there is one output only"
    return sentence


def batch_dice(sizing: Sizing, *, sums: bool) -> str:
    """Say why the Dice loss sums over the batch before it divides, or not."""
    sees = f"a patch sees {min(sizing.coverage, 1):.0%} of the median case"
    if len(sizing.patch_size) == 2:
        return "on: many 2D patches lack a label, and the Dice of an absent label says nothing; the batch has it"
    if sums:
        return f"on: {sees}, so little that 3d_lowres is planned: single patches often lack a label"
    return f"off: {sees}, taken to be enough for a Dice of its own"
