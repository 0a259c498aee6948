"""autoseg evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from autoseg.cli.app import EXIT_SOME_FAILED, command
from autoseg.cli.console import errors, messages, output
from autoseg.cli.dataset_options import LabelMap, read_label_map
from autoseg.errors import SettingsError

if TYPE_CHECKING:
    from autoseg.evaluation.report import Evaluation

Reference = Annotated[Path, typer.Option("--reference", "-r", help="Folder of reference segmentations.")]
Prediction = Annotated[Path, typer.Option("--prediction", "-p", help="Folder of predictions with the same names.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write all scores to FILE.json or FILE.csv.")]


@command("evaluate")
def evaluate(
    reference: Reference, prediction: Prediction, output_path: Output = None, label_map: LabelMap = None
) -> None:
    """Score predictions against references: Dice and IoU per case and label."""
    from autoseg.evaluation.report import declared_labels, evaluate_folder, write_csv, write_evaluation

    if output_path is not None and output_path.suffix not in (".json", ".csv"):
        raise SettingsError(f"-o {output_path}: the name must end in .json or .csv")
    labels = None if label_map is None else declared_labels(reference, label_map=read_label_map(label_map))[0]
    evaluation = evaluate_folder(reference, prediction, labels)
    show_evaluation(evaluation)
    if output_path is not None:
        (write_evaluation if output_path.suffix == ".json" else write_csv)(evaluation, output_path)
        messages.print(f"scores of every case: {output_path}", highlight=False)
    for problem in evaluation.problems:
        errors.print(problem, style="yellow", markup=False, highlight=False)
    if evaluation.problems:
        raise typer.Exit(EXIT_SOME_FAILED)


def show_evaluation(evaluation: Evaluation) -> None:
    """Print the means as a table."""
    table = Table("label", "Dice", "IoU")
    for label, metrics in [*evaluation.labels.items(), ("mean", evaluation.mean)]:
        table.add_row(label, _in_words(metrics.get("dice")), _in_words(metrics.get("iou")))
    output.print(table)


def _in_words(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
