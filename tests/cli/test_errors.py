"""Bad input: one sentence that names the file and what to do, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from autoseg.cli.main import app
from autoseg.geometry import Geometry
from autoseg.image import Segmentation, read_segmentation, write_segmentation
from autoseg.workspace import Workspace


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def assert_refused(result: Result, *expected: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    flat = re.sub(r"\s+", " ", result.output)
    assert "Traceback" not in flat
    assert flat.count("Error: ") >= 1
    for text in expected:
        assert text in flat


@pytest.fixture
def dataset(ball_dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ball_dataset, tmp_path / "dataset"))


def relabel(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    segmentation = read_segmentation(path)
    changed = change(segmentation.array.copy())
    write_segmentation(path, Segmentation(array=changed, geometry=segmentation.geometry))


def test_a_dataset_that_is_not_there(tmp_path: Path) -> None:
    assert_refused(run("plan-and-preprocess", tmp_path / "nowhere"), "nowhere is not a folder")
    (tmp_path / "empty").mkdir()
    assert_refused(run("plan-and-preprocess", tmp_path / "empty"), "has no dataset.json")


def test_a_missing_label(dataset: Path) -> None:
    (dataset / "labelsTr" / "case03.nii.gz").unlink()
    assert_refused(run("plan-and-preprocess", dataset), "case03", "labelsTr", "is no file (dataset.json)")
    assert not (dataset / "autoseg" / "plan.json").exists()


def test_a_label_of_another_shape(dataset: Path) -> None:
    geometry = Geometry(shape=(5, 6, 7), spacing=(1.0, 1.0, 1.0))
    path = dataset / "labelsTr" / "case02.nii.gz"
    write_segmentation(path, Segmentation(array=np.zeros((5, 6, 7), np.uint8), geometry=geometry))
    assert_refused(run("plan-and-preprocess", dataset, "--workers", "0"), str(path), "(5, 6, 7)", "(12, 20, 18)")
    assert not (dataset / "autoseg" / "plan.json").exists()


def test_a_label_of_another_spacing(dataset: Path) -> None:
    path = dataset / "labelsTr" / "case02.nii.gz"
    array = read_segmentation(path).array
    geometry = Geometry(shape=array.shape, spacing=(1.0, 1.0, 9.0))
    write_segmentation(path, Segmentation(array=array, geometry=geometry))
    assert_refused(run("plan-and-preprocess", dataset, "--workers", "0"), str(path), "spacing", "9.0")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_an_undeclared_label_value(dataset: Path, workers: str) -> None:
    path = dataset / "labelsTr" / "case01.nii.gz"

    def add_seven(array: np.ndarray) -> np.ndarray:
        array[0, 0, 0] = 7
        return array

    relabel(path, add_seven)
    assert_refused(run("plan-and-preprocess", dataset, "--workers", workers), str(path), "7", "declared")
    assert not (dataset / "autoseg" / "plan.json").exists()


def test_a_truncated_image(dataset: Path) -> None:
    path = dataset / "imagesTr" / "case01_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:500])
    assert_refused(run("plan-and-preprocess", dataset, "--workers", "0"), str(path))


def test_a_planner_that_does_not_exist_offers_a_close_one(dataset: Path) -> None:
    assert_refused(run("plan-and-preprocess", dataset, "--planner", "resenc_n"), "resenc_m")


def test_a_folder_without_a_workspace(tmp_path: Path) -> None:
    for words in (["train", "3d_fullres", "0"], ["ensemble-predict"], ["select"]):
        assert_refused(run(*words, "-C", tmp_path), "is no workspace", "autoseg plan-and-preprocess")


def test_an_unknown_configuration_offers_a_close_one(workspace: Workspace) -> None:
    assert_refused(run("train", "3d_fulres", "0", "-w", workspace.root), "3d_fulres", "did you mean 3d_fullres?")


@pytest.mark.parametrize("fold", ["fold5", "7", "-1", "first"])
def test_an_unknown_fold(workspace: Workspace, fold: str) -> None:
    result = run("train", "-w", workspace.root, "--", "3d_fullres", fold)
    assert_refused(result, f"no fold '{fold}'", "fold0 to fold4")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--time-budget", "15"], "whole number with s, m or h"),
        (["--time-budget", "15m", "--epochs", "3"], "exclude each other"),
        (["--set", "learning_rat=1"], "did you mean learning_rate?"),
        (["--set", "epochs=many"], "epochs=many"),
        (["--set", "foreground_share=3"], "foreground_share must lie between 0 and 1"),
        (["--device", "tpu"], "'tpu' is not a device"),
        (["--device", "cuda:63"], "cuda"),
        (["--as", "../evil"], "--as ../evil"),
        (["--validate-only"], "no final checkpoint to validate"),
        (["--set", "loss=dise_ce"], "dice_ce"),
        (["--set", "trainer=supervise"], "supervised"),
    ],
)
def test_impossible_training_options(workspace: Workspace, options: list[str], expected: str) -> None:
    assert_refused(run("train", "2d", "0", "-w", workspace.root, *options), expected)
    assert not workspace.run("2d", 0).root.exists()


def test_missing_preprocessed_cases(workspace: Workspace) -> None:
    data = workspace.load_plan().configuration("2d").data
    for path in workspace.preprocessed_dir(data).glob("case02*"):
        path.unlink()
    assert_refused(run("train", "2d", "0", "-w", workspace.root), "case02", "autoseg plan-and-preprocess")


def test_predicting_before_anything_is_trained(workspace: Workspace) -> None:
    assert_refused(run("ensemble-predict", "-w", workspace.root), "autoseg train 3d_fullres fold0")


def test_predicting_a_folder_that_is_not_there(workspace: Workspace, tmp_path: Path) -> None:
    assert_refused(run("ensemble-predict", "-w", workspace.root, "-i", tmp_path / "no"), "is not a folder")
    (tmp_path / "empty").mkdir()
    assert_refused(run("ensemble-predict", "-w", workspace.root, "-i", tmp_path / "empty"), "holds no image")


@pytest.mark.parametrize("part", ["2/2", "x", "1/0"])
def test_an_impossible_part(workspace: Workspace, part: str) -> None:
    assert_refused(run("ensemble-predict", "-w", workspace.root, "--part", part), "--part")


@pytest.mark.parametrize("damage", ["{", '{"schema_version": 99}', '{"schema_version": 1, "planer": "unet"}'])
def test_a_damaged_plan_is_named(workspace: Workspace, damage: str) -> None:
    workspace.plan_path.write_text(damage)
    assert_refused(run("train", "2d", "0", "-w", workspace.root), str(workspace.plan_path))


def test_a_typo_in_the_plan_offers_the_field(workspace: Workspace) -> None:
    plan = json.loads(workspace.plan_path.read_text())
    plan["configurations"][0]["patchsize"] = plan["configurations"][0].pop("patch_size")
    workspace.plan_path.write_text(json.dumps(plan))
    assert_refused(
        run("train", "2d", "0", "-w", workspace.root), "configurations.2d.patchsize", "did you mean patch_size?"
    )


def test_evaluating_with_a_prediction_missing_exits_1_and_counts_it_as_zero(ball_dataset: Path, tmp_path: Path) -> None:
    predictions = tmp_path / "predictions"
    shutil.copytree(ball_dataset / "labelsTs", predictions)
    result = run("evaluate", "-r", ball_dataset / "labelsTs", "-p", predictions, "-o", tmp_path / "all.json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "all.json").read_text())["mean"]["dice"] == 1.0
    sorted(predictions.iterdir())[0].unlink()
    result = run("evaluate", "-r", ball_dataset / "labelsTs", "-p", predictions, "-o", tmp_path / "half.json")
    assert result.exit_code == 1, result.output
    assert json.loads((tmp_path / "half.json").read_text())["mean"]["dice"] == 0.5


def test_evaluate_needs_a_json_or_csv_name(ball_dataset: Path, tmp_path: Path) -> None:
    labels = ball_dataset / "labelsTs"
    assert_refused(run("evaluate", "-r", labels, "-p", labels, "-o", tmp_path / "x.txt"), ".json or .csv")


def test_a_defect_is_told_as_one(monkeypatch: pytest.MonkeyPatch, workspace: Workspace) -> None:
    monkeypatch.setattr("autoseg.cli.train.find_workspace", lambda *_: 1 / 0)
    result = run("train", "2d", "0", "-w", workspace.root)
    assert_refused(result, "ZeroDivisionError", "defect of autoseg", code=70)


def test_an_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, workspace: Workspace) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autoseg.cli.train.find_workspace", interrupt)
    result = run("train", "2d", "0", "-w", workspace.root)
    assert result.exit_code == 130
    assert "goes on where this one stopped" in result.output


def test_an_interrupt_that_python_swallows_is_repeated_and_leaves_no_traceback() -> None:
    """Python ignores what is raised while it tidies up an object, and would print it with its traceback."""
    code = """
import signal, time
from autoseg.cli.app import _run

class Interrupted:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        time.sleep(0)

def work():
    Interrupted()
    time.sleep(60)

print(_run(work, debug=False))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)
    assert done.stdout == "130\n", done.stderr
    assert "Traceback" not in done.stderr
    assert "Interrupted. The same command goes on" in done.stderr
