"""Every problem of a dataset that file headers show, found at once and before anything is computed.

Voxels are looked at in :mod:`autoseg.check.voxels`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.check.duplicates import duplicate_problems
from autoseg.check.report import CheckReport, Problem
from autoseg.dataset import Case, Dataset
from autoseg.errors import AutosegError, DatasetError
from autoseg.geometry import Geometry, Reorientation
from autoseg.image import ImageHeader, read_header
from autoseg.nifti import check_nifti_is_complete
from autoseg.parallel import map_cases
from autoseg.splits import read_splits

_LARGEST_LABEL = 32767  # segmentations are kept as 16-bit integers
_OUTLYING = 3.0  # times the median spacing along an axis, or a third of it
_FEWEST_FOR_OUTLIERS = 5


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
        has_floating_label: Whether its labels are stored as floating-point numbers.
    """

    geometry: Geometry | None
    problems: tuple[Problem, ...]
    has_floating_label: bool = False


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
        *_label_problems(dataset, training),
        *_split_problems(dataset),
        *duplicate_problems(dataset.training, dataset.test),
        *_dimension_problems(dataset.training, training),
        *_orientation_problems(grids, majority, num_turned),
        *_spacing_problems(dataset.training, training, majority),
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
            check_nifti_is_complete(path)
            headers.append((path, read_header(path, frame=case.frame)))
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
        if header.is_rectified:
            message = "the direction matrix is no rotation; the nearest one is taken"
            problems.append(Problem(severity="repaired", case=case.id, path=path, message=message))
        elif not header.geometry.has_right_angles:
            message = "the axes do not stand at right angles; the voxels are taken as if they did"
            problems.append(Problem(severity="warning", case=case.id, path=path, message=message))
    return CheckedCase(
        geometry=images[0][1].geometry if images else None,
        problems=tuple(problems),
        has_floating_label=any(header.is_floating for path, header in headers if path == case.label),
    )


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


def _label_problems(dataset: Dataset, checked: Sequence[CheckedCase]) -> Iterator[Problem]:
    declared = (*dataset.labels.values, dataset.labels.ignore_value or 0)
    if max(declared) > _LARGEST_LABEL:
        message = f"the label value {max(declared)} is too large, {_LARGEST_LABEL} is the largest that can be stored"
        yield Problem(severity="error", message=message)
    floating = [case.id for case, result in zip(dataset.training, checked, strict=True) if result.has_floating_label]
    if floating:
        yield Problem(
            severity="repaired",
            message=(
                f"the labels of {len(floating)} case(s), such as {floating[0]}, are stored as floating-point numbers; "
                "they are read as integers"
            ),
        )


def _split_problems(dataset: Dataset) -> Iterator[Problem]:
    """Cases and groups on both sides of a border that they must not cross."""
    training = {case.id for case in dataset.training}
    for case in dataset.test:
        if case.id in training:
            message = f"case {case.id} is there for training and for testing; give one of them another name"
            yield Problem(severity="warning", message=message)
    groups = {case.group for case in dataset.training if case.group is not None}
    for group in sorted({case.group for case in dataset.test if case.group in groups and case.group is not None}):
        yield Problem(severity="warning", message=f"group {group} has cases for training and for testing")
    path = dataset.root / "splits_final.json"
    if not path.is_file():
        return
    try:
        folds = read_splits(path, sorted(training))
    except AutosegError as error:
        yield Problem(severity="error", message=str(error))
        return
    if outside := sorted(training - {case for fold in folds for case in (*fold.train, *fold.val)}):
        yield Problem(
            severity="warning", path=path, message=f"{len(outside)} case(s) are in no fold, such as {outside[0]}"
        )
    times = Counter(case for fold in folds for case in fold.val)
    if twice := sorted(case for case, number in times.items() if number > 1):
        yield Problem(
            severity="warning", path=path, message=f"{len(twice)} case(s) are held out twice, such as {twice[0]}"
        )


def _spacing_problems(cases: Sequence[Case], checked: Sequence[CheckedCase], majority: str) -> Iterator[Problem]:
    """Spacings far from those of all others: often a header that a conversion has lost."""
    known = [(case, result.geometry) for case, result in zip(cases, checked, strict=True) if result.geometry]
    known = [(case, grid) for case, grid in known if grid.ndim == len(majority)]
    if len(known) < _FEWEST_FOR_OUTLIERS:
        return
    turned = [Reorientation.between(grid.orientation, majority).apply_to_geometry(grid).spacing for _, grid in known]
    median = np.median(turned, axis=0)
    outlying = [np.max(np.abs(np.log(np.asarray(s) / median))) > np.log(_OUTLYING) for s in turned]
    if sum(outlying) * 5 > len(known):
        return  # this is how the dataset is
    for (case, _), spacing, is_outlying in zip(known, turned, outlying, strict=True):
        if is_outlying:
            usual = ", ".join(f"{s:g}" for s in median)
            found = ", ".join(f"{s:g}" for s in spacing)
            message = f"the spacing {found} mm is far from the usual {usual} mm; is the header right?"
            yield Problem(severity="warning", case=case.id, path=case.images[0], message=message)


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
            severity="repaired",
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
