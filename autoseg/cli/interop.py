"""autoseg interop: other systems' files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from autoseg.cli.app import app, command
from autoseg.cli.console import ConsoleProgress, output
from autoseg.cli.options import Directory, Workers, WorkspaceDir, find_workspace
from autoseg.errors import SettingsError

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


@command("export-nnunet-model", group=group)
def export_nnunet_model(
    output_dir: Annotated[Path, typer.Option("--output", "-o", help="nnU-Net's folder of results.")],
    directory: Directory = Path(),
    workspace: WorkspaceDir = None,
    checkpoint: Annotated[str, typer.Option(help="Which weights: final or best.")] = "final",
) -> None:
    """Write what is trained as nnU-Net's model folders, to predict or fine-tune with nnU-Net."""
    if checkpoint not in ("final", "best"):
        raise SettingsError(f"--checkpoint {checkpoint}: choose final or best")
    found = find_workspace(directory, workspace)
    from autoseg.interop.nnunet_model_export import export_models

    which: Literal["final", "best"] = "best" if checkpoint == "best" else "final"
    for folder in export_models(found, output_dir, checkpoint=which, progress=ConsoleProgress()):
        output.print(str(folder), markup=False, highlight=False)
