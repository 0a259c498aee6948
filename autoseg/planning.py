"""What a planner is: fingerprint and memory budget in, plan out. Planning needs no GPU and never imports torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from autoseg.dataset import Dataset
from autoseg.fingerprint import Fingerprint
from autoseg.plan import BiasFieldPlan, Configuration, ContrastPlan, Plan
from autoseg.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensityRequest:
    """What a user wants done with the intensities of a channel, instead of the planner's choice or besides it.

    Args:
        channel: Name of the channel or its number; None means all.
        scheme: Name of the normalization; None leaves it to the planner.
        window: Intensities that the scheme "window" maps to 0 and 1.
        bias_field: Correction of a coil's field.
        reference: Case whose histogram every image is given; None gives none.
        landmarks: Its histogram, per channel.
        contrast: Equalization of local contrast.
    """

    channel: str | None = None
    scheme: str | None = None
    window: tuple[float, float] | None = None
    bias_field: BiasFieldPlan | None = None
    reference: str | None = None
    landmarks: tuple[tuple[float, ...], ...] = ()
    contrast: ContrastPlan | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRequest:
    """A network that the user wants planned.

    Args:
        name: In the network registry.
        label: What its configurations' names end in, after "@".
        options: Options of the network, ``name=value`` each.
        patch: Voxels (z, y, x) of its patch, axes as stored; smaller where the median case or the memory is. 2D
            configurations take the plane's. None leaves it to the planner.
        bases: Configurations to plan it for, such as "3d_fullres"; empty for all.
    """

    name: str
    label: str
    options: tuple[str, ...] = ()
    patch: tuple[int, int, int] | None = None
    bases: tuple[str, ...] = ()


STACKS = "2p5d"
"""Name of the configuration whose network sees stacks of slices; planned where it is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRequest:
    """That a 2.5D configuration is wanted besides the others.

    Args:
        context: Slices of a stack, an odd number.
        axes: Plan axes across which slices are cut; None leaves it to the planner.
    """

    context: int = 5
    axes: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerBudget:
    """What a planner may spend, and what the user fixed.

    Args:
        gpu_memory_gb: GPU memory to size networks for; None takes the planner's own preset.
        gpu_memory_source: Where the figure came from, for the plan.
        spacing: Full-resolution target spacing (z, y, x) in mm, instead of the planner's choice.
        intensities: What is asked of channels, in the order in which it was asked; later ones win.
        network: Network to plan, instead of the planner's own.
        slices: Stacks of slices to plan for, besides the usual configurations.
    """

    gpu_memory_gb: float | None = None
    gpu_memory_source: str = "planner preset"
    spacing: tuple[float, ...] | None = None
    intensities: tuple[IntensityRequest, ...] = ()
    network: NetworkRequest | None = None
    slices: SliceRequest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryExcess:
    """More memory than was planned for.

    Args:
        field: The value of the configuration that is to be lowered.
        gigabytes: What training takes by the planner's rule, in GB.
    """

    field: str
    gigabytes: float


class Planner(Protocol):
    """Decides spacing, patch, batch, network and normalization for every configuration."""

    def plan(self, dataset: Dataset, fingerprint: Fingerprint, budget: PlannerBudget) -> Plan:
        """Make a plan.

        Raises:
            PlanError: When nothing sensible fits the budget.
        """


@runtime_checkable
class JudgesMemory(Protocol):
    """A planner that can tell what a configuration takes that was edited since it was planned."""

    def excess(self, configuration: Configuration, plan: Plan) -> MemoryExcess | None:
        """What goes beyond the plan's memory; None where nothing does, or where the network is not known."""


PLANNERS: Registry[type[Planner]] = Registry(
    "planner",
    group="autoseg.planners",
    built_in={
        "unet": "autoseg.planners.unet:UNetPlanner",
        "resenc_m": "autoseg.planners.resenc:ResEncMPlanner",
        "resenc_l": "autoseg.planners.resenc:ResEncLPlanner",
        "resenc_xl": "autoseg.planners.resenc:ResEncXLPlanner",
    },
)


def memory_warnings(plan: Plan, names: Collection[str] | None = None) -> tuple[str, ...]:
    """What in an edited plan takes more GPU memory than it was planned for, by the rule of the planner.

    Args:
        plan: As it lies on disk.
        names: Configurations to look at; None looks at all.

    Returns:
        One sentence per configuration, with the place in the file. Networks that this process does not know are left
        out: ``plan-and-preprocess --measure`` holds them against a training step.
    """
    found = []
    for configuration in plan.configurations:
        if names is not None and configuration.name not in names:
            continue
        known = [part for part in configuration.name.split("@")[1:] if part in PLANNERS.names()]
        planner = PLANNERS.get(known[-1] if known else "unet")()
        excess = (
            planner.excess(configuration, plan)
            if isinstance(planner, JudgesMemory) and plan.gpu_memory_gb > 0
            else None
        )
        if excess is not None:
            value = getattr(configuration, excess.field)
            found.append(
                f"configurations.{configuration.name}.{excess.field}: {value} takes about {excess.gigabytes:.3g} GB "
                f"of GPU memory, planned were {plan.gpu_memory_gb:.3g} (gpu_memory_gb). Lower it, or plan for more: "
                "--gpu-memory"
            )
    return tuple(found)


def share_data(configurations: Iterable[Configuration]) -> tuple[Configuration, ...]:
    """Let configurations that need the same preprocessed arrays train on one folder, named after the first of them.

    The only place that decides which folder below preprocessed/ a configuration uses. It looks at all configurations
    of a plan, whichever planner made them, so call it again when some were added or planned anew.

    Args:
        configurations: Those of one plan, so that axes, channels and labels are the same.
    """
    owners: list[Configuration] = []
    shared = []
    for configuration in configurations:
        owner = next((known for known in owners if _is_prepared_alike(known, configuration)), None)
        reasons = {field: reason for field, reason in configuration.reasons.items() if field != "data"}
        if owner is None:
            owners.append(configuration)
            shared.append(replace(configuration, data=configuration.name, reasons=reasons))
        else:
            reasons["data"] = f"shared with {owner.name}: spacing, normalization and resampling are the same"
            shared.append(replace(configuration, data=owner.name, reasons=reasons))
    return tuple(shared)


def _is_prepared_alike(one: Configuration, other: Configuration) -> bool:
    return (one.spacing, one.normalization, one.resampling) == (other.spacing, other.normalization, other.resampling)
