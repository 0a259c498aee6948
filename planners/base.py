"""How a plan is put together from a preset's constants, a fingerprint and a memory budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from autoseg.dataset import Dataset
from autoseg.errors import PlanError
from autoseg.fingerprint import Fingerprint
from autoseg.plan import Configuration, Plan
from autoseg.planners import reasons
from autoseg.planners.budget import SMALLEST_BATCH, Sizer, Sizing
from autoseg.planners.network_sizing import NetworkSizer, network_excess
from autoseg.planners.normalization import NormalizationChoice, choose_normalization
from autoseg.planners.preset import DEFAULT_PLANNER, PlannerPreset
from autoseg.planners.resolutions import Resolutions, choose_resolutions
from autoseg.planners.spacing import Grid, full_resolution_grid
from autoseg.planners.stacks import Stacks, choose_stacks
from autoseg.planners.wording import counted, millimeters, millions
from autoseg.planning import MemoryExcess, PlannerBudget, share_data

_SMALL_DATASET = 30e6  # voxels; the Decathlon's hippocampus has 16 million, ACDC, where large networks gain, 100
_LARGE_BATCH = 0.1  # of all training voxels; more is worth a note


class PresetPlanner:
    """Plans U-Nets by nnU-Net's rules with the constants of a preset; subclasses only name the preset."""

    preset: ClassVar[PlannerPreset]

    def plan(self, dataset: Dataset, fingerprint: Fingerprint, budget: PlannerBudget) -> Plan:
        """Plan 2d, and for 3D data 3d_fullres and, where patches see too little of a case, 3d_lowres and a cascade.

        Args:
            dataset: Channels, labels and the number of training cases.
            fingerprint: Spacings, shapes and intensities.
            budget: Memory, and a spacing where the user fixed one.

        Raises:
            PlanError: When the budget is too small, or the fingerprint lacks what a channel needs.
        """
        memory_gb = self.preset.memory_gb if budget.gpu_memory_gb is None else budget.gpu_memory_gb
        if not (math.isfinite(memory_gb) and memory_gb > 0):
            raise PlanError(f"GPU memory must be a positive number of GB, got {memory_gb}")
        grid = full_resolution_grid(fingerprint, budget.spacing)
        normalization = choose_normalization(dataset.channels, fingerprint, budget.intensities)
        sizer = Sizer(preset=self.preset, memory_gb=memory_gb, num_labels=dataset.labels.declared_count)
        resolutions = choose_resolutions(grid, sizer, num_cases=dataset.declared_count)
        maker = _ConfigurationMaker(sizer=sizer, grid=grid, normalization=normalization)
        stacks = None
        if budget.slices is not None:
            stacks = choose_stacks(budget.slices, grid, sizer, num_cases=dataset.declared_count)
        configurations = maker.make_all(resolutions, stacks)
        refused: tuple[str, ...] = ()
        if budget.network is not None:
            network_sizer = NetworkSizer(
                request=budget.network,
                preset=self.preset,
                memory_gb=memory_gb,
                num_channels=len(dataset.channels),
                labels=dataset.labels,
                case_voxels=grid.num_voxels,
                patch=_in_plan_order(budget.network.patch, grid),
            )
            sized = network_sizer.plan_all(configurations, num_cases=dataset.declared_count)
            configurations, refused = sized.configurations, sized.notes
        return Plan(
            planner=self.preset.name,
            dataset=dataset.name,
            channels=dataset.channels,
            labels=dataset.labels,
            file_ending=dataset.file_ending,
            gpu_memory_gb=memory_gb,
            gpu_memory_source=budget.gpu_memory_source,
            orientation=fingerprint.orientation,
            transpose=grid.transpose,
            median_spacing=grid.median_spacing,
            median_shape=grid.median_shape,
            configurations=configurations,
            notes=(
                reasons.transpose(grid),
                resolutions.note,
                normalization.mask_note,
                *_warnings(dataset, fingerprint, grid, configurations),
                *refused,
                *_smaller_network(self.preset, grid, num_cases=dataset.declared_count),
            ),
        )

    def excess(self, configuration: Configuration, plan: Plan) -> MemoryExcess | None:
        """What of a configuration goes beyond the plan's memory, by the same count that sized it."""
        if "@" in configuration.name and configuration.name.partition("@")[2] != self.preset.name:
            return network_excess(configuration, plan)
        sizer = Sizer(preset=self.preset, memory_gb=plan.gpu_memory_gb, num_labels=plan.labels.declared_count)
        return sizer.excess(configuration)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ConfigurationMaker:
    """Names configurations and gives reasons; every number was decided before."""

    sizer: Sizer
    grid: Grid
    normalization: NormalizationChoice

    def make_all(self, resolutions: Resolutions, stacks: Stacks | None) -> tuple[Configuration, ...]:
        """All configurations, in nnU-Net's order; then the 2.5D one."""
        made = [self._in_plane(resolutions.in_plane)]
        if resolutions.full is not None:
            full = self._full_resolution(resolutions.full, sums_dice=resolutions.low is not None)
            if resolutions.low is None:
                made += [full]
            else:
                made += [self._low_resolution(resolutions.low), full, self._cascade(full)]
        if stacks is not None:
            made.append(self._stacks(stacks))
        return share_data(made)

    def _stacks(self, stacks: Stacks) -> Configuration:
        """The 2D network of slices with their neighbors."""
        plane = self._make(stacks.name, stacks.sizing, spacing_reason=self.grid.spacing_reason, sums_dice=True)
        return replace(
            plane,
            spacing=stacks.spacing,
            median_shape=stacks.median_shape,
            slices=stacks.slices,
            reasons=plane.reasons | {"slices": stacks.reason},
        )

    def _in_plane(self, sizing: Sizing) -> Configuration:
        reason = self.grid.spacing_reason
        if len(self.grid.spacing) == 3:
            reason += "; the first plan axis keeps each case's own slices"
        return self._make("2d", sizing, spacing_reason=reason, sums_dice=True)

    def _low_resolution(self, sizing: Sizing) -> Configuration:
        reason = (
            f"coarser than the full resolution of {millimeters(self.grid.spacing)} until a patch sees a quarter of "
            f"the median case: {sizing.coverage:.0%}"
        )
        return self._make("3d_lowres", sizing, spacing_reason=reason, sums_dice=False)

    def _full_resolution(self, sizing: Sizing, *, sums_dice: bool) -> Configuration:
        return self._make("3d_fullres", sizing, spacing_reason=self.grid.spacing_reason, sums_dice=sums_dice)

    def _cascade(self, full: Configuration) -> Configuration:
        """The full resolution once more, with the low resolution's segmentation as additional channels."""
        name = self.sizer.preset.configuration_name
        previous = name("3d_lowres")
        reason = f"{previous}: its segmentation shows what lies around a patch"
        return replace(
            full,
            name=name("3d_cascade_fullres"),
            previous_stage=previous,
            reasons={**full.reasons, "previous_stage": reason},
        )

    def _make(self, base_name: str, sizing: Sizing, *, spacing_reason: str, sums_dice: bool) -> Configuration:
        preset = self.sizer.preset
        name = preset.configuration_name(base_name)
        return Configuration(
            name=name,
            data=name,
            spacing=sizing.spacing,
            median_shape=sizing.median_shape,
            patch_size=sizing.patch_size,
            batch_size=sizing.batch_size,
            batch_dice=sums_dice,
            normalization=self.normalization.plans,
            network=sizing.network,
            reasons={
                "spacing": spacing_reason,
                "patch_size": reasons.patch_size(sizing, self.sizer.memory_gb),
                "batch_size": reasons.batch_size(sizing, preset),
                "batch_dice": reasons.batch_dice(sizing, sums=sums_dice),
                "normalization": self.normalization.reason,
                "network": reasons.network(sizing),
                "previous_stage": reasons.ALONE,
            },
        )


