"""Every problem of a dataset that file headers show, found at once and before anything is computed.

An error keeps a dataset from being used; a warning says what is done about an oddity. Voxels are not read here:
:mod:`autoseg.measurement` checks them while it measures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autoseg.dataset import Case, Dataset
from autoseg.errors import DatasetError
from autoseg.geometry import Geometry
from autoseg.image import ImageHeader, read_header
from autoseg.parallel import map_cases

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong or odd.

    Args:
        severity: "error" keeps the dataset from being used.
        case: Case it belongs to, if any.
        path: File it was found in, if any.
        message: One sentence; says what was found.
    """

    severity: Literal["error", "warning"]
    case: str | None = None
    path: Path | None = None
    message: str

    def __str__(self) -> str:
        place = self.path if self.path is not None else self.case and f"case {self.case}"
        return f"{place}: {self.message}" if place else self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What :func:`check_dataset` found.

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
        return tuple(p for p in self.problems if p.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Oddities that are dealt with."""
        return tuple(p for p in self.problems if p.severity == "warning")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderJob:
    """One case whose headers are to be compared.

    Args:
        case: Its files.
        num_channels: Channels that the dataset declares.
        declared_in: What declares them, for messages.
    """

    case: Case
    num_channels: int
    declared_in: str = "dataset.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedCase:
    """What the headers of one case say.

    Args:
        geometry: Grid of its first image; None when that cannot be read.
        problems: What was found.
    """

    geometry: Geometry | None
    problems: tuple[Problem, ...]


def check_dataset(dataset: Dataset, *, workers: int = 0) -> CheckReport:
    """Compare the headers of all files with each other and with what the dataset declares.

    Args:
        dataset: As loaded.
        workers: Worker processes; 0 reads in this process, which is fast enough for local disks.
    """
    num_channels = len(dataset.channels)
    jobs = [
        HeaderJob(case=case, num_channels=num_channels, declared_in=dataset.declared_in)
        for case in (*dataset.training, *dataset.test)
    ]
    checked = list(map_cases(check_headers, jobs, workers=workers, label=lambda job: job.case.id))
    training = checked[: len(dataset.training)]
    grids = [c.geometry for c in training if c.geometry is not None]
    majority, num_turned = _majority(grids)
    problems = [
        *_count_problems(dataset),
        *_dimension_problems(dataset.training, training),
        *_orientation_problems(grids, majority, num_turned),
        *(problem for c in checked for problem in c.problems),
    ]
    return CheckReport(
        num_cases=len(dataset.training),
        majority_orientation=majority,
        num_turned=num_turned,
        problems=tuple(problems),
    )


def check_headers(job: HeaderJob) -> CheckedCase:
    """Compare the headers of one case's files; unreadable files are problems, not exceptions."""
    case, problems = job.case, []
    headers: list[tuple[Path, ImageHeader]] = []
    for path in (*case.images, *((case.label,) if case.label is not None else ())):
        try:
            headers.append((path, read_header(path)))
        except DatasetError as error:
            problems.append(Problem(severity="error", case=case.id, message=str(error)))
    images = [(path, header) for path, header in headers if path != case.label]
    if len(images) == len(case.images):
        problems.extend(_channel_problems(job, [header.num_channels for _, header in images]))
    for path, header in headers[1:]:
        problems.extend(_grid_problems(case, headers[0], (path, header)))
    for path, header in headers:
        if path == case.label and header.num_channels != 1:
            message = f"the label has {header.num_channels} channels, a segmentation has one"
            problems.append(Problem(severity="error", case=case.id, path=path, message=message))
    return CheckedCase(geometry=images[0][1].geometry if images else None, problems=tuple(problems))


def _majority(grids: Sequence[Geometry]) -> tuple[str, int]:
    """Most frequent orientation (the first case's among equals) and the number of cases that differ from it."""
    codes = Counter(grid.orientation for grid in grids)
    if not codes:
        return "", 0
    code, number = codes.most_common(1)[0]
    return code, len(grids) - number


def _count_problems(dataset: Dataset) -> Iterator[Problem]:
    found = len(dataset.training)
    if found != dataset.declared_count:
        yield Problem(
            severity="error",
            path=dataset.root / "dataset.json",
            message=(
                f"numTraining is {dataset.declared_count}, but {found} training cases were found; "
                f'set "numTraining": {found}, or add the missing cases'
            ),
        )


def _dimension_problems(cases: Sequence[Case], checked: Sequence[CheckedCase]) -> Iterator[Problem]:
    by_ndim: dict[int, list[str]] = {}
    for case, result in zip(cases, checked, strict=True):
        if result.geometry is not None:
            by_ndim.setdefault(result.geometry.ndim, []).append(case.id)
    if len(by_ndim) > 1:
        listing = ", ".join(f"{len(ids)} are {ndim}D (such as {ids[0]})" for ndim, ids in sorted(by_ndim.items()))
        yield Problem(severity="error", message=f"2D and 3D images cannot be mixed: {listing}")


def _orientation_problems(grids: Sequence[Geometry], majority: str, num_turned: int) -> Iterator[Problem]:
    if num_turned:
        others = Counter(grid.orientation for grid in grids if grid.orientation != majority)
        listing = ", ".join(f"{code} ({number})" for code, number in others.most_common())
        yield Problem(
            severity="warning",
            message=(
                f"{num_turned} of {len(grids)} cases are stored in another orientation than {majority}, {listing}; "
                "they are turned to it, and predictions are turned back"
            ),
        )


def _channel_problems(job: HeaderJob, found: Sequence[int]) -> Iterator[Problem]:
    if sum(found) != job.num_channels:
        names = ", ".join(path.name for path in job.case.images)
        yield Problem(
            severity="error",
            case=job.case.id,
            message=f"{sum(found)} channel(s) in {names}, {job.declared_in} declares {job.num_channels}",
        )


def _grid_problems(case: Case, first: tuple[Path, ImageHeader], other: tuple[Path, ImageHeader]) -> Iterator[Problem]:
    """How the grid of a file differs from that of the case's first file."""
    for text in first[1].geometry.differences(other[1].geometry):
        is_grave = text.startswith(("shape", "spacing"))
        yield Problem(
            severity="error" if is_grave else "warning",
            case=case.id,
            path=other[0],
            message=f"differs from {first[0].name}: {text}{'' if is_grave else '; the voxels are taken as they lie'}",
        )
