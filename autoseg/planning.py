"""What a planner is: fingerprint and memory budget in, plan out. Planning needs no GPU and never imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from autoseg.dataset import Dataset
from autoseg.fingerprint import Fingerprint
from autoseg.plan import Plan
from autoseg.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerBudget:
    """What a planner may spend, and what the user fixed.

    Args:
        gpu_memory_gb: GPU memory to size networks for; None takes the planner's own preset.
        gpu_memory_source: Where the figure came from, for the plan.
        spacing: Full-resolution target spacing (z, y, x) in mm, instead of the planner's choice.
    """

    gpu_memory_gb: float | None = None
    gpu_memory_source: str = "planner preset"
    spacing: tuple[float, ...] | None = None


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
