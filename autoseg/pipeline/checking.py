"""One report of everything that is wrong with a dataset, headers and voxels together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autoseg.check import CheckReport, Problem, check_dataset
from autoseg.dataset import Case, Dataset
from autoseg.measurement import MeasuredFile, MeasureJob, measure_file, samples_per_case
from autoseg.parallel import WorkerPool
from autoseg.progress import Progress


def check_everything(dataset: Dataset, *, workers: int, progress: Progress) -> CheckReport:
    """Check headers, then the voxels of every training case whose headers are in order.

    Args:
        dataset: As loaded.
        workers: Worker processes that read voxels; 0 reads in this one.
        progress: Told how far it is.
    """
    report = check_dataset(dataset)
    cases = [case for case in dataset.training if case.id not in report.unusable_cases]
    with WorkerPool(min(workers, len(cases))) as pool:
        measured = measure_cases(dataset, cases, report.majority_orientation, pool, progress, num_samples=1)
    return with_voxel_problems(report, measured)


def measure_cases(
    dataset: Dataset,
    cases: Sequence[Case],
    orientation: str,
    pool: WorkerPool,
    progress: Progress,
    *,
    num_samples: int | None = None,
    kept_bytes: int = 0,
) -> list[MeasuredFile]:
    """Read cases once, to check and to measure them.

    Args:
        dataset: What they belong to.
        cases: Training cases.
        orientation: Orientation to turn them to.
        pool: Worker processes.
        progress: Told how far it is.
        num_samples: Intensities to draw per case and channel; None takes as many as nnU-Net.
        kept_bytes: Memory for cases that are kept where they were read, all processes together.
    """
    jobs = [
        MeasureJob(
            case=case,
            labels=dataset.labels,
            num_samples=num_samples or samples_per_case(len(dataset.training)),
            orientation=orientation,
            num_channels=len(dataset.channels),
            declared_in=dataset.declared_in,
            kept_bytes=kept_bytes // max(1, pool.workers),
        )
        for case in cases
    ]
    measured = pool.map(measure_file, jobs, label=lambda job: job.case.id, home=lambda job: job.case.id)
    return list(progress.track(measured, total=len(jobs), description="measuring"))


def with_voxel_problems(report: CheckReport, measured: Sequence[MeasuredFile]) -> CheckReport:
    """A report on headers with what the voxels showed; a dataset without any foreground is an error."""
    found = [problem for result in measured for problem in result.problems]
    usable = [result.measurement for result in measured if result.measurement is not None]
    if usable and len(usable) == len(measured) and not any(m.case.labels for m in usable):
        message = "no case has any foreground; there is nothing to learn from"
        found.append(Problem(severity="error", message=message, in_voxels=True))
    return replace(report, problems=(*report.problems, *found))
