"""Why a configuration is as it is: one sentence per field, with the figures that decided."""

from __future__ import annotations

import math

from autoseg.planners.budget import Sizing
from autoseg.planners.preset import PlannerPreset
from autoseg.planners.spacing import Grid
from autoseg.planners.topology import SMALLEST_EDGE
from autoseg.planners.wording import millimetres, millions, voxels

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
    values = "feature-map values"
    limit = f"{memory_gb:g} GB hold {sizing.reference_batch_size} patches of {millions(sizing.max_elements)} {values}"
    has = f"{millions(sizing.elements)} {values}"
    start = f"starts at {voxels(sizing.first_patch_size)}, equal millimetres along every axis cut to the median case"
    if sizing.num_shrinks == 0:
        return f"{start} of {voxels(sizing.median_shape)}, and fits: {limit}, this one has {has}"
    return (
        f"{start} of {voxels(sizing.median_shape)}; {sizing.num_shrinks} step(s) smaller, each along the axis that "
        f"covers most of the median case, it fits: {limit}, this one has {has}"
    )


def batch_size(sizing: Sizing, preset: PlannerPreset) -> str:
    """Say which limit decided the batch size."""
    by_memory = f"memory holds {sizing.memory_batch_size} patches"
    by_dataset = f"{preset.max_dataset_share:.0%} of all training voxels are {sizing.dataset_batch_size}"
    if sizing.batch_size == sizing.memory_batch_size <= sizing.dataset_batch_size:
        return f"{by_memory}; {by_dataset}"
    if sizing.batch_size == sizing.dataset_batch_size:
        return f"{by_dataset} patches, more would repeat themselves; {by_memory}"
    return f"the smallest batch that is ever used; {by_memory}, {by_dataset}"


def network(sizing: Sizing) -> str:
    """Say how the topology follows from spacing and patch."""
    plan = sizing.network
    halvings = ", ".join(str(round(math.log2(d))) for d in plan.divisor)
    sentence = (
        f"{plan.num_stages} stage(s) with {plan.features[0]} to {plan.features[-1]} feature maps: axes are halved "
        f"{halvings} times, as long as they keep {SMALLEST_EDGE} voxels and their spacing "
        f"({millimetres(sizing.spacing)}) is within 2 times the finest"
    )
    num_flat = sum(min(kernel) == 1 for kernel in plan.kernel_sizes)
    if num_flat:
        sentence += f"; kernels leave out coarser axes in the first {num_flat} stage(s)"
    if sizing.topology.is_forced:
        sentence += (
            f"; the patch is shorter than {2 * SMALLEST_EDGE} voxels and would not be halved at all, "
            "once is done all the same so that there is a decoder"
        )
    if not plan.deep_supervision:
        sentence += "; no deep supervision, because there is one output only"
    return sentence


def batch_dice(sizing: Sizing, *, sums: bool) -> str:
    """Say why the Dice loss sums over the batch before it divides, or not."""
    sees = f"a patch sees {min(sizing.coverage, 1):.0%} of the median case"
    if len(sizing.patch_size) == 2:
        return "on: many slices lack a label, and the Dice of an empty slice says nothing; the batch as a whole has it"
    if sums:
        return f"on: {sees}, so that single patches often lack a label"
    return f"off: {sees}, enough for a Dice of its own"
