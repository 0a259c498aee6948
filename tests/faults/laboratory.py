"""What a fault is tried on, and what is noted of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from crashing import Fault, Run, Server
from scenario import Scenario, differences, finished_units, steps_taken

TRAIN = 1  # number of the step that takes optimizer steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault and what came of it.

    Args:
        kind: What was done.
        where: Which command, and at which moment or to which file.
        wrong: What was wrong afterwards; empty if nothing.
        lost: Finished work that was done again; empty if none.
        is_hung: Whether something had to be ended from outside.
        answered: Seconds from the signal to the end of the command.
    """

    kind: str
    where: str
    wrong: str = ""
    lost: str = ""
    is_hung: bool = False
    answered: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Laboratory:
    """A scenario whose commands were run undisturbed once, and the server that runs them again."""

    scenario: Scenario
    server: Server
    undisturbed: tuple[Run, ...]

    def strike(self, number: int, fault: Fault, *, workers: int = 0) -> Run:
        """Run a step from its beginning, with a fault."""
        self.scenario.put_back(self.scenario.state(number))
        step = self.scenario.steps(workers=workers)[number]
        return self.server.run(step.name, *step.arguments, fault=fault)

    def resume(self, number: int, kind: str, where: str, struck: Run, *, workers: int = 0) -> Finding:
        """Repeat the command as a user would, and compare with the undisturbed results."""
        finding = Finding(kind=kind, where=where, is_hung=struck.is_hung, answered=struck.answered)
        if struck.orphans:
            return replace(finding, wrong=f"{struck.orphans} processes outlived the command")
        workspace = self.scenario.workspace
        before, steps = finished_units(workspace), steps_taken(workspace) if number == TRAIN else 0
        step = self.scenario.steps(workers=workers)[number]
        again = self.server.run(step.name, *step.arguments)
        if again.is_hung or again.code != 0:
            return replace(finding, wrong=f"resume: {ending(again)}", is_hung=again.is_hung)
        after, lost = finished_units(workspace), ""
        if repeated := [name for name, state in before.items() if after.get(name) != state]:
            lost = f"{repeated[0]} was made again"
        if number == TRAIN and steps and not _went_on(again, steps):
            lost = f"{steps} optimizer steps were taken again"
        return replace(finding, wrong="; ".join(differences(self.expected(number), workspace)), lost=lost)

    def expected(self, number: int) -> Path:
        return self.scenario.result(number)


def _went_on(run: Run, steps: int) -> bool:
    found = re.search(r"going on after (\d+) iterations", run.text)
    return f": {2 * 2} iterations in" in run.text and (found is None or int(found[1]) == steps)


def with_one_sentence(finding: Finding, run: Run) -> Finding:
    """A command that could not go on must have said so in one sentence."""
    if run.code in (0, 2) and is_one_sentence(run):
        return finding
    return replace(finding, wrong=f"{ending(run)}; {finding.wrong}")


def is_one_sentence(run: Run) -> bool:
    errors = [line for line in run.text.splitlines() if line.startswith("Error: ")]
    return "Traceback" not in run.text and len(errors) == (1 if run.code else 0)


def ending(run: Run) -> str:
    return f"exit code {run.code} after {run.seconds:.1f} s: ...{run.text.strip()[-400:]}"
