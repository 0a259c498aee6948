"""autoseg compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from autoseg.cli.app import EXIT_SOME_FAILED, command
from autoseg.cli.console import ConsoleProgress, messages, output
from autoseg.cli.options import Device, Directory, Workers, WorkspaceDir, find_workspace


@command("compare")
def compare(
    file: Annotated[Path, typer.Argument(help="TOML file: folds, a budget, and a [[rows]] for every line.")],
    directory: Directory = Path(),
    workspace: WorkspaceDir = None,
    device: Device = "auto",
    workers: Workers = None,
) -> None:
    """Train every row of a comparison or ablation on the same folds and budget, and make its table."""
    found = find_workspace(directory, workspace)
    from autoseg.pipeline.comparison import read_comparison, run_comparison

    comparison = read_comparison(file)
    table = run_comparison(found, comparison, device=device, workers=workers, progress=ConsoleProgress())
    output.print(Markdown(table.markdown()))
    messages.print(f"table: {found.reports_dir / 'compare' / comparison.name / 'comparison.md'}", highlight=False)
    if table.problems:
        raise typer.Exit(EXIT_SOME_FAILED)
