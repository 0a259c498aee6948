"""Options that several commands share, and how their words are read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from autoseg.errors import SettingsError
from autoseg.workspace import Workspace

Directory = Annotated[
    Path, typer.Option("--directory", "-C", help="A workspace, or a dataset whose workspace is DIR/autoseg.")
]
WorkspaceDir = Annotated[
    Path | None, typer.Option("--workspace", "-w", help="The workspace itself; the dataset may then be read-only.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="Worker processes; 0 works in this process.", show_default="auto")
]

Compile = Annotated[
    Literal["none", "openvino"],
    typer.Option("--compile", help="Translate the networks for the CPU first; needs the extra openvino."),
]
Network = Annotated[
    str | None, typer.Option("--network", help="A network by name, or your own: package.module:Class.", metavar="NAME")
]


SliceAxes = Annotated[
    str | None,
    typer.Option(
        "--slice-axes",
        metavar="0,1,2",
        help="Axes of the plan across which 2D networks cut slices; several are averaged.",
        show_default="the plan's",
    ),
]


def parse_axes(text: str | None) -> tuple[int, ...] | None:
    """Axes as they are written on the command line.

    Raises:
        SettingsError: When they are not one or more of 0, 1 and 2.
    """
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word in ("0", "1", "2") for word in words) or len(set(words)) < len(words):
        raise SettingsError(f"--slice-axes {text}: one or more of 0, 1 and 2 are needed, for instance 0,1,2")
    return tuple(int(word) for word in words)


def accept_network(name: str | None) -> None:
    """Let this command know a network of the user's own, whose module may lie in the current folder.

    Raises:
        SettingsError: When there is no such network, or it cannot be imported.
    """
    if name is None:
        return
    from autoseg.networks.catalog import NETWORKS

    if ":" in name and (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    NETWORKS.accept(name)


def find_workspace(directory: Path, workspace: Path | None) -> Workspace:
    """The workspace named by ``-w``, else the one that ``-C`` is or holds."""
    return Workspace.discover(directory if workspace is None else workspace)


def every_part(workspace: Workspace) -> tuple[Workspace, ...]:
    """The workspaces of all views, where each has its own; else the workspace itself."""
    return tuple(workspace.by_view.values()) or (workspace,)
