"""Commands that only look: check, plan show, plan diff, --help."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from autoseg.cli.main import app
from autoseg.cli.plan_and_preprocess import _just_planned
from autoseg.codec import write_json
from autoseg.workspace import Workspace


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_check_passes_a_good_dataset_and_lists_what_is_wrong_with_a_bad_one(ball_dataset: Path, tmp_path: Path) -> None:
    assert "0 errors" in run("check", ball_dataset).output
    bad = Path(shutil.copytree(ball_dataset, tmp_path / "bad"))
    table = json.loads((bad / "dataset.json").read_text())
    table["numTraining"] = 9
    (bad / "dataset.json").write_text(json.dumps(table))
    image = bad / "imagesTr" / "case01_0000.nii.gz"
    image.write_bytes(b"not an image")
    result = run("check", bad, "-o", tmp_path / "report.json")
    assert result.exit_code == 2
    assert "numTraining" in result.output
    assert "case01" in result.output
    assert len(json.loads((tmp_path / "report.json").read_text())["problems"]) >= 2


def test_plan_show_gives_the_reasons(workspace: Workspace) -> None:
    flat = " ".join(run("plan", "show", "-w", workspace.root).output.split())
    plan = workspace.load_plan()
    for configuration in plan.configurations:
        assert configuration.name in flat
        assert " ".join(configuration.reasons["batch_size"].split()) in flat


def test_plan_diff_names_the_value_that_differs_and_nothing_else(workspace: Workspace, tmp_path: Path) -> None:
    assert "the plans agree" in run("plan", "diff", workspace.root, workspace.plan_path).output
    plan = workspace.load_plan()
    edited = replace(plan.configuration("2d"), batch_size=99)
    others = tuple(c for c in plan.configurations if c.name != "2d")
    write_json(replace(plan, configurations=(edited, *others)), tmp_path / "edited.json")
    lines = run("plan", "diff", workspace.root, tmp_path / "edited.json").output.strip().splitlines()
    assert lines == [f"configurations.2d.batch_size: {plan.configuration('2d').batch_size} -> 99"]


def test_every_command_has_help_and_the_common_options() -> None:
    words = ["plan-and-preprocess", "check", "plan show", "plan diff", "train", "ensemble-predict", "select", "doctor"]
    for command in [*words, "evaluate", "demo"]:
        result = run(*command.split(), "--help")
        assert result.exit_code == 0
        assert "--debug" in result.output
        assert "--quiet" in result.output


def test_quiet_prints_results_only(ball_dataset: Path, tmp_path: Path) -> None:
    loud = run("plan-and-preprocess", ball_dataset, "-w", tmp_path / "w", "--gpu-memory", "0.2", "--workers", "0")
    quiet = run("plan-and-preprocess", ball_dataset, "-w", tmp_path / "w", "--gpu-memory", "0.2", "--quiet")
    assert "folds" in loud.output
    assert "folds" not in quiet.output
    assert "3d_fullres" in quiet.output
    assert run("check", ball_dataset).exit_code == 0  # quiet is not remembered


@pytest.mark.parametrize(
    ("planner", "network", "expected"),
    [
        ("unet", None, "3d_fullres"),
        ("resenc_m", None, "3d_fullres@resenc_m"),
        ("unet", "swin_unetr", "2d@swin_unetr"),
        ("unet", "mine", "3d_fullres@mine"),
    ],
)
def test_the_next_step_is_what_was_just_planned(planner: str, network: str | None, expected: str) -> None:
    names = ("2d", "3d_fullres", "2d@swin_unetr", "3d_fullres@resenc_m", "2d@mine", "3d_fullres@mine")
    assert _just_planned(names, planner, network) == expected
