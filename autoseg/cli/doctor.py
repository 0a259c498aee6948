"""autoseg doctor."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from pathlib import Path

from rich.table import Table

from autoseg.cli.app import command
from autoseg.cli.console import output
from autoseg.cli.options import Directory, WorkspaceDir, find_workspace
from autoseg.errors import MissingArtifactError

_PACKAGES = ("torch", "numpy", "scipy", "SimpleITK", "blosc2", "batchgeneratorsv2", "connected-components-3d")


@command("doctor")
def doctor(directory: Directory = Path(), workspace: WorkspaceDir = None) -> None:
    """Show the environment and the state of a workspace, with the command that continues."""
    from autoseg.device import choose_device
    from autoseg.hardware import planning_memory
    from autoseg.parallel import default_workers

    memory = planning_memory()
    _line(f"autoseg {version('autoseg')}, Python {platform.python_version()} in {sys.prefix}")
    _line(", ".join(f"{name} {version(name)}" for name in _PACKAGES))
    _line(f"device {choose_device('auto')}, {default_workers()} processors")
    _line(f"networks are planned for {memory.gigabytes:g} GB ({memory.source})")
    try:
        found = find_workspace(directory, workspace)
    except MissingArtifactError as error:
        _line(str(error))
        return
    from autoseg.pipeline.state import inspect_workspace

    state = inspect_workspace(found)
    _line(f"\nworkspace {found.root}: {state.num_cases} cases, {state.num_folds} folds")
    table = Table("configuration", "preprocessed", "scored folds", "to be resumed", box=None, pad_edge=False)
    for configuration in state.configurations:
        scored, started = (", ".join(map(str, folds)) or "-" for folds in (configuration.scored, configuration.started))
        table.add_row(configuration.name, str(configuration.preprocessed), scored, started)
    if state.configurations:
        output.print(table)
    for problem in state.problems:
        _line(f"problem: {problem}")
    _line(f"next: {state.next_command}")


def _line(text: str) -> None:
    output.print(text, markup=False, highlight=False)
