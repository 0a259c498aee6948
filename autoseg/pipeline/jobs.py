"""Folds to train as a graph of jobs: plain data, and the rule by which any engine goes through it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from autoseg.progress import Progress
from autoseg.splits import fold_dir_name


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldJob:
    """One fold to train.

    Args:
        configuration: Name in the plan, without the variant.
        stored: Name of its results, with the variant.
        fold: Number of the fold.
        after: Names of jobs that must have succeeded before: the folds whose segmentations a cascade trains with.
    """

    configuration: str
    stored: str
    fold: int
    after: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For messages, and for jobs that wait for this one."""
        return f"{self.stored} {fold_dir_name(self.fold)}"


class Engine(Protocol):
    """Executes jobs somewhere, several at a time."""

    def start(self, job: FoldJob) -> None:
        """Begin a job, or put it into a queue."""

    def ended(self) -> Iterator[tuple[FoldJob, str]]:
        """Wait until a job ends; those that did, each with the reason of its failure, empty where it is done."""

    def close(self) -> None:
        """Let go of what was started; called at the end and after an interruption."""


def with_dependencies(jobs: Sequence[FoldJob], previous: Mapping[str, str | None]) -> tuple[FoldJob, ...]:
    """Let jobs wait for those of their previous stage.

    Args:
        jobs: Without dependencies.
        previous: Name of results -> that of the previous stage, None where there is none.
    """
    names: dict[str, list[str]] = {}
    for job in jobs:
        names.setdefault(job.stored, []).append(job.name)
    return tuple(
        FoldJob(
            configuration=job.configuration,
            stored=job.stored,
            fold=job.fold,
            after=tuple(names.get(previous.get(job.stored) or "", ())),
        )
        for job in jobs
    )


def hindrance(job: FoldJob, failures: Mapping[str, str]) -> str:
    """Why a job cannot run any more; empty when it can."""
    failed = [name for name in job.after if name in failures]
    return f"skipped, because it needs {' and '.join(failed)}" if failed else ""


def follow(jobs: Sequence[FoldJob], engine: Engine, progress: Progress) -> dict[str, str]:
    """Let an engine do all jobs, each as soon as those are done that it waits for.

    Args:
        jobs: In any order.
        engine: Does them; closed in the end.
        progress: Told what begins and ends.

    Returns:
        Name of each job that failed or was skipped -> why.
    """
    waiting, running = list(jobs), set[str]()
    failures: dict[str, str] = {}
    try:
        while waiting or running:
            for job in list(waiting):
                if reason := hindrance(job, failures):
                    waiting.remove(job)
                    failures[job.name] = reason
                    progress.message(f"{job.name}: {reason}")
                elif not any(other.name in job.after for other in waiting) and not running & set(job.after):
                    waiting.remove(job)
                    engine.start(job)
                    running.add(job.name)
                    progress.message(f"{job.name}: submitted")
            for job, reason in engine.ended() if running else ():
                running.remove(job.name)
                if reason:
                    failures[job.name] = reason
                progress.message(f"{job.name}: {f'failed: {reason}' if reason else 'done'}")
    finally:
        engine.close()
    return failures
