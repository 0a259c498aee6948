"""The table of a comparison: means and deviations, what differs from the baseline, as Markdown, CSV and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.codec import write_json
from autoseg.evaluation.intervals import paired_p_value
from autoseg.evaluation.measures import parse_metric
from autoseg.evaluation.report import Evaluation, write_rows
from autoseg.evaluation.tables import write_text

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RowScores:
    """What the runs of one row came to.

    Args:
        name: Of the row.
        seeds: Scores of the held-out cases of all folds, one evaluation per seed.
        seconds: Training time of all runs.
        problems: Why runs failed, one sentence each.
    """

    name: str
    seeds: tuple[Evaluation, ...]
    seconds: float
    problems: tuple[str, ...] = ()

    def by_case(self, metric: str) -> dict[str, float]:
        """Mean over labels and seeds of each case, of what is defined."""
        found: dict[str, list[float]] = {}
        for evaluation in self.seeds:
            for row in evaluation.cases:
                value = row.value(metric)
                if value is not None:
                    found.setdefault(row.case, []).append(value)
        return {case: float(np.mean(values)) for case, values in found.items()}

    def by_label(self, metric: str) -> dict[str, float | None]:
        """Mean over cases and seeds of each label, of what is defined."""
        found: dict[str, list[float]] = {}
        for evaluation in self.seeds:
            for label, means in evaluation.labels.items():
                value = means.get(metric)
                if value is not None:
                    found.setdefault(label, []).append(value)
        names = dict.fromkeys(label for evaluation in self.seeds for label in evaluation.labels)
        return {label: float(np.mean(found[label])) if label in found else None for label in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricScore:
    """A metric of a row.

    Args:
        metric: Its name.
        mean: Over cases, of the mean over labels and seeds.
        deviation: Standard deviation over cases (n - 1).
        num_cases: How many it is defined in.
        is_best: Whether no other row is better.
        labels: Label -> mean over cases.
    """

    metric: str
    mean: float | None
    deviation: float | None
    num_cases: int
    is_best: bool
    labels: dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """A line of the table.

    Args:
        name: Of the row.
        scores: One entry per metric.
        difference: Mean over cases of the first metric less the baseline's; None for the baseline itself.
        p_value: That this difference is chance, from a paired sign-flip test over the cases that both have.
        seconds: Training time of all its runs.
        problems: Why runs failed.
    """

    name: str
    scores: tuple[MetricScore, ...]
    difference: float | None
    p_value: float | None
    seconds: float
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonTable:
    """comparison.json: the table.

    Args:
        metrics: Columns; the first one is tested.
        baseline: Row that the others are tested against.
        rows: In the order of the comparison's file.
    """

    schema_version: int = SCHEMA_VERSION
    metrics: tuple[str, ...]
    baseline: str
    rows: tuple[TableRow, ...]

    @classmethod
    def make(cls, rows: Sequence[RowScores], *, metrics: Sequence[str], baseline: str | None) -> ComparisonTable:
        """Compare rows.

        Args:
            rows: What their runs came to.
            metrics: What to compare; names as :func:`autoseg.evaluation.measures.parse_metric` reads them.
            baseline: Row to test against; None, or one that is not among them yet, takes the best by the first metric.
        """
        names = [parse_metric(metric).name for metric in metrics]
        means = {name: {row.name: _mean(list(row.by_case(name).values())) for row in rows} for name in names}
        best = {name: _best(means[name], name) for name in names}
        reference = baseline if baseline in [row.name for row in rows] else best[names[0]] or rows[0].name
        against = next(row for row in rows if row.name == reference).by_case(names[0])
        return cls(
            metrics=tuple(names),
            baseline=reference,
            rows=tuple(_line(row, names, best, None if row.name == reference else against) for row in rows),
        )

    @property
    def problems(self) -> tuple[str, ...]:
        """Why runs failed, of all rows."""
        return tuple(problem for row in self.rows for problem in row.problems)

    def markdown(self) -> str:
        """As Markdown, by label too where there are several; the best of each metric in bold."""
        difference = f"{self.metrics[0]} against {self.baseline}"
        header = ["", *self.metrics, difference, "p", "training"]
        lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
        for row in self.rows:
            cells = [row.name, *(_cell(score) for score in row.scores)]
            cells.append("" if row.difference is None else f"{row.difference:+.4f}")
            cells.append("" if row.p_value is None else f"{row.p_value:.3f}")
            lines.append(f"| {' | '.join([*cells, f'{row.seconds:.0f} s'])} |")
        counts = sorted({score.num_cases for row in self.rows for score in row.scores})
        lines += [
            "",
            f"Mean ± standard deviation over {' to '.join(map(str, counts[:1] + counts[1:][-1:]))} held-out cases.",
        ]
        if sum(row.p_value is not None for row in self.rows) > 1:
            lines.append("p is not corrected for the number of rows.")
        lines += self._by_label()
        lines += ["", *(f"- {problem}" for problem in self.problems)] if self.problems else []
        return "\n".join(lines) + "\n"

    def _by_label(self) -> list[str]:
        """A table of the first metric for each label, where there are several; the best of each in bold."""
        means = {row.name: row.scores[0].labels for row in self.rows}
        labels = list(dict.fromkeys(label for found in means.values() for label in found))
        if len(labels) < 2:
            return []
        best = {
            label: _best({name: found.get(label) for name, found in means.items()}, self.metrics[0]) for label in labels
        }
        lines = ["", f"| {self.metrics[0]} | {' | '.join(labels)} |", "|" + "---|" * (len(labels) + 1)]
        for name, found in means.items():
            cells = []
            for label in labels:
                value = found.get(label)
                text = "-" if value is None else f"{value:.4f}"
                cells.append(f"**{text}**" if best[label] == name else text)
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return lines


def write_comparison(table: ComparisonTable, folder: Path) -> None:
    """Write comparison.json, comparison.md, comparison.csv and, by label, labels.csv."""
    write_json(table, folder / "comparison.json")
    write_text(table.markdown(), folder / "comparison.md")
    parts = [f"{metric} {part}" for metric in table.metrics for part in ("mean", "std", "n")]
    body = []
    for row in table.rows:
        numbers = [number for s in row.scores for number in (s.mean, s.deviation, s.num_cases)]
        body.append([row.name, *numbers, row.difference, row.p_value, row.seconds])
    write_rows(folder / "comparison.csv", ["row", *parts, "difference", "p", "seconds"], body)
    by_label = [
        [row.name, score.metric, label, mean]
        for row in table.rows
        for score in row.scores
        for label, mean in score.labels.items()
    ]
    write_rows(folder / "labels.csv", ["row", "metric", "label", "mean"], by_label)


def _line(
    row: RowScores, metrics: Sequence[str], best: dict[str, str | None], against: dict[str, float] | None
) -> TableRow:
    scores = []
    for metric in metrics:
        values = list(row.by_case(metric).values())
        scores.append(
            MetricScore(
                metric=metric,
                mean=_mean(values),
                deviation=float(np.std(values, ddof=1)) if len(values) > 1 else None,
                num_cases=len(values),
                is_best=best[metric] == row.name,
                labels=row.by_label(metric),
            )
        )
    own = row.by_case(metrics[0])
    common = [case for case in own if against is not None and case in against]
    differences = np.asarray([own[case] - against[case] for case in common if against is not None])
    return TableRow(
        name=row.name,
        scores=tuple(scores),
        difference=float(differences.mean()) if len(differences) else None,
        p_value=paired_p_value(differences) if len(differences) else None,
        seconds=row.seconds,
        problems=row.problems,
    )


def _best(means: dict[str, float | None], metric: str) -> str | None:
    """Name of the best row; None where nothing is defined or the metric has no better and worse."""
    defined = {name: mean for name, mean in means.items() if mean is not None}
    kind = parse_metric(metric)
    if not defined or not kind.is_quality:
        return None
    if kind.is_better_higher:
        return max(defined, key=lambda name: defined[name])
    return min(defined, key=lambda name: abs(defined[name]))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _cell(score: MetricScore) -> str:
    if score.mean is None:
        return "-"
    text = f"{score.mean:.4f}" + ("" if score.deviation is None else f" ± {score.deviation:.4f}")
    return f"**{text}**" if score.is_best else text
