"""Planned configurations against real memory: what a training step takes, and smaller ones where it is too much.

Knobs in this order: the batch down to two; then what the planner decides for less memory (patch, and for networks that
were asked for also checkpointing and width), until the step fits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from autoseg.codec import write_json
from autoseg.dataset import Dataset
from autoseg.errors import PlanError
from autoseg.fingerprint import Fingerprint
from autoseg.lock import hold
from autoseg.plan import Configuration, Plan
from autoseg.planning import Planner, PlannerBudget
from autoseg.progress import Progress
from autoseg.training import STEP_METERS, StepMemory
from autoseg.workspace import Workspace

_SMALLEST_BATCH = 2
_MOST_ROUNDS = 8
_AIM = 0.97  # of the memory: what a step takes is not quite proportional to what is changed
_LEAST_STEP = 0.9  # of the memory planned for, from one round to the next
_LEAST_MEMORY = 0.005  # GB, below which no planner is asked
_WAIT_SECONDS = 30.0  # for a train command that adds a variant at this moment


@dataclass(frozen=True, slots=True)
class MeasuredSizer:
    """Finds a form of a configuration whose training step fits.

    Args:
        dataset: What was planned for.
        fingerprint: Its measurements.
        planner: Asked again for less memory.
        budget: What it was given.
        device: Where steps are taken, or "auto".
    """

    dataset: Dataset
    fingerprint: Fingerprint
    planner: Planner
    budget: PlannerBudget
    device: str

    def fit(self, plan: Plan, planned: Configuration, *, may_shrink: bool) -> Configuration:
        """The configuration, smaller where needed, with what was found among its reasons.

        Args:
            plan: For channels, labels and memory.
            planned: One of its configurations.
            may_shrink: False leaves it as it is and only notes what was found.
        """
        memory_gb = plan.gpu_memory_gb
        first = found = self._take(plan, planned)
        now, planned_for, problem = planned, memory_gb, ""
        for _ in range(_MOST_ROUNDS if may_shrink else 0):
            if found.gigabytes <= memory_gb:
                break
            share = _AIM * memory_gb / found.gigabytes if math.isfinite(found.gigabytes) else 0.5
            if now.batch_size > _SMALLEST_BATCH:
                smaller = max(_SMALLEST_BATCH, min(math.floor(now.batch_size * share), now.batch_size - 1))
                now = replace(now, batch_size=smaller)
            else:
                try:
                    planned_for, now = self._smaller(planned_for, now, share=min(share, _LEAST_STEP))
                except PlanError as error:
                    problem = f"; no smaller form: {error}"
                    break
            found = self._take(plan, now)
        return _with_reason(
            planned, now, first=first, last=found, memory_gb=memory_gb, device=self.device, problem=problem
        )

    def _take(self, plan: Plan, configuration: Configuration) -> StepMemory:
        return STEP_METERS.get("supervised")(plan, configuration, self.device)

    def _smaller(self, memory_gb: float, now: Configuration, *, share: float) -> tuple[float, Configuration]:
        """Patch and network that the planner takes with less memory, the smallest batch, and that memory.

        A planner that left memory unused answers the same at first: it is asked until it gives something else.

        Raises:
            PlanError: When it has nothing smaller.
        """
        while True:
            memory_gb *= share
            budget = replace(self.budget, gpu_memory_gb=memory_gb)
            planned = self.planner.plan(self.dataset, self.fingerprint, budget).configuration(now.name)
            smaller = replace(now, patch_size=planned.patch_size, network=planned.network, batch_size=_SMALLEST_BATCH)
            if smaller != now:
                return memory_gb, smaller
            if memory_gb < _LEAST_MEMORY:
                raise PlanError(f"the planner has none, not even for {memory_gb:.2g} GB")


def fit_to_memory(space: Workspace, sizer: MeasuredSizer, progress: Progress) -> None:
    """Check every configuration of a workspace's plan, and write down what was found and what was made smaller.

    Configurations that have results are looked at, too, and stay as they are.

    Raises:
        SettingsError: When there is no such device.
    """
    from autoseg.device import choose_device  # torch: only where it was asked to measure

    sizer = replace(sizer, device=choose_device(sizer.device))
    found = []
    whole = space.load_plan()
    planned = whole.configurations
    for configuration in progress.track(planned, total=len(planned), description="training steps in memory"):
        trained = space.run_record_path(configuration.name).is_file()
        found.append(sizer.fit(whole, configuration, may_shrink=not trained))
    with hold(space.plan_lock, str(space.plan_path), wait=_WAIT_SECONDS, tell=progress.message):
        plan = space.load_plan()
        by_name = {c.name: c for c in found}
        kept = tuple(by_name.get(c.name, c) if c in planned else c for c in plan.configurations)  # or edited meanwhile
        write_json(replace(plan, configurations=kept), space.plan_path)
    for configuration in found:
        progress.message(f"{configuration.name}: {configuration.reasons['memory']}")


def _with_reason(
    planned: Configuration,
    now: Configuration,
    *,
    first: StepMemory,
    last: StepMemory,
    memory_gb: float,
    device: str,
    problem: str,
) -> Configuration:
    """The configuration with the figure and, where it was changed, what it was before."""
    how = f"measured on {device}" if last.is_measured else f"estimated, not measured: {device} is no CUDA device"
    if now == planned:
        verdict = "" if last.gigabytes <= memory_gb else f": too much, and left as it is{problem}"
        reason = f"a training step takes {_words(last)} of {memory_gb:g} GB{verdict} ({how})"
        return replace(now, reasons={**now.reasons, "memory": reason})
    verdict = "" if last.gigabytes <= memory_gb else f", still too much{problem}"
    reason = (
        f"a training step took {_words(first)} of {memory_gb:g} GB; made smaller it takes {_words(last)}{verdict} "
        f"({how})"
    )
    before, after = _sizes(planned), _sizes(now)
    changed = {
        field: f"{after[field]} instead of {before[field]}, to fit the memory"
        for field in before
        if before[field] != after[field]
    }
    return replace(now, reasons={**now.reasons, **changed, "memory": reason})


def _sizes(configuration: Configuration) -> dict[str, str]:
    """What decides the memory, in words."""
    network = configuration.network
    return {
        "patch_size": "x".join(map(str, configuration.patch_size)),
        "batch_size": str(configuration.batch_size),
        "network": f"{network.num_stages} stages of {network.features[0]} to {network.features[-1]} feature maps"
        + (", computed twice instead of kept" if network.checkpointing else ""),
    }


def _words(found: StepMemory) -> str:
    return f"{found.gigabytes:.2f} GB" if math.isfinite(found.gigabytes) else "more than the device has"
