"""What a check found, as values that go to the screen and to check.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SCHEMA_VERSION = 2

Severity = Literal["repaired", "warning", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong or odd.

    Args:
        severity: "repaired" is put right when files are read, at prediction too; a "warning" is for a person to judge;
            an "error" keeps the dataset from being used.
        case: Case it belongs to, if any.
        path: File it was found in, if any.
        message: One sentence; says what was found.
        in_voxels: Whether the voxels had to be read to find it.
    """

    severity: Severity
    case: str | None = None
    path: Path | None = None
    message: str
    in_voxels: bool = False

    def __str__(self) -> str:
        place = self.path if self.path is not None else self.case and f"case {self.case}"
        return f"{place}: {self.message}" if place else self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What a check found.

    Args:
        num_cases: Training cases looked at.
        majority_orientation: Anatomical direction of the stored array axes that most training cases share; empty
            when no header could be read.
        num_turned: Training cases stored in another orientation; they are turned to it.
        problems: Problems of the whole dataset, then case by case.
    """

    schema_version: int = SCHEMA_VERSION
    num_cases: int
    majority_orientation: str
    num_turned: int
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Problems that keep the dataset from being used."""
        return self._of("error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Oddities that a person should judge."""
        return self._of("warning")

    @property
    def repairs(self) -> tuple[Problem, ...]:
        """What is put right when files are read."""
        return self._of("repaired")

    @property
    def unusable_cases(self) -> frozenset[str]:
        """Cases that have an error of their own."""
        return frozenset(p.case for p in self.errors if p.case is not None)

    def summary(self) -> str:
        """One sentence about the errors, for an exception."""
        listing = "; ".join(str(problem) for problem in self.errors[:3])
        return f"{listing}{f'; and {len(self.errors) - 3} more' if len(self.errors) > 3 else ''}"

    def _of(self, severity: Severity) -> tuple[Problem, ...]:
        return tuple(p for p in self.problems if p.severity == severity)
