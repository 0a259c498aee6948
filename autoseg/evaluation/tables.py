"""Tables of scores: the long one, and what can be made of it by grouping, averaging and setting side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autoseg.atomic import atomic_path
from autoseg.evaluation.intervals import bootstrap_means
from autoseg.evaluation.measures import parse_metric
from autoseg.evaluation.report import CaseScore, ConfusionMatrix, Evaluation, write_rows

GROUPS = ("phase", "view", "domain", "group")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One cell of the long table: a metric of a label in a case."""

    case: str
    label: str
    groups: dict[str, str]
    metric: str
    value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A mean with its spread.

    Args:
        mean: Of the defined values; None where there is none.
        deviation: Standard deviation (n - 1); None for fewer than two values.
        count: Number of defined values.
        interval: 95 % confidence interval of the mean from resampled cases; None for fewer than two.
        is_best: Whether no other cell that it competes with is better.
    """

    mean: float | None
    deviation: float | None
    count: int
    interval: tuple[float, float] | None = None
    is_best: bool = False

    def __str__(self) -> str:
        if self.mean is None:
            return "-"
        text = _short(self.mean) + ("" if self.deviation is None else f" ± {_short(self.deviation)}")
        return f"**{text}**" if self.is_best else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Pivot:
    """A table for people.

    Args:
        corner: What the rows are.
        rows: Their names.
        columns: Their names.
        cells: One list per row.
    """

    corner: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]

    def upright(self) -> Pivot:
        """The same table, turned where it is wider than high."""
        if len(self.columns) <= len(self.rows):
            return self
        return replace(
            self, corner="", rows=self.columns, columns=self.rows, cells=tuple(zip(*self.cells, strict=True))
        )

    def markdown(self) -> str:
        """As a Markdown table; the best in bold."""
        lines = [f"| {' | '.join((self.corner, *self.columns))} |", "|" + "---|" * (len(self.columns) + 1)]
        lines += [
            f"| {' | '.join((name, *map(str, cells)))} |" for name, cells in zip(self.rows, self.cells, strict=True)
        ]
        return "\n".join(lines) + "\n"

    def write_csv(self, path: Path) -> None:
        """Write mean, standard deviation, number and interval of every cell."""
        parts = ("mean", "std", "n", "low", "high")
        header = [self.corner, *(f"{column} {part}" for column in self.columns for part in parts)]
        rows = []
        for name, cells in zip(self.rows, self.cells, strict=True):
            numbers: list[object] = [name]
            for cell in cells:
                numbers += [cell.mean, cell.deviation, cell.count, *(cell.interval or (None, None))]
            rows.append(numbers)
        write_rows(path, header, rows)


def long_table(evaluation: Evaluation) -> list[Entry]:
    """Every metric of every label in every case, one entry each."""
    return [
        Entry(case=row.case, label=row.label, groups=row.groups, metric=metric, value=row.value(metric))
        for row in evaluation.cases
        for metric in evaluation.metrics
    ]


def write_long_table(evaluation: Evaluation, path: Path) -> None:
    """Write the long table as CSV with the columns case, label, phase, view, domain, ..., metric and value."""
    found = dict.fromkeys(name for row in evaluation.cases for name in row.groups)
    groups = list(dict.fromkeys([*GROUPS[:3], *found]))
    write_rows(
        path,
        ["case", "label", *groups, "metric", "value"],
        (
            [entry.case, entry.label, *(entry.groups.get(name, "") for name in groups), entry.metric, entry.value]
            for entry in long_table(evaluation)
        ),
    )


def pivot_by_label(evaluation: Evaluation) -> Pivot:
    """Labels by metrics, and the mean over labels of each case."""
    names = [*evaluation.labels, "mean of labels"]
    cells = []
    for name in names:
        rows = [row for row in evaluation.cases if row.label == name]
        cells.append(tuple(_cell(_by_case(rows or evaluation.cases, metric)) for metric in evaluation.metrics))
    return Pivot(corner="label", rows=tuple(names), columns=evaluation.metrics, cells=tuple(cells))


def pivot_by_group(evaluation: Evaluation, by: Sequence[str], metric: str) -> Pivot:
    """Combinations of groups by labels, such as view x phase by structure; the last row pools all cases.

    Args:
        evaluation: Rows with groups.
        by: Kinds of group, e.g. ("view", "phase").
        metric: What is shown; of each label the best group is bold.
    """
    combinations = sorted({tuple(row.groups.get(kind, "") for kind in by) for row in evaluation.cases})
    labels = [*evaluation.labels, "mean of labels"]
    members = {
        " / ".join(part or "-" for part in combination): [
            row for row in evaluation.cases if tuple(row.groups.get(kind, "") for kind in by) == combination
        ]
        for combination in combinations
    }
    members["all"] = list(evaluation.cases)
    table = {
        name: [_cell(_by_case([r for r in rows if label in (r.label, labels[-1])], metric)) for label in labels]
        for name, rows in members.items()
    }
    competing = [name for name in table if name != "all"]
    return Pivot(
        corner=" / ".join(by),
        rows=tuple(table),
        columns=tuple(labels),
        cells=_with_best(table, competing, metric),
    )


def compare(evaluations: Mapping[str, Evaluation], metrics: Sequence[str], *, label: str | None = None) -> Pivot:
    """Models (losses, networks, ablations) by metrics, the best of each metric in bold.

    Args:
        evaluations: Name -> its scores.
        metrics: Columns.
        label: One label; None takes the mean over labels of each case.
    """
    table: dict[str, list[Cell]] = {}
    for name, evaluation in evaluations.items():
        rows = [row for row in evaluation.cases if label in (None, row.label)]
        table[name] = [_cell(_by_case(rows, metric)) for metric in metrics]
    cells = []
    for column, metric in enumerate(metrics):
        single = {name: [row[column]] for name, row in table.items()}
        cells.append([row[0] for row in _with_best(single, [*table], metric)])
    transposed = tuple(tuple(column[i] for column in cells) for i in range(len(table)))
    return Pivot(corner="model", rows=tuple(table), columns=tuple(metrics), cells=transposed)


def write_patient_table(grids: Mapping[str, Evaluation], path: Path) -> None:
    """Write one line per case with a column per grid, label and metric, and a last line of averages.

    The prefixes tt and inf stand, as in CardiacSeg's tables, for the training grid and the grid of the file. Averages
    leave out what is undefined, in every column alike.

    Args:
        grids: Prefix -> scores, e.g. {"tt": ..., "inf": ...}.
        path: CSV file to write.
    """
    cases = list(dict.fromkeys(row.case for evaluation in grids.values() for row in evaluation.cases))
    header, columns = ["patientId"], list[dict[str, float | None]]()
    for prefix, evaluation in grids.items():
        for label in evaluation.labels:
            rows = {row.case: row for row in evaluation.cases if row.label == label}
            for metric in evaluation.metrics:
                header.append(f"{prefix}_{label}_{metric}")
                columns.append({case: row.value(metric) for case, row in rows.items()})
        seconds = {row.case: row.seconds for row in evaluation.cases}
        if any(value is not None for value in seconds.values()):
            header.append(f"{prefix}_time")
            columns.append(seconds)
    body: list[list[object]] = [[case, *(column.get(case) for column in columns)] for case in cases]
    averages = [_mean([v for v in column.values() if v is not None]) for column in columns]
    write_rows(path, header, [*body, ["average", *averages]])


def confusion_table(matrix: ConfusionMatrix) -> str:
    """A confusion matrix as CSV text: rows are the reference, columns the prediction."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["reference \\ prediction", *matrix.names])
    writer.writerows([name, *row] for name, row in zip(matrix.names, matrix.counts, strict=True))
    return text.getvalue()


