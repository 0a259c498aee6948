"""autoseg report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.app import command
from autoseg.cli.console import ConsoleProgress, output
from autoseg.cli.evaluate import Metrics, show_evaluation
from autoseg.cli.options import Device, Directory, WorkspaceDir, find_workspace

Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for the tables; reports/CONFIGURATION unless told.")
]


@command("report")
def report(
    configuration: Annotated[str, typer.Argument(help="For instance 3d_fullres.")],
    directory: Directory = Path(),
    workspace: WorkspaceDir = None,
    metrics: Metrics = "dice,iou",
    output_path: Output = None,
    device: Device = "auto",
) -> None:
    """Tables of the held-out cases, scored on the grid of their files and on the grid of training."""
    from autoseg.evaluation.measures import Measuring, parse_metrics

    measuring = Measuring(metrics=parse_metrics(f"dice,iou,{metrics}"))
    found = find_workspace(directory, workspace)
    from autoseg.pipeline.cross_validation_report import report_cross_validation

    made = report_cross_validation(
        found, configuration, measuring=measuring, folder=output_path, device=device, progress=ConsoleProgress()
    )
    for title, evaluation in (("grid of the files", made.original), ("grid of training", made.training)):
        output.print(f"{title}:", highlight=False)
        show_evaluation(evaluation)
    if made.missing:
        output.print(f"not trained and left out: {', '.join(made.missing)}", markup=False, highlight=False)
    output.print(f"tables: {made.folder / 'report.md'}", markup=False, highlight=False)
