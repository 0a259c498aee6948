"""The folder that a finished evaluation leaves: scores per case, summary, tables, confusion matrix."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoseg.codec import to_plain, write_json
from autoseg.errors import DatasetError
from autoseg.evaluation.folder import IMAGE_ENDINGS, PROBABILITY_ENDINGS, files_by_case
from autoseg.evaluation.measures import parse_metric
from autoseg.evaluation.report import Evaluation, write_csv
from autoseg.evaluation.summaries import whole_heart
from autoseg.evaluation.tables import (
    confusion_table,
    pivot_by_group,
    pivot_by_label,
    write_long_table,
    write_patient_table,
    write_text,
)
from autoseg.figures.confusion import draw_confusion

_NO_GROUPS = ("image", "label", "split")  # columns of a dataset's table that say where files are


def publish(evaluation: Evaluation, folder: Path, *, training_grid: Evaluation | None = None) -> tuple[Path, ...]:
    """Write everything that can be said about an evaluation.

    scores.csv (one line per case and label), long.csv (one line per metric too), patients.csv (one line per case),
    summary.json (means, deviations, intervals, whole-heart scores), report.md with the tables, one CSV file per table,
    confusion.csv and confusion.png.

    Args:
        evaluation: With spread, see :func:`autoseg.evaluation.report.with_spread`.
        folder: Created where it is missing.
        training_grid: Scores of the same cases on the grid of training, for patients.csv.

    Returns:
        What was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / name for name in ("scores.csv", "long.csv", "patients.csv", "summary.json", "report.md")]
    write_csv(evaluation, written[0])
    write_long_table(evaluation, written[1])
    grids = {} if training_grid is None else {"tt": training_grid}
    write_patient_table(grids | {"inf": evaluation}, written[2])
    summary = to_plain(evaluation)
    del summary["cases"]
    write_json(summary | {"whole": to_plain(whole_heart(evaluation))}, written[3])
    sections = [f"# Scores of {len({row.case for row in evaluation.cases})} cases\n", _rule(evaluation)]
    by_label = pivot_by_label(evaluation)
    by_label.write_csv(folder / "by_label.csv")
    sections += ["## By label\n", by_label.upright().markdown(), "## All labels together\n", _whole_table(evaluation)]
    for by in _groupings(evaluation):
        for metric in evaluation.metrics:
            pivot = pivot_by_group(evaluation, by, metric)
            name = f"by_{'_'.join(by)}_{metric.replace('@', '_')}.csv"
            pivot.write_csv(folder / name)
            sections += [f"## {metric} by {', '.join(by)}\n", pivot.markdown()]
            written.append(folder / name)
    if evaluation.problems:
        sections += ["## Problems\n", "".join(f"- {problem}\n" for problem in evaluation.problems)]
    write_text("\n".join(sections), written[4])
    if evaluation.confusion is not None:
        write_text(confusion_table(evaluation.confusion), folder / "confusion.csv")
        draw_confusion(evaluation.confusion.names, evaluation.confusion.counts, folder / "confusion.png")
        written += [folder / "confusion.csv", folder / "confusion.png"]
    return (*written, folder / "by_label.csv")


def collect_cases(evaluation: Evaluation, reference_dir: Path, prediction_dir: Path, folder: Path) -> None:
    """Put what belongs to each case into a folder of its own: reference, prediction, probabilities, scores.json.

    Args:
        evaluation: Scores of the cases.
        reference_dir: Folder of references.
        prediction_dir: Folder of predictions, and of probabilities where there are any.
        folder: Receives one folder per case.
    """
    references, predictions = (files_by_case(d, IMAGE_ENDINGS) for d in (reference_dir, prediction_dir))
    probabilities = files_by_case(prediction_dir, PROBABILITY_ENDINGS)
    for case in dict.fromkeys(row.case for row in evaluation.cases):
        (folder / case).mkdir(parents=True, exist_ok=True)
        for name, files in (("reference", references), ("prediction", predictions), ("probabilities", probabilities)):
            if case in files:
                ending = files[case].name.removeprefix(case).removeprefix(".probabilities")
                shutil.copyfile(files[case], folder / case / f"{name}{ending}")
        rows = [row for row in evaluation.cases if row.case == case]
        write_json({row.label: to_plain(row) for row in rows}, folder / case / "scores.json")


def read_groups(path: Path) -> dict[str, dict[str, str]]:
    """Read what each case belongs to from a table with the column case and others, such as phase, view, domain.

    A dataset's own table will do: its columns for files are passed over.

    Raises:
        DatasetError: When it cannot be read or has no column case.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as a table: {error}") from None
    if not rows or "case" not in rows[0]:
        raise DatasetError(f"{path} needs a column case, and others such as phase, view or domain")
    kinds = [kind for kind in rows[0] if kind and kind not in ("case", *_NO_GROUPS) and not kind.startswith("image_")]
    return {row["case"]: {kind: row[kind].strip() for kind in kinds if (row[kind] or "").strip()} for row in rows}


def _groupings(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """Every kind of group with at least two names, and view with phase together."""
    names: dict[str, set[str]] = {}
    for row in evaluation.cases:
        for kind, name in row.groups.items():
            names.setdefault(kind, set()).add(name)
    kinds = [kind for kind, found in names.items() if 1 < len(found) < len({row.case for row in evaluation.cases})]
    together = [("view", "phase")] if {"view", "phase"} <= set(kinds) else []
    return [*together, *((kind,) for kind in kinds)]


def _whole_table(evaluation: Evaluation) -> str:
    lines = ["| metric | definition | mean | standard deviation | n |", "|---|---|---|---|---|"]
    for score in whole_heart(evaluation):
        if not (parse_metric(score.metric).is_quality and score.mean is not None):
            continue
        spread = "-" if score.deviation is None else f"{score.deviation:.4f}"
        count = sum(value is not None for value in score.cases.values())
        lines.append(f"| {score.metric} | {score.definition} | {score.mean:.4f} | {spread} | {count} |")
    return "\n".join(lines) + "\n"


def _rule(evaluation: Evaluation) -> str:
    both = {
        "undefined": "leave a case out of that label's mean",
        "perfect": "count as the best value",
        "worst": "count as the worst value",
    }[evaluation.empty]
    absent = {label: number for label, number in evaluation.undefined.items() if number}
    listing = f" Left out: {_listed(absent)}." if absent else ""
    return (
        f"Empty in both reference and prediction: {both}. Empty in one of them: overlap is 0, a distance is the "
        f"diagonal of the image. Mean ± standard deviation over cases.{listing}\n"
    )


def _listed(numbers: Mapping[str, int]) -> str:
    parts: Sequence[str] = [f"{label} in {number} case(s)" for label, number in numbers.items()]
    return ", ".join(parts)
