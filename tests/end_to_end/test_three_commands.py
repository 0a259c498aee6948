"""Plan, train and predict as a user would, with two folds of two configurations that each take seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner, Result

import autoseg
from autoseg.cli.main import app
from autoseg.codec import read_json
from autoseg.errors import DatasetError, SettingsError
from autoseg.image import read_header, read_image, read_segmentation
from autoseg.inference.ensemble import Ensemble
from autoseg.workspace import Workspace

SETTINGS = ["--iterations", "50", "--device", "cpu", "--workers", "0"]
SETTINGS += ["--set", "optimizer=adamw", "--set", "learning_rate=0.01", "--set", "validation_iterations=1"]


def run(*words: str | Path) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def dataset(ball_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copied = Path(shutil.copytree(ball_dataset, tmp_path_factory.mktemp("whole") / "dataset"))
    ids = [f"case{number:02d}" for number in range(6)]
    folds = [{"train": ids[3:], "val": ids[:3]}, {"train": ids[:3], "val": ids[3:]}]
    (copied / "splits_final.json").write_text(json.dumps(folds))
    return copied


@pytest.fixture(scope="module")
def trained(dataset: Path) -> Workspace:
    """Both configurations trained in one fold each, in the workspace inside the dataset."""
    run("plan-and-preprocess", dataset, "--gpu-memory", "0.2", "--workers", "0")
    for configuration in ("2d", "3d_fullres"):
        run("train", configuration, "fold0", "-C", dataset, *SETTINGS)
    return Workspace.discover(dataset)


def test_a_single_fold_predicts_and_says_what_is_missing(trained: Workspace, tmp_path: Path) -> None:
    result = run("ensemble-predict", "-w", trained.root, "-o", tmp_path, "--device", "cpu")
    flat = " ".join(result.output.split())
    assert "2d lacks fold1 (autoseg train 2d" in flat
    assert json.loads((tmp_path / "prediction.json").read_text())["selection"] == "incomplete"
    refused = CliRunner().invoke(app, ["ensemble-predict", "-w", str(trained.root), "--require-complete"])
    assert refused.exit_code == 2
    assert "3d_fullres lacks fold1" in " ".join(refused.output.split())


@pytest.fixture(scope="module")
def complete(trained: Workspace) -> Workspace:
    """All folds of both configurations, the missing ones trained by one command."""
    result = run("train", "all", "-w", trained.root, *SETTINGS)
    assert result.output.count("held-out Dice") == 2  # fold1 of each: fold0 was there
    return trained


def test_complete_cross_validations_compete_alone_and_together(complete: Workspace, tmp_path: Path) -> None:
    run("ensemble-predict", "-w", complete.root, "-o", tmp_path, "--device", "cpu")
    ensemble = read_json(Ensemble, complete.ensemble_path)
    assert ensemble.selection == "cross-validation"
    assert set(ensemble.scores) == {"2d", "3d_fullres", "2d + 3d_fullres"}
    best = max(ensemble.scores.values(), key=lambda score: score or 0.0)
    assert best == ensemble.scores[" + ".join(m.configuration for m in ensemble.members)]
    assert best is not None
    assert best > 0.7
    assert all(member.folds == (0, 1) for member in ensemble.members)


def test_predictions_lie_on_the_grid_of_their_images_and_are_right(complete: Workspace, dataset: Path) -> None:
    run("ensemble-predict", "-w", complete.root, "--device", "cpu")
    names = sorted(path.name for path in complete.predictions_dir.glob("*.nii.gz"))
    assert names == ["case06.nii.gz", "case07.nii.gz"]
    for name in names:
        header = read_header(complete.predictions_dir / name)
        image = read_header(dataset / "imagesTs" / name.replace(".nii.gz", "_0000.nii.gz"))
        assert header.geometry.differences(image.geometry) == []
    result = run("evaluate", "-r", dataset / "labelsTs", "-p", complete.predictions_dir, "-o", dataset / "scores.json")
    assert "shell" in result.output
    scores = json.loads((dataset / "scores.json").read_text())
    assert scores["mean"]["dice"] > 0.7
    assert len(scores["cases"]) == 4


def test_a_second_prediction_keeps_what_is_there_and_another_model_does_not(
    complete: Workspace, tmp_path: Path
) -> None:
    words = ["ensemble-predict", "-w", complete.root, "-o", tmp_path, "--device", "cpu"]
    run(*words, "--members", "2d")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.nii.gz")}
    assert "2 were there already" in run(*words, "--members", "2d").output
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.nii.gz")} == before
    run(*words, "--members", "3d_fullres:1")
    assert all(p.stat().st_mtime_ns > before[p] for p in before)


def test_files_of_others_are_not_overwritten(complete: Workspace, tmp_path: Path) -> None:
    (tmp_path / "case06.nii.gz").write_bytes(b"somebody's")
    words = ["ensemble-predict", "-w", str(complete.root), "-o", str(tmp_path), "--device", "cpu"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "--overwrite" in result.output
    assert (tmp_path / "case06.nii.gz").read_bytes() == b"somebody's"


def test_a_flipped_image_gets_the_flipped_segmentation(complete: Workspace, dataset: Path, tmp_path: Path) -> None:
    source = dataset / "imagesTs" / "case06_0000.nii.gz"
    picture = sitk.ReadImage(str(source))
    (tmp_path / "in").mkdir()
    sitk.WriteImage(sitk.DICOMOrient(picture, "RAS"), str(tmp_path / "in" / "turned_0000.nii.gz"))
    shutil.copy(source, tmp_path / "in" / "stored_0000.nii.gz")
    words = ["--members", "2d", "--no-mirroring", "--device", "cpu", "-i", tmp_path / "in", "-o", tmp_path / "out"]
    run("ensemble-predict", "-w", complete.root, *words)
    stored = read_segmentation(tmp_path / "out" / "stored.nii.gz")
    turned = read_segmentation(tmp_path / "out" / "turned.nii.gz")
    assert stored.geometry.orientation != turned.geometry.orientation
    assert stored.array.any()
    # The image is LPS; RAS turns its x and y axes around and leaves z.
    assert np.array_equal(stored.array, turned.array[:, ::-1, ::-1])


def test_one_unreadable_image_does_not_lose_the_others(complete: Workspace, dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset / "imagesTs", tmp_path / "in")
    broken = tmp_path / "in" / "case06_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:300])
    words = ["-i", tmp_path / "in", "-o", tmp_path / "out", "--device", "cpu"]
    result = CliRunner().invoke(app, ["ensemble-predict", "-w", str(complete.root), *map(str, words)])
    assert result.exit_code == 1
    assert "case06" in result.output
    assert [p.name for p in (tmp_path / "out").glob("*.nii.gz")] == ["case07.nii.gz"]


def test_parts_share_the_cases(complete: Workspace, tmp_path: Path) -> None:
    for part in ("0/2", "1/2"):
        run("ensemble-predict", "-w", complete.root, "-o", tmp_path / part[0], "--part", part, "--device", "cpu")
    found = [sorted(p.name for p in (tmp_path / part).glob("*.nii.gz")) for part in "01"]
    assert found == [["case06.nii.gz"], ["case07.nii.gz"]]


def test_training_again_with_other_settings_is_refused(complete: Workspace) -> None:
    words = ["train", "2d", "0", "-w", str(complete.root), "--epochs", "3"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "--as NAME" in " ".join(result.output.split())


def test_training_a_finished_fold_again_changes_nothing(complete: Workspace) -> None:
    run_paths = complete.run("2d", 0)
    before = {p: p.stat().st_mtime_ns for p in run_paths.root.rglob("*")}
    run("train", "2d", "0", "-w", complete.root, *SETTINGS)
    assert {p: p.stat().st_mtime_ns for p in run_paths.root.rglob("*")} == before


def test_arrays_in_memory_give_what_files_give(complete: Workspace, dataset: Path, tmp_path: Path) -> None:
    run("ensemble-predict", "-w", complete.root, "-o", tmp_path, "--members", "2d", "--device", "cpu")
    expected = read_segmentation(tmp_path / "case07.nii.gz")
    image = read_image([dataset / "imagesTs" / "case07_0000.nii.gz"])
    predictor = autoseg.Predictor.load(complete.root, members=["2d"], device="cpu")
    from_image = predictor.segment(image)
    from_array = predictor.segment(image.array[0], image.geometry.spacing)
    assert np.array_equal(from_image.array, expected.array)
    assert np.array_equal(from_array.array, expected.array)
    slabs = [slab for _, slab in predictor.predict(image.array, image.geometry.spacing).slabs]
    assert np.concatenate(slabs, axis=1).sum(axis=0) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(SettingsError, match="give it as spacing"):
        predictor.predict(image.array)
    with pytest.raises(DatasetError, match="no image with 3 spatial axes"):
        predictor.predict(image.array[0, 0], (1.0, 1.0, 1.0))
