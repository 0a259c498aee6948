"""autoseg ensemble: averages predictions that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.app import command
from autoseg.cli.console import ConsoleProgress, output
from autoseg.cli.options import Directory, WorkspaceDir, find_workspace

Folders = Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Predictions made with --save-probabilities.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")]
Weights = Annotated[
    list[float] | None, typer.Option("--weight", help="One per folder, in their order.", show_default="all alike")
]


@command("ensemble")
def ensemble(
    folders: Folders,
    output_dir: Output,
    directory: Directory = Path(),
    workspace: WorkspaceDir = None,
    weight: Weights = None,
    *,
    save_probabilities: Annotated[bool, typer.Option("--save-probabilities", help="Also write probabilities.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Average the probabilities of several prediction folders; autoseg's and nnU-Net's."""
    found = find_workspace(directory, workspace)
    from autoseg.pipeline.combining import ensemble_folders

    cases = ensemble_folders(
        folders,
        output_dir,
        found.load_plan(),
        weights=weight,
        save_probabilities=save_probabilities,
        overwrite=overwrite,
        progress=ConsoleProgress(),
    )
    output.print(
        f"averaged {len(cases)} case(s) of {len(folders)} folders; {output_dir}", markup=False, highlight=False
    )
