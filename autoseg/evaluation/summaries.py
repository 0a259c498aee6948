"""Scores that challenges rank by, made of the rows of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.errors import SettingsError
from autoseg.evaluation.report import CaseScore, Evaluation, mean_of_defined


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeScore:
    """A score over all structures of a case together, over cases.

    Args:
        metric: "dice", "iou", "hd", ...
        definition: "mean of structures" averages over structures; "generalized" adds their voxels up first.
        mean: Over cases; None where it is defined in none.
        deviation: Standard deviation over cases (n - 1); None for fewer than two.
        cases: Case -> its score.
    """

    metric: str
    definition: str
    mean: float | None
    deviation: float | None
    cases: dict[str, float | None]


def whole_heart(evaluation: Evaluation) -> tuple[WholeScore, ...]:
    """The whole-heart score in both of its definitions, for any set of structures.

    The mean over structures is what the tables of the MM-WHS challenge (Zhuang et al., Medical Image Analysis 2019)
    list; generalized overlap adds intersections and sizes of all structures up before dividing, with equal weights
    (Crum et al., IEEE Transactions on Medical Imaging 2006), so that large structures count for more.

    Args:
        evaluation: Rows whose labels do not overlap.

    Returns:
        Every quality metric as mean of structures, then Dice and IoU generalized.
    """
    by_case: dict[str, list[CaseScore]] = {}
    for row in evaluation.cases:
        by_case.setdefault(row.case, []).append(row)
    scores = []
    for metric in evaluation.metrics:
        means = {case: mean_of_defined(row.value(metric) for row in rows) for case, rows in by_case.items()}
        scores.append(_whole(metric, "mean of structures", means))
    for metric in ("dice", "iou"):
        generalized = {case: _generalized(rows, metric) for case, rows in by_case.items()}
        scores.append(_whole(metric, "generalized", generalized))
    return tuple(scores)


def weighted_views(
    evaluation: Evaluation, weights: Mapping[str, float], *, metric: str = "dice", kind: str = "view"
) -> float | None:
    """Weighted mean over the views' means, as M&Ms-2 ranks with 0.75 for the short and 0.25 for the long axis.

    Martin-Isla et al., IEEE Journal of Biomedical and Health Informatics 2023.

    Args:
        evaluation: Rows with groups.
        weights: Name of a view -> its weight, e.g. {"SA": 0.75, "LA": 0.25}.
        metric: What is averaged, over labels and then over cases.
        kind: Which kind of group the names are of.

    Returns:
        None where it is undefined for one of them.

    Raises:
        SettingsError: When no case is of a view that has a weight, or weights do not sum to something positive.
    """
    total = sum(weights.values())
    if not total > 0 or min(weights.values()) < 0:
        raise SettingsError(f"weights of views must be positive, got {dict(weights)}")
    score = 0.0
    for name, weight in weights.items():
        rows = [row for row in evaluation.cases if row.groups.get(kind) == name]
        if not rows:
            known = sorted({row.groups[kind] for row in evaluation.cases if kind in row.groups})
            raise SettingsError(f"no case has the {kind} {name!r}; there are: {', '.join(known) or 'none'}")
        by_label: dict[str, list[float | None]] = {}
        for row in rows:
            by_label.setdefault(row.label, []).append(row.value(metric))
        mean = mean_of_defined(mean_of_defined(values) for values in by_label.values())
        if mean is None:
            return None
        score += weight / total * mean
    return score


def _generalized(rows: Sequence[CaseScore], metric: str) -> float | None:
    shared = sum(row.true_positives for row in rows)
    errors = sum(row.false_positives + row.false_negatives for row in rows)
    if not shared + errors:
        return None
    return 2 * shared / (2 * shared + errors) if metric == "dice" else shared / (shared + errors)


def _whole(metric: str, definition: str, cases: dict[str, float | None]) -> WholeScore:
    defined = [value for value in cases.values() if value is not None]
    return WholeScore(
        metric=metric,
        definition=definition,
        mean=mean_of_defined(cases.values()),
        deviation=float(np.std(defined, ddof=1)) if len(defined) > 1 else None,
        cases=cases,
    )
