"""One report of everything that is wrong with a dataset, headers and voxels together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autoseg.check import CheckReport, Problem, VoxelJob, check_dataset, read_and_check
from autoseg.dataset import Case, Dataset
from autoseg.measurement import MeasuredFile, MeasureJob, measure_file, samples_per_case
from autoseg.parallel import WorkerPool
from autoseg.progress import Progress


def check_everything(dataset: Dataset, *, workers: int, progress: Progress) -> CheckReport:
    """Check headers, then the voxels of every case whose headers are in order, those of test images included.

    Args:
        dataset: As loaded.
        workers: Worker processes that read voxels; 0 reads in this one.
        progress: Told how far it is.
    """
    report = check_dataset(dataset)
    cases = [case for case in dataset.training if case.id not in report.unusable_cases]
    with WorkerPool(min(workers, len(cases))) as pool:
        measured = measure_cases(dataset, cases, report.majority_orientation, pool, progress, num_samples=1)
        tests = [case for case in dataset.test if case.id not in report.unusable_cases]
        found = pool.map(check_test_file, [_test_job(case, dataset) for case in tests], label=lambda job: job.case.id)
        test_problems = [
            p for problems in progress.track(found, total=len(tests), description="test images") for p in problems
        ]
    checked = with_voxel_problems(report, measured, dataset)
    return replace(checked, problems=(*checked.problems, *test_problems))


def check_test_file(job: VoxelJob) -> tuple[Problem, ...]:
    """Read an image that waits for a prediction, and say what is wrong with it."""
    return read_and_check(job).problems


def _test_job(case: Case, dataset: Dataset) -> VoxelJob:
    return VoxelJob(
        case=case, labels=dataset.labels, num_channels=len(dataset.channels), declared_in=dataset.declared_in
    )


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


def with_voxel_problems(report: CheckReport, measured: Sequence[MeasuredFile], dataset: Dataset) -> CheckReport:
    """A report on headers with what the voxels showed; a dataset without any foreground is an error."""
    found = [problem for result in measured for problem in result.problems]
    usable = [result.measurement for result in measured if result.measurement is not None]
    if usable and len(usable) == len(measured) and not any(m.case.labels for m in usable):
        message = f"no label file of {dataset.root} has any foreground; there is nothing to learn from"
        found.append(Problem(severity="error", message=message, in_voxels=True))
    return replace(report, problems=(*report.problems, *found))
