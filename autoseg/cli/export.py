"""autoseg export and autoseg import: the one-file model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.app import command
from autoseg.cli.console import ConsoleProgress, output
from autoseg.cli.options import Directory, WorkspaceDir, find_workspace
from autoseg.errors import SettingsError

ModelFile = Annotated[Path, typer.Argument(metavar="MODEL.zip", help="The model file.")]
Name = Annotated[str | None, typer.Option("--name", help="What to call the model.", show_default="the dataset's name")]
License = Annotated[
    str | None, typer.Option("--license", help="Under which the weights may be used: a name, or @FILE with its text.")
]
RequireComplete = Annotated[
    bool, typer.Option("--require-complete", help="Refuse when no configuration has all its folds.")
]


@command("export")
def export(
    model: ModelFile,
    directory: Directory = Path(),
    workspace: WorkspaceDir = None,
    name: Name = None,
    license_text: License = None,
    *,
    require_complete: RequireComplete = False,
) -> None:
    """Write the models that predict, their plan and their scores to one file without pickled code."""
    found = find_workspace(directory, workspace)
    from autoseg.pipeline.model_file import export_model

    manifest = export_model(
        found,
        model,
        name=name,
        license_text=_text_of(license_text),
        require_complete=require_complete,
        progress=ConsoleProgress(),
    )
    size = model.stat().st_size / 1e6
    output.print(
        f"{model}: {manifest.name}, {len(manifest.files)} files, {size:.1f} MB, licence {manifest.license}",
        markup=False,
        highlight=False,
    )


@command("import")
def import_(
    model: ModelFile,
    workspace: Annotated[Path, typer.Option("--workspace", "-w", help="Folder of the new workspace.")],
) -> None:
    """Make a workspace that predicts from a model file, after checking all of it."""
    from autoseg.pipeline.model_file import import_model

    made = import_model(model, workspace, progress=ConsoleProgress())
    output.print(
        f"imported into {made.root}. Predict: autoseg ensemble-predict -w {made.root} -i IMAGES -o OUTPUT",
        markup=False,
        highlight=False,
    )


def _text_of(given: str | None) -> str | None:
    if given is None or not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--license {given}: the file cannot be read: {error}") from None