def write_text(text: str, path: Path) -> None:
    """Write a text file; atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _by_case(rows: Sequence[CaseScore], metric: str) -> list[float]:
    """Mean over the labels of each case, of what is defined."""
    of_case: dict[str, list[float]] = {}
    for row in rows:
        value = row.value(metric)
        if value is not None:
            of_case.setdefault(row.case, []).append(value)
    return [float(np.mean(values)) for values in of_case.values()]


def _cell(values: Sequence[float]) -> Cell:
    column = np.asarray(values, dtype=float)[:, None]
    intervals, _ = bootstrap_means(column) if len(values) else ([None], None)
    return Cell(
        mean=_mean(values),
        deviation=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        count=len(values),
        interval=intervals[0],
    )


def _with_best(
    table: Mapping[str, Sequence[Cell]], competing: Sequence[str], metric: str
) -> tuple[tuple[Cell, ...], ...]:
    """Mark the best of each column among the competing rows; several where they are equal, none without rivals."""
    metric_is = parse_metric(metric)
    columns = []
    for cells in zip(*table.values(), strict=True):
        rivals = [c.mean for c, name in zip(cells, table, strict=True) if name in competing and c.mean is not None]
        best = (max(rivals) if metric_is.is_better_higher else min(rivals, key=abs)) if len(rivals) > 1 else None
        is_quality = metric_is.is_quality and best is not None
        columns.append(
            [
                replace(c, is_best=is_quality and name in competing and c.mean == best)
                for c, name in zip(cells, table, strict=True)
            ]
        )
    return tuple(zip(*columns, strict=True))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
