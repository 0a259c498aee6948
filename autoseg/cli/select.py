"""autoseg select."""

from __future__ import annotations

from pathlib import Path

from autoseg.cli.app import command
from autoseg.cli.console import ConsoleProgress, output
from autoseg.cli.options import Directory, WorkspaceDir, find_workspace


@command("select")
def select(directory: Directory = Path(), workspace: WorkspaceDir = None) -> None:
    """Choose the best combination of the trained configurations by their cross-validation."""
    found = find_workspace(directory, workspace)
    from autoseg.pipeline.choose import select_ensemble

    ensemble = select_ensemble(found, progress=ConsoleProgress())
    members = " + ".join(member.describe() for member in ensemble.members)
    output.print(f"{members}; {found.ensemble_path}", markup=False, highlight=False)
