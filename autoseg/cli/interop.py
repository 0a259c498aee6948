"""autoseg interop: other systems' files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.app import app, command
from autoseg.cli.console import ConsoleProgress, output

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
