"""What was altered, damaged or removed since it was written is noticed by whoever reads it, and can be made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from autoseg.cli.main import app
from autoseg.history import read_rows
from autoseg.workspace import Workspace

SETTINGS = ["--iterations", "6", "--device", "cpu", "--workers", "0"]
SETTINGS += ["--set", "optimizer=adamw", "--set", "learning_rate=0.01", "--set", "validation_iterations=1"]


def run(*words: str | Path, code: int = 0) -> str:
    """The words that a command ends with, without line breaks."""
    result: Result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def finished(ball_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two folds, a selection and predictions."""
    root = tmp_path_factory.mktemp("altered")
    dataset = Path(shutil.copytree(ball_dataset, root / "dataset"))
    workspace = Workspace(root / "workspace")
    words = ["--gpu-memory", "0.2", "--workers", "0", "--configurations", "2d", "--folds", "2"]
    run("plan-and-preprocess", dataset, "-w", workspace.root, *words)
    run("train", "2d", "-w", workspace.root, *SETTINGS)
    run("ensemble-predict", "-w", workspace.root, "--device", "cpu")
    return workspace


@pytest.fixture
def space(finished: Workspace, tmp_path: Path) -> Workspace:
    return Workspace(Path(shutil.copytree(finished.root, tmp_path / "workspace")))


def flip(path: Path) -> bytes:
    """Change one bit; the content before is returned."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return content


@pytest.mark.parametrize("ending", [".probabilities.b2nd", ".nii.gz"])
def test_a_selection_rests_on_what_was_scored(space: Workspace, ending: str) -> None:
    path = next(space.run("2d", 1).validation.glob(f"*{ending}"))
    before = flip(path)
    said = run("select", "-w", space.root, code=2)
    assert f"{path.name} was altered, damaged or removed since it was predicted" in said
    assert f"autoseg train 2d fold1 -w {space.root}" in said
    run("train", "2d", "fold1", "-w", space.root, *SETTINGS)
    assert path.read_bytes() == before
    run("select", "-w", space.root)


def test_folds_that_changed_under_models_are_undone(space: Workspace) -> None:
    """A case moved to the other side would be predicted by a model that was trained on it."""
    before = space.splits_path.read_bytes()
    folds = json.loads(before)
    folds[0]["val"].append(folds[0]["train"].pop())
    space.splits_path.write_text(json.dumps(folds))
    for words in (["train", "2d", "fold0", *SETTINGS], ["select"], ["report", "2d"], ["train", "all", *SETTINGS]):
        assert "splits.json is not as autoseg wrote it" in run(*words, "-w", space.root, code=2)
    assert "splits.json is not as autoseg wrote it" in run("doctor", "-w", space.root)
    plan = ["plan-and-preprocess", str(space.dataset_root), "-w", str(space.root), "--gpu-memory", "0.2"]
    plan += ["--workers", "0", "--configurations", "2d"]
    assert "it is made again as it was" in run(*plan)
    assert space.splits_path.read_bytes() == before
    space.splits_path.write_text(before.decode()[:100])
    assert "it is made again as it was" in run(*plan)
    space.splits_path.unlink()
    assert "splits.json is gone" in run(*plan)
    assert space.splits_path.read_bytes() == before
    run("select", "-w", space.root)


def test_edited_folds_are_taken_over_before_anything_is_trained(space: Workspace) -> None:
    shutil.rmtree(space.root / "results")
    folds = json.loads(space.splits_path.read_text())[::-1]
    space.splits_path.write_text(json.dumps(folds))
    assert "splits.json is not as autoseg wrote it" in run("train", "2d", "fold0", "-w", space.root, *SETTINGS, code=2)
    words = ["-w", space.root, "--gpu-memory", "0.2", "--workers", "0", "--configurations", "2d"]
    assert "was edited since autoseg wrote it; the edits stay" in run("plan-and-preprocess", space.dataset_root, *words)
    assert json.loads(space.splits_path.read_text()) == folds
    assert "edits" not in run("plan-and-preprocess", space.dataset_root, *words)


def test_folds_that_cannot_be_made_again_are_not_guessed(space: Workspace) -> None:
    """They were edited by hand, models were trained, then they were damaged."""
    folds = json.loads(space.splits_path.read_text())
    results = space.root / "results"
    results.rename(space.root / "aside")
    space.splits_path.write_text(json.dumps(folds[::-1]))
    words = ["plan-and-preprocess", str(space.dataset_root), "-w", str(space.root), "--gpu-memory", "0.2"]
    words += ["--workers", "0", "--configurations", "2d"]
    run(*words)
    (space.root / "aside").rename(results)
    space.splits_path.write_text("[")
    said = run(*words, code=2)
    assert "models were trained on what it held. Put it back as it was" in said
    space.splits_path.write_text(json.dumps(folds[::-1]))
    run(*words)


def test_an_altered_assessment_is_made_again_and_a_corrected_segmentation_stays(space: Workspace) -> None:
    predict = ["ensemble-predict", "-w", str(space.root), "--device", "cpu"]
    assessment = space.predictions_dir / "quality" / "case06.json"
    for damage in (flip, Path.unlink):
        damage(assessment)  # type: ignore[operator]  # either takes a path
        assert "predicted 1 case(s)" in run(*predict)
        assert json.loads(assessment.read_text())["case"] == "case06"
    assert "predicted 0 case(s)" in run(*predict)
    before = flip(space.predictions_dir / "case06.nii.gz")
    said = run(*predict, code=2)
    assert "case06.nii.gz was altered, damaged or removed since it was predicted" in said
    assert (space.predictions_dir / "case06.nii.gz").read_bytes() != before


def test_doctor_names_altered_reports_and_the_command_that_makes_them_again(space: Workspace) -> None:
    run("report", "2d", "-w", space.root, "--device", "cpu")
    assert "altered or damaged" not in run("doctor", "-w", space.root)
    for path, words in (
        (space.reports_dir / "selection.md", ["select"]),
        (space.reports_dir / "2d" / "patients.csv", ["report", "2d", "--device", "cpu"]),
    ):
        before = flip(path)
        said = run("doctor", "-w", space.root)
        assert f"altered or damaged: {path}; make it again: autoseg {' '.join(words[:2])}" in said
        run(*words, "-w", space.root)
        assert path.read_bytes() == before
        assert "altered or damaged" not in run("doctor", "-w", space.root)


@pytest.mark.parametrize("damage", [Path.unlink, flip, lambda path: path.write_text("no table")])
def test_the_log_of_a_finished_fold_is_written_again(space: Workspace, damage: object) -> None:
    fold = space.run("2d", 0)
    before = read_rows(fold.log)
    damage(fold.log)  # type: ignore[operator]  # each takes a path
    said = run("train", "2d", "fold0", "-w", space.root, *SETTINGS)
    assert "Traceback" not in said
    assert "6 iterations" in said
    assert read_rows(fold.log) == before


def test_a_finished_fold_can_be_used_without_its_history(space: Workspace) -> None:
    fold = space.run("2d", 0)
    fold.log.unlink()
    fold.last.unlink()
    said = run("train", "2d", "fold0", "-w", space.root, *SETTINGS)
    assert f"{fold.log} is missing; how the run went is not known any more" in said
    assert "held-out Dice" in said
