"""What a dataset consists of: grids, label volumes, and how many cases of each origin there are."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.dataset import Case, Dataset
from autoseg.errors import DatasetError
from autoseg.geometry import Geometry
from autoseg.image import read_header, read_segmentation
from autoseg.labels import LabelScheme
from autoseg.parallel import map_cases
from autoseg.progress import Progress

SCHEMA_VERSION = 1
_OWN_COLUMNS = ("group", "domain", "phase", "view")
_MOST_VALUES = 20  # of a column; a column with more holds names or measurements, of which only the number is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Smallest, median and largest of some numbers."""

    min: float
    median: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport:
    """One target of the dataset.

    Args:
        name: Label or region.
        cases: Training cases in which it occurs.
        volume_ml: Over those cases, millilitres; square centimetres in 2D; None where it never occurs.
    """

    name: str
    cases: int
    volume_ml: Spread | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    """What was found in a dataset.

    Args:
        dataset: Its name.
        training: Labelled cases.
        test: Cases to predict.
        shapes: Voxels per array axis.
        spacings: Millimetres per array axis.
        orientations: Code -> cases.
        labels: One entry per target.
        counts: Column of the metadata -> value -> cases; of a column with very many values only their number, under
            "different values".
        without_metadata: Cases that the metadata does not know.
        without_case: Rows of the metadata that belong to no case.
    """

    schema_version: int = SCHEMA_VERSION
    dataset: str
    training: int
    test: int
    shapes: tuple[Spread, ...]
    spacings: tuple[Spread, ...]
    orientations: dict[str, int]
    labels: tuple[LabelReport, ...]
    counts: dict[str, dict[str, int]]
    without_metadata: tuple[str, ...] = ()
    without_case: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _CaseFacts:
    grid: Geometry
    volumes: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    case: Case
    labels: LabelScheme


def explore(dataset: Dataset, *, metadata: Path | None, workers: int, progress: Progress) -> Exploration:
    """Read all labels and headers of the training cases.

    Args:
        dataset: As loaded.
        metadata: CSV file with a column ``case``; its other columns are counted. None counts what a table of the
            dataset says itself.
        workers: Worker processes.
        progress: Told how far it is.

    Raises:
        DatasetError: When a file cannot be read.
    """
    jobs = [_Job(case=case, labels=dataset.labels) for case in dataset.training]
    found = map_cases(_look, jobs, workers=workers, label=lambda job: job.case.id)
    facts = list(progress.track(found, total=len(jobs), description="exploring"))
    rows = {} if metadata is None else _read_metadata(metadata)
    ids = [case.id for case in dataset.training]
    return Exploration(
        dataset=dataset.name,
        training=len(dataset.training),
        test=len(dataset.test),
        shapes=_per_axis(f.grid.shape for f in facts),
        spacings=_per_axis(f.grid.spacing for f in facts),
        orientations=dict(Counter(f.grid.orientation for f in facts).most_common()),
        labels=tuple(
            _label_report(target.name, [f.volumes[index] for f in facts])
            for index, target in enumerate(dataset.labels.targets)
        ),
        counts=_counts([_facts_of(case) | rows.get(case.id, {}) for case in dataset.training]),
        without_metadata=tuple(i for i in ids if i not in rows) if metadata is not None else (),
        without_case=tuple(sorted(set(rows) - {*ids, *(case.id for case in dataset.test)})),
    )


def _look(job: _Job) -> _CaseFacts:
    if job.case.label is None:
        raise DatasetError(f"case {job.case.id} has no label")
    grid = read_header(job.case.images[0], frame=job.case.frame).geometry
    segmentation = read_segmentation(job.case.label, frame=job.case.frame)
    values, counts = np.unique(job.labels.without_aliases(segmentation.array), return_counts=True)
    number = dict(zip(values.tolist(), counts.tolist(), strict=True))
    unit = segmentation.geometry.voxel_volume / (1000 if segmentation.geometry.ndim == 3 else 100)
    volumes = tuple(sum(number.get(value, 0) for value in target.values) * unit for target in job.labels.targets)
    return _CaseFacts(grid=grid, volumes=volumes)


def _label_report(name: str, volumes: Sequence[float]) -> LabelReport:
    there = [volume for volume in volumes if volume > 0]
    return LabelReport(name=name, cases=len(there), volume_ml=_spread(there) if there else None)


def _facts_of(case: Case) -> dict[str, str]:
    return {name: value for name in _OWN_COLUMNS if (value := getattr(case, name)) is not None}


def _counts(rows: Sequence[dict[str, str]]) -> dict[str, dict[str, int]]:
    columns = dict.fromkeys(name for row in rows for name in row)
    counted = {name: Counter(row.get(name, "") or "unknown" for row in rows) for name in columns}
    return {
        name: dict(values.most_common()) if len(values) <= _MOST_VALUES else {"different values": len(values)}
        for name, values in counted.items()
    }


def _read_metadata(path: Path) -> dict[str, dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as a table: {error}") from None
    if not rows or "case" not in rows[0]:
        raise DatasetError(f"{path} needs a column case and at least one row")
    found = {}
    for line, row in enumerate(rows, start=2):
        case = (row.get("case") or "").strip()
        if not case or case in found:
            raise DatasetError(f"{path}, line {line}: case is empty or was there before: {case!r}")
        found[case] = {key.strip(): (value or "").strip() for key, value in row.items() if key and key != "case"}
    return found


def _per_axis(values: Iterable[Sequence[float]]) -> tuple[Spread, ...]:
    rows = list(values)
    if len({len(row) for row in rows}) > 1:
        raise DatasetError("2D and 3D images cannot be mixed")
    return tuple(_spread(column) for column in zip(*rows, strict=True))


def _spread(values: Sequence[float]) -> Spread:
    return Spread(min=float(min(values)), median=float(np.median(values)), max=float(max(values)))