def _in_plan_order(patch: tuple[int, int, int] | None, grid: Grid) -> tuple[int, ...] | None:
    """The patch that was asked for, of which images of two axes take the plane."""
    return None if patch is None else tuple(patch[-len(grid.transpose) :][axis] for axis in grid.transpose)


def _smaller_network(preset: PlannerPreset, grid: Grid, *, num_cases: int) -> list[str]:
    """Propose the plain U-Net where a large one was asked for and the data are too few to fill it."""
    voxels = grid.num_voxels * num_cases
    if preset.name == DEFAULT_PLANNER or voxels >= _SMALL_DATASET:
        return []
    return [
        f"The dataset is small: {counted(num_cases, 'case')}, {millions(voxels)} voxels. Proposed: --planner "
        f"{DEFAULT_PLANNER}. On the Decathlon's hippocampus, as small, the large residual encoder was published to "
        "take 13 times as long and to lose 0.4 points of Dice."
    ]


def _warnings(
    dataset: Dataset, fingerprint: Fingerprint, grid: Grid, configurations: Sequence[Configuration]
) -> list[str]:
    """What is unusual enough to be looked at."""
    found = []
    if dataset.declared_count != len(fingerprint.cases):
        found.append(
            f"dataset.json declares {dataset.declared_count} training cases, {len(fingerprint.cases)} were measured; "
            "batch sizes follow the declared number."
        )
    if not fingerprint.intensities:
        found.append("No training case has foreground, so there are no intensity statistics.")
    small = [c.name for c in configurations if not c.network.deep_supervision]
    if small:
        found.append(
            f"Images are so small that {', '.join(small)} has no more than two stages and no deep supervision; "
            "nnU-Net's own plan for such data cannot be trained."
        )
    for configuration in configurations:
        case_shape = grid.median_shape if configuration.ndim == 2 else configuration.median_shape
        voxels = configuration.batch_size * math.prod(configuration.patch_size)
        share = voxels / (math.prod(case_shape) * dataset.declared_count)
        if share > _LARGE_BATCH and configuration.batch_size > SMALLEST_BATCH:
            found.append(
                f"{configuration.name}: a batch of {configuration.batch_size} patches holds {share:.0%} of all "
                "training voxels, because this planner fills the memory. Where a step takes too long, lower batch_size "
                "in plan.json."
            )
    return found
