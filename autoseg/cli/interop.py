"""autoseg interop: other systems' files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.app import app, command
from autoseg.cli.console import ConsoleProgress, output
from autoseg.cli.options import Directory, Workers, WorkspaceDir, find_workspace

group = typer.Typer(name="interop", help="Files of other systems.", no_args_is_help=True)
app.add_typer(group)


@command("import-nnunet", group=group)
def import_nnunet(
    source: Annotated[
        Path, typer.Argument(metavar="MODEL_DIR_OR_ZIP", help="nnU-Net v2's model folder, or a zip that it exported.")
    ],
    workspace: Annotated[Path, typer.Option("--workspace", "-w", help="Folder of the new workspace.")],
) -> None:
    """Make a workspace that predicts from a model that nnU-Net trained."""
    from autoseg.interop.nnunet_import import import_models

    made = import_models(source, workspace, progress=ConsoleProgress())
    output.print(
        f"imported into {made.root}. Predict: autoseg ensemble-predict -w {made.root} -i IMAGES -o OUTPUT",
        markup=False,
        highlight=False,
    )


@command("export-nnunet", group=group)
def export_nnunet(
    output_dir: Annotated[Path, typer.Option("--output", "-o", help="nnU-Net's folder of preprocessed datasets.")],
    directory: Directory = Path(),
    workspace: WorkspaceDir = None,
    workers: Workers = None,
) -> None:
    """Write plan, folds and preprocessed cases as nnU-Net's preprocessed folder, to train with nnU-Net."""
    found = find_workspace(directory, workspace)
    from autoseg.interop.nnunet_export import export_preprocessed

    folder = export_preprocessed(found, output_dir, workers=workers, progress=ConsoleProgress())
    output.print(str(folder), markup=False, highlight=False)
