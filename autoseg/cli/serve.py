"""autoseg serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.app import command
from autoseg.cli.console import messages
from autoseg.cli.options import Compile, Device, Directory, WorkspaceDir, find_workspace

Members = Annotated[
    list[str] | None, typer.Option("--members", help="CONFIGURATION[:FOLD,FOLD] instead of the selection; repeatable.")
]


@command("serve")
def serve(
    directory: Directory = Path(),
    workspace: WorkspaceDir = None,
    members: Members = None,
    host: Annotated[str, typer.Option(help="Address to listen on; there is no password.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8008,
    max_upload: Annotated[int, typer.Option("--max-upload", min=1, metavar="MB", help="Largest request.")] = 1024,
    device: Device = "auto",
    compile_with: Compile = "none",
) -> None:
    """Load the models once and answer requests over HTTP until interrupted."""
    found = find_workspace(directory, workspace)
    from autoseg.inference.predictor import InferenceOptions
    from autoseg.pipeline.predictor import Predictor
    from autoseg.pipeline.serving import PredictionServer

    options = InferenceOptions(compiler=compile_with)
    predictor = Predictor.load(found, members=members, options=options, device=device)
    with PredictionServer(predictor, host=host, port=port, max_upload=max_upload * 10**6) as server:
        messages.print(f"listening on {server.url}; Ctrl+C ends it", markup=False, highlight=False)
        server.serve_forever()
