"""The state of a workspace, step by step, and the command that continues."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.pipeline.state import inspect_workspace
from autoseg.workspace import Workspace


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def test_every_step_names_the_next_one(workspace: Workspace) -> None:
    state = inspect_workspace(workspace)
    assert (state.num_cases, state.num_folds) == (6, 5)
    assert all(c.preprocessed == 6 for c in state.configurations)
    assert state.next_command.startswith("autoseg train 3d_fullres fold0")
    touch(workspace.run("2d", 3).last)
    state = inspect_workspace(workspace)
    assert next(c for c in state.configurations if c.name == "2d").started == (3,)
    assert state.next_command.startswith("autoseg train 2d fold3")
    touch(workspace.run("2d", 3).final)
    touch(workspace.run("2d", 3).scores)
    state = inspect_workspace(workspace)
    assert next(c for c in state.configurations if c.name == "2d").scored == (3,)
    assert state.next_command.startswith("autoseg ensemble-predict")
    for path in workspace.root.glob("preprocessed/*/case01*"):
        path.unlink()
    assert inspect_workspace(workspace).next_command.startswith("autoseg plan-and-preprocess")


def test_a_workspace_without_a_plan_and_one_with_a_damaged_plan(workspace: Workspace) -> None:
    workspace.plan_path.write_text("{")
    assert str(workspace.plan_path) in inspect_workspace(workspace).problems[0]
    workspace.plan_path.unlink()
    assert inspect_workspace(workspace).next_command.startswith("autoseg plan-and-preprocess")


def test_doctor_shows_environment_and_state(workspace: Workspace, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "-w", str(workspace.root)])
    assert result.exit_code == 0
    assert "torch" in result.output
    assert "next: autoseg train 3d_fullres fold0" in " ".join(result.output.split())
    without = CliRunner().invoke(app, ["doctor", "-C", str(tmp_path)])
    assert without.exit_code == 0
    assert "is no workspace" in without.output


def test_functions_take_a_workspace_its_folder_or_its_datasets(workspace: Workspace, tmp_path: Path) -> None:
    assert Workspace.of(workspace) is workspace
    assert Workspace.of(str(workspace.root)).root == workspace.root
    inside = tmp_path / "dataset" / "autoseg"
    inside.parent.mkdir()
    workspace.root.rename(inside)
    assert Workspace.of(inside.parent).root == inside
