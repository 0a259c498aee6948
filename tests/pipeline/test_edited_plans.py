"""Edits of plan.json: what cannot be is refused with its place in the file, what takes more memory is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.errors import ArtifactError
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.planning import memory_warnings
from autoseg.workspace import Workspace


def edit(workspace: Workspace, change: Callable[[dict[str, Any]], None], name: str = "3d_fullres") -> None:
    plain = json.loads(workspace.plan_path.read_text())
    change(next(c for c in plain["configurations"] if c["name"] == name))
    workspace.plan_path.write_text(json.dumps(plain))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": [13, 20, 20]}, r"configurations\.3d_fullres\.patch_size \(13, 20, 20\) is not a multiple of"),
        ({"batch_size": 0}, r"configurations\.3d_fullres\.batch_size must be positive, got 0"),
        ({"batch_size": "two"}, r"configurations\.3d_fullres\.batch_size must be an integer"),
        ({"network": {"features": [32]}}, r"configurations\.3d_fullres\.network: 1 features do not fit the lengths"),
        ({"patch_size": [16, 20, "x"]}, r"configurations\.3d_fullres\.patch_size\[2\] must be an integer"),
    ],
)
def test_impossible_edits_are_refused_with_their_place(
    workspace: Workspace, change: dict[str, Any], message: str
) -> None:
    def apply(configuration: dict[str, Any]) -> None:
        for key, value in change.items():
            configuration[key] = {**configuration[key], **value} if isinstance(value, dict) else value

    edit(workspace, apply)
    with pytest.raises(ArtifactError, match=message):
        workspace.load_plan()


def test_what_was_planned_is_within_its_memory(workspace: Workspace) -> None:
    assert memory_warnings(workspace.load_plan()) == ()


@pytest.mark.parametrize("field", ["patch_size", "batch_size"])
def test_edits_that_take_more_memory_are_told(workspace: Workspace, field: str) -> None:
    planned = workspace.load_plan().configuration("3d_fullres")
    more = 64 if field == "batch_size" else [8 * n for n in planned.patch_size]
    edit(workspace, lambda configuration: configuration.update({field: more}))
    [warning] = memory_warnings(workspace.load_plan())
    assert warning.startswith(f"configurations.3d_fullres.{field}: ")
    assert "planned were 0.2 (gpu_memory_gb)" in warning
    assert memory_warnings(workspace.load_plan(), ["2d"]) == ()
    shown = CliRunner().invoke(app, ["plan", "show", "-w", str(workspace.root)])
    assert shown.exit_code == 0
    assert f"warning: configurations.3d_fullres.{field}: " in " ".join(shown.output.split())


@pytest.mark.parametrize("field", ["patch_size", "batch_size"])
def test_edits_of_another_network_are_counted_by_its_own_training_step(
    ball_dataset: Path, workspace: Workspace, field: str
) -> None:
    plan_and_preprocess(
        ball_dataset, workspace=workspace.root, gpu_memory_gb=2.0, network="scnas", bases=["3d_fullres"], workers=0
    )
    name = "3d_fullres@scnas"
    assert memory_warnings(workspace.load_plan(), [name]) == ()
    planned = workspace.load_plan().configuration(name)
    more = 200 if field == "batch_size" else [8 * n for n in planned.patch_size]
    edit(workspace, lambda configuration: configuration.update({field: more}), name)
    [warning] = memory_warnings(workspace.load_plan(), [name])
    assert warning.startswith(f"configurations.{name}.{field}: ")
    assert "planned were 2 (gpu_memory_gb)" in warning


@pytest.mark.parametrize("transpose", [[1000000, 1, 2], [0, 0, 2], [-1, 0, 1]])
def test_axes_that_are_none_are_refused(workspace: Workspace, transpose: list[int]) -> None:
    plain = json.loads(workspace.plan_path.read_text())
    workspace.plan_path.write_text(json.dumps({**plain, "transpose": transpose}))
    with pytest.raises(ArtifactError, match=r"transpose .* must name every axis once"):
        workspace.load_plan()
