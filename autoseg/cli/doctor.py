"""autoseg doctor."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from autoseg.cli.app import command
from autoseg.cli.console import output
from autoseg.cli.options import Directory, WorkspaceDir, every_part, find_workspace
from autoseg.errors import MissingArtifactError
from autoseg.workspace import Workspace

_PACKAGES = ("torch", "numpy", "scipy", "SimpleITK", "blosc2", "batchgeneratorsv2", "connected-components-3d")


@command("doctor")
def doctor(
    directory: Directory = Path(),
    workspace: WorkspaceDir = None,
    *,
    verify: Annotated[bool, typer.Option("--verify", help="Read every array and checkpoint in full.")] = False,
) -> None:
    """Show the environment and the state of a workspace: what is damaged or outdated, and the command that goes on."""
    from autoseg.device import choose_device
    from autoseg.hardware import planning_memory
    from autoseg.parallel import default_workers

    memory = planning_memory()
    _line(f"autoseg {version('autoseg')}, Python {platform.python_version()} in {sys.prefix}")
    _line(", ".join(f"{name} {version(name)}" for name in _PACKAGES))
    _line(f"device {choose_device('auto')}, {default_workers()} processors")
    for line in _limits(directory if workspace is None else workspace):
        _line(line)
    _line(f"networks are planned for {memory.gigabytes:g} GB ({memory.source})")
    try:
        found = find_workspace(directory, workspace)
    except MissingArtifactError as error:
        _line(str(error))
        return
    for part in every_part(found):
        _show_workspace(part, verify=verify)


def _show_workspace(found: Workspace, *, verify: bool) -> None:
    """How far it is, what is damaged, and what to do next."""
    from autoseg.pipeline.health import find_problems
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
    for problem in find_problems(found, verify=verify):
        _line(problem)
    _line(f"next: {state.next_command}")


def _limits(place: Path) -> Iterator[str]:
    """What may run out: memory, shared memory, disk, and what the shell or the batch system allows."""
    from autoseg.memory import in_gigabytes, memory_state, shared_memory_free

    memory = memory_state()
    free = f"{in_gigabytes(memory.available)} of {in_gigabytes(memory.total)}"
    yield f"memory: {free} free, limited by {memory.limited_by}"
    shared = shared_memory_free()
    if shared is not None:
        small = "; little: loader processes hand batches over there, --workers 0 does without" if shared < 2**30 else ""
        yield f"shared memory: {in_gigabytes(shared)} free in /dev/shm{small}"
    existing = next((folder for folder in (place.resolve(), *place.resolve().parents) if folder.is_dir()), Path())
    writable = "" if os.access(existing, os.W_OK) else ", not writable"
    yield f"disk: {in_gigabytes(shutil.disk_usage(existing).free)} free in {existing}{writable}"
    try:
        import resource
    except ImportError:  # Windows
        return
    names = {"open files": "NOFILE", "address space": "AS", "file size": "FSIZE", "seconds of computing": "CPU"}
    found = {words: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0] for words, name in names.items()}
    limited = [f"{words} {value}" for words, value in found.items() if value != resource.RLIM_INFINITY]
    yield f"limits: {', '.join(limited) or 'none'}"


def _line(text: str) -> None:
    output.print(text, markup=False, highlight=False)
