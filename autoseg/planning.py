"""What a planner is: fingerprint and memory budget in, plan out. Planning needs no GPU and never imports torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

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
    """

    name: str
    label: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerBudget:
    """What a planner may spend, and what the user fixed.

    Args:
        gpu_memory_gb: GPU memory to size networks for; None takes the planner's own preset.
        gpu_memory_source: Where the figure came from, for the plan.
        spacing: Full-resolution target spacing (z, y, x) in mm, instead of the planner's choice.
        intensities: What is asked of channels, in the order in which it was asked; later ones win.
        network: Network to plan, instead of the planner's own.
    """

    gpu_memory_gb: float | None = None
    gpu_memory_source: str = "planner preset"
    spacing: tuple[float, ...] | None = None
    intensities: tuple[IntensityRequest, ...] = ()
    network: NetworkRequest | None = None


class Planner(Protocol):
    """Decides spacing, patch, batch, network and normalization for every configuration."""

    def plan(self, dataset: Dataset, fingerprint: Fingerprint, budget: PlannerBudget) -> Plan:
        """Make a plan.

        Raises:
            PlanError: When nothing sensible fits the budget.
        """


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
