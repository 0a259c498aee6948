"""autoseg check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.app import EXIT_WRONG_USE, command
from autoseg.cli.console import output
from autoseg.cli.options import Directory, Workers

Dataset = Annotated[Path | None, typer.Argument(help="Folder in nnU-Net's raw format; default: the one named by -C.")]
Report = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the report as JSON.")]


@command("check")
def check(
    dataset: Dataset = None, directory: Directory = Path(), workers: Workers = 0, report_path: Report = None
) -> None:
    """List the problems of a dataset at once, before anything is planned; no voxel is read."""
    from autoseg.check import check_dataset
    from autoseg.codec import write_json
    from autoseg.dataset import load_dataset

    loaded = load_dataset(directory if dataset is None else dataset)
    report = check_dataset(loaded, workers=workers or 0)
    for problem in report.problems:
        output.print(f"{problem.severity}: {problem}", markup=False, highlight=False)
    output.print(
        f"{report.num_cases} training and {len(loaded.test)} test cases, {len(report.errors)} errors, "
        f"{len(report.warnings)} warnings, orientation {report.majority_orientation or 'unknown'}",
        markup=False,
        highlight=False,
    )
    if report_path is not None:
        write_json(report, report_path)
    if report.errors:
        raise typer.Exit(EXIT_WRONG_USE)
