"""autoseg gap."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.app import command
from autoseg.cli.console import ConsoleProgress, output
from autoseg.cli.options import Device, Directory, WorkspaceDir, find_workspace


@command("gap")
def gap(
    configuration: Annotated[str, typer.Argument(help="For instance 3d_fullres.")],
    fold: Annotated[str, typer.Argument(help="fold0 or 0.")],
    directory: Directory = Path(),
    workspace: WorkspaceDir = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Loss of Dice that is worth a warning.")] = 0.1,
    device: Device = "auto",
) -> None:
    """Compare a trained fold on training, held-out and test cases: does it know its cases by heart?"""
    found = find_workspace(directory, workspace)
    from autoseg.pipeline.gap import measure_gap

    report = measure_gap(found, configuration, fold, threshold=threshold, device=device, progress=ConsoleProgress())
    output.print(report.summary(), markup=False, highlight=False)
    for warning in report.warnings:
        output.print(f"warning: {warning}", markup=False, highlight=False)
