"""Scores of many cases: one row per case and label, summarized, and on disk as JSON or CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from autoseg.atomic import atomic_path
from autoseg.codec import decode_artifact, read_sealed, to_plain, write_sealed
from autoseg.evaluation.intervals import bootstrap_means
from autoseg.evaluation.measures import DICE_AND_IOU, Measuring, is_metric
from autoseg.evaluation.metrics import JointCounts, OverlapCounts
from autoseg.evaluation.scoring import measure_case
from autoseg.labels import LabelScheme, Target

SCHEMA_VERSION = 1
METRICS = ("dice", "iou")
COUNTS = ("true_positives", "false_positives", "false_negatives", "true_negatives")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseScore:
    """Scores of one label or region in one case.

    Args:
        case: Name of the case.
        label: Name of the label or region.
        dice: Dice coefficient; None where neither reference nor prediction has the label.
        iou: Intersection over union; None likewise.
        values: Label values that belong to it.
        true_positives: Voxels in both; likewise the other three. Ignored voxels count nowhere.
        metrics: Other metrics by name, as far as they were asked for; in JSON they stand beside dice and iou.
        groups: What the case belongs to, such as phase, view or domain.
        seconds: How long its prediction took; None where nobody says.
    """

    case: str
    label: str
    dice: float | None
    iou: float | None
    values: tuple[int, ...]
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    metrics: dict[str, float | None] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None

    @classmethod
    def from_counts(cls, case: str, target: Target, counts: OverlapCounts) -> CaseScore:
        """Score what was counted."""
        return cls(
            case=case,
            label=target.name,
            dice=_defined(counts.dice),
            iou=_defined(counts.iou),
            values=target.values,
            true_positives=counts.true_positives,
            false_positives=counts.false_positives,
            false_negatives=counts.false_negatives,
            true_negatives=counts.true_negatives,
        )

    def value(self, metric: str) -> float | None:
        """A metric by its name; None where it is undefined or was not measured."""
        return self.dice if metric == "dice" else self.iou if metric == "iou" else self.metrics.get(metric)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfusionMatrix:
    """Voxels of all cases by what reference and prediction say.

    Args:
        names: Background, then labels, by the value in the files.
        counts: One row per name in the reference, one column per name in the prediction. Ignored voxels are in none.
    """

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @classmethod
    def from_joint(cls, joint: JointCounts, labels: LabelScheme) -> ConfusionMatrix:
        """Name what was counted; values that are not declared count as background."""
        by_value = {target.values[0]: target.name for target in labels.targets if len(target.values) == 1}
        keep = [0, *(i + 1 for i, v in enumerate(joint.values) if v not in (0, labels.ignore_value))]
        names = ["background", *(by_value.get(v, str(v)) for v in (joint.values[i - 1] for i in keep[1:]))]
        table = joint.table.copy()
        for i, value in enumerate(joint.values, start=1):
            if value in (0, labels.ignore_value):  # a prediction of ignore is one of background
                table[0] += table[i]
                table[:, 0] += table[:, i]
        counts = table[np.ix_(keep, keep)]
        return cls(names=tuple(names), counts=tuple(tuple(int(n) for n in row) for row in counts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores of a set of cases. Means leave out what is undefined and are None where nothing is defined.

    Args:
        cases: One row per case and label.
        labels: Label -> metric -> mean over cases.
        mean: Metric -> mean over the labels' means.
        undefined: Label -> number of cases in which neither reference nor prediction has it.
        problems: What kept cases from being scored as they should, one sentence each.
        deviations: Label -> metric -> standard deviation over cases (n - 1).
        intervals: Label -> metric -> 95 % confidence interval of the mean, from resampled cases.
        mean_intervals: Metric -> the same for the mean over labels.
        confusion: Voxels by reference and prediction; None where it was not counted.
        empty: What an empty mask in both was given; see :class:`autoseg.evaluation.measures.Measuring`.
    """

    schema_version: int = SCHEMA_VERSION
    cases: tuple[CaseScore, ...]
    labels: dict[str, dict[str, float | None]]
    mean: dict[str, float | None]
    undefined: dict[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    deviations: dict[str, dict[str, float | None]] = field(default_factory=dict)
    intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    mean_intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    confusion: ConfusionMatrix | None = None
    empty: str = "undefined"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what was measured."""
        return tuple(self.mean)


def summarize(scores: Iterable[CaseScore], *, problems: Sequence[str] = ()) -> Evaluation:
    """Average scores over cases, then over labels.

    Args:
        scores: Rows of any number of cases; labels keep the order in which they appear first.
        problems: Sentences to hand on.
    """
    rows = tuple(scores)
    by_label: dict[str, list[CaseScore]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append(row)
    metrics = list(dict.fromkeys([*METRICS, *(name for row in rows for name in row.metrics)]))
    labels = {
        name: {metric: mean_of_defined(row.value(metric) for row in of_label) for metric in metrics}
        for name, of_label in by_label.items()
    }
    return Evaluation(
        cases=rows,
        labels=labels,
        mean={metric: mean_of_defined(means[metric] for means in labels.values()) for metric in metrics},
        undefined={name: sum(row.dice is None for row in of_label) for name, of_label in by_label.items()},
        problems=tuple(problems),
    )


def with_spread(evaluation: Evaluation, *, seed: int = 0) -> Evaluation:
    """Add standard deviations and 95 % confidence intervals.

    Cases are resampled as a whole, with all their labels, so that the interval of the mean over labels is right too.

    Args:
        evaluation: Scores of some cases.
        seed: Of the resampling.
    """
    names = list(dict.fromkeys(row.case for row in evaluation.cases))
    tables = {metric: score_table(evaluation, metric, names) for metric in evaluation.metrics}
    intervals: dict[str, dict[str, tuple[float, float]]] = {label: {} for label in evaluation.labels}
    mean_intervals: dict[str, tuple[float, float]] = {}
    deviations: dict[str, dict[str, float | None]] = {label: {} for label in evaluation.labels}
    for metric, table in tables.items():
        per_label, overall = bootstrap_means(table, seed=seed)
        if overall is not None:
            mean_intervals[metric] = overall
        for label, interval, column in zip(evaluation.labels, per_label, table.T, strict=True):
            if interval is not None:
                intervals[label][metric] = interval
            defined = column[~np.isnan(column)]
            deviations[label][metric] = float(defined.std(ddof=1)) if len(defined) > 1 else None
    return replace(evaluation, deviations=deviations, intervals=intervals, mean_intervals=mean_intervals)


def score_table(evaluation: Evaluation, metric: str, cases: Sequence[str]) -> np.ndarray:
    """One metric as float64 (cases, labels); NaN where it is undefined or a case is not there."""
    row_of = {case: index for index, case in enumerate(cases)}
    column_of = {label: index for index, label in enumerate(evaluation.labels)}
    table = np.full((len(cases), len(column_of)), np.nan)
    for row in evaluation.cases:
        value = row.value(metric)
        if value is not None and row.case in row_of:
            table[row_of[row.case], column_of[row.label]] = value
    return table


def mean_of_defined(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None; None when there are none."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def score_case(
    case_id: str,
    reference: np.ndarray,
    prediction: np.ndarray,
    labels: LabelScheme,
    *,
    spacing: Sequence[float] | None = None,
    measuring: Measuring = DICE_AND_IOU,
) -> tuple[CaseScore, ...]:
    """Score one case.

    Args:
        case_id: Name for the rows.
        reference: Label values (z, y, x) or (y, x).
        prediction: Label values, same shape.
        labels: What is scored, one row per target.
        spacing: Millimetres per axis, for distances and volumes; None takes one.
        measuring: What to measure besides Dice and IoU.

    Raises:
        ValueError: When the shapes differ.
    """
    return scores_and_counts(case_id, reference, prediction, labels, spacing=spacing, measuring=measuring)[0]


def scores_and_counts(
    case_id: str,
    reference: np.ndarray,
    prediction: np.ndarray,
    labels: LabelScheme,
    *,
    spacing: Sequence[float] | None = None,
    measuring: Measuring = DICE_AND_IOU,
) -> tuple[tuple[CaseScore, ...], JointCounts]:
    """Score one case, as :func:`score_case`, and hand out the voxel counts as well."""
    measures = measure_case(
        reference,
        prediction,
        labels.targets,
        spacing=spacing or (1.0,) * reference.ndim,
        measuring=measuring,
        ignore_value=labels.ignore_value,
    )
    rows = []
    for target, counts, values in zip(labels.targets, measures.counts, measures.values, strict=True):
        row = CaseScore.from_counts(case_id, target, counts)
        if "dice" in values and "iou" in values:  # the rule for empty masks may say otherwise than the counts
            row = replace(row, dice=values["dice"], iou=values["iou"])
        rows.append(replace(row, metrics={k: v for k, v in values.items() if k not in METRICS}))
    return tuple(rows), measures.joint


def write_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Write JSON; what is undefined is null."""
    plain = to_plain(evaluation)
    for row in plain["cases"]:
        row |= row.pop("metrics")
        for name, nothing in (("groups", {}), ("seconds", None)):
            if row[name] == nothing:
                del row[name]
    write_sealed(plain, path)


def read_evaluation(path: Path) -> Evaluation:
    """Read what :func:`write_evaluation` wrote.

    Raises:
        MissingArtifactError: When there is no such file.
        ArtifactError: When it is something else.
    """
    plain = read_sealed(path)
    rows = plain.get("cases") if isinstance(plain, dict) else None
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict):
            row["metrics"] = {name: row.pop(name) for name in [*row] if name not in METRICS and is_metric(name)}
    return decode_artifact(Evaluation, plain, source=str(path))


def write_csv(evaluation: Evaluation, path: Path) -> None:
    """Write one line per case and label; what is undefined is empty."""
    groups = list(dict.fromkeys(name for row in evaluation.cases for name in row.groups))
    timed = ["seconds"] if any(row.seconds is not None for row in evaluation.cases) else []
    header = ["case", "label", *groups, *evaluation.metrics, *COUNTS, *timed]
    write_rows(
        path,
        header,
        (
            [row.case, row.label]
            + [row.groups.get(name, "") for name in groups]
            + [row.value(metric) for metric in evaluation.metrics]
            + [getattr(row, name) for name in (*COUNTS, *timed)]
            for row in evaluation.cases
        ),
    )


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file atomically; None becomes an empty field."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def with_groups(evaluation: Evaluation, groups: Mapping[str, Mapping[str, str]]) -> Evaluation:
    """Say of every case what it belongs to.

    Args:
        evaluation: Scores of some cases.
        groups: Case -> kind of group (phase, view, domain, ...) -> its name.
    """
    rows = tuple(replace(row, groups=dict(groups.get(row.case, {}))) for row in evaluation.cases)
    return replace(evaluation, cases=rows)


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
