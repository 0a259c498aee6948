"""autoseg postprocess: applies the workspace's postprocessing to segmentations that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.app import command
from autoseg.cli.console import ConsoleProgress, output
from autoseg.cli.options import Directory, WorkspaceDir, find_workspace
from autoseg.errors import MissingArtifactError

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Segmentations; they stay as they are.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")]


@command("postprocess")
def postprocess(
    folder: Folder,
    output_dir: Output,
    directory: Directory = Path(),
    workspace: WorkspaceDir = None,
    *,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Apply the postprocessing of ensemble.json to a folder of segmentations."""
    found = find_workspace(directory, workspace)
    from autoseg.codec import read_json
    from autoseg.inference.ensemble import Ensemble
    from autoseg.pipeline.combining import postprocess_folder

    if not found.ensemble_path.is_file():
        raise MissingArtifactError(f"{found.root} has no ensemble.json. Make it: autoseg select -w {found.root}")
    steps = read_json(Ensemble, found.ensemble_path).postprocessing
    cases = postprocess_folder(
        folder, output_dir, found.load_plan(), steps, overwrite=overwrite, progress=ConsoleProgress()
    )
    names = ", ".join(step.name for step in steps) or "nothing"
    output.print(f"did {names} to {len(cases)} case(s); {output_dir}", markup=False, highlight=False)
