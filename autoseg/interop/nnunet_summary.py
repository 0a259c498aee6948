"""Scores in the form of nnU-Net's summary.json."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from autoseg.atomic import atomic_path
from autoseg.evaluation.report import CaseScore, Evaluation

_METRICS: dict[str, Callable[[CaseScore], float]] = {
    "Dice": lambda row: _ratio(2 * row.true_positives, row.false_positives + row.false_negatives),
    "FN": lambda row: row.false_negatives,
    "FP": lambda row: row.false_positives,
    "IoU": lambda row: _ratio(row.true_positives, row.false_positives + row.false_negatives),
    "TN": lambda row: row.true_negatives,
    "TP": lambda row: row.true_positives,
    "n_pred": lambda row: row.true_positives + row.false_positives,
    "n_ref": lambda row: row.true_positives + row.false_negatives,
}


def write_summary(
    evaluation: Evaluation, path: Path, *, reference_dir: Path, prediction_dir: Path, file_ending: str
) -> None:
    """Write what nnU-Net 2.8.1's evaluation writes: sorted keys, bare NaN for what is undefined.

    The means are nnU-Net's, not autoseg's: a label that is in no case makes ``foreground_mean`` NaN.

    Args:
        evaluation: Scores.
        path: File to write; atomically.
        reference_dir: Where references lie, for the paths in the file.
        prediction_dir: Where predictions lie.
        file_ending: Ending of both.
    """
    cases: dict[str, dict[str, dict[str, float]]] = {}
    for row in evaluation.cases:
        cases.setdefault(row.case, {})[_key(row.values)] = {name: of(row) for name, of in _METRICS.items()}
    keys = list(dict.fromkeys(_key(row.values) for row in evaluation.cases))
    means = {
        key: {name: _nan_mean([labels[key][name] for labels in cases.values()]) for name in _METRICS} for key in keys
    }
    table = {
        "foreground_mean": {
            name: float(np.mean([means[key][name] for key in keys])) if keys else math.nan for name in _METRICS
        },
        "mean": means,
        "metric_per_case": [
            {
                "metrics": labels,
                "prediction_file": str(prediction_dir / f"{case}{file_ending}"),
                "reference_file": str(reference_dir / f"{case}{file_ending}"),
            }
            for case, labels in cases.items()
        ],
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(table, indent=4, sort_keys=True), encoding="utf-8")


def _key(values: tuple[int, ...]) -> str:
    """nnU-Net's name of a label or region, e.g. "1" or "(1, 2)"."""
    return str(values[0] if len(values) == 1 else tuple(values))


def _ratio(shared: int, errors: int) -> float:
    return shared / (shared + errors) if shared + errors else math.nan


def _nan_mean(values: list[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan
