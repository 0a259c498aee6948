"""A cascade as a user would train it: the low resolution first, then the second stage from its segmentations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from autoseg.cli.main import app
from autoseg.image import read_header, read_segmentation
from autoseg.preprocessing.previous_stage import read_previous
from autoseg.preprocessing.store import CaseStore
from autoseg.workspace import Workspace

SETTINGS = ["--iterations", "45", "--device", "cpu", "--workers", "0"]
SETTINGS += ["--set", "optimizer=adamw", "--set", "learning_rate=0.01", "--set", "validation_iterations=1"]


def run(*words: str | Path, expected: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == expected, result.output
    return result


def flat(result: Result) -> str:
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def planned(planned_cascade: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(Path(shutil.copytree(planned_cascade, tmp_path_factory.mktemp("cascade") / "workspace")))


@pytest.fixture(scope="module")
def first_fold(planned: Workspace) -> Workspace:
    run("train", "3d_lowres", "fold0", "-w", planned.root, *SETTINGS)
    return planned


def test_missing_cases_and_folds_are_named_before_anything_starts(first_fold: Workspace) -> None:
    result = run("train", "3d_cascade_fullres", "fold0", "-w", first_fold.root, *SETTINGS, expected=2)
    assert "Missing: fold1 (2 of 2: case02, case03). Make them: autoseg train 3d_lowres" in flat(result)
    assert not first_fold.results_dir("3d_cascade_fullres").exists()


@pytest.fixture(scope="module")
def complete(first_fold: Workspace) -> Workspace:
    run("train", "3d_lowres", "-w", first_fold.root, *SETTINGS)
    run("train", "3d_cascade_fullres", "-w", first_fold.root, *SETTINGS)
    return first_fold


def test_the_first_stage_leaves_good_segmentations_on_the_grid_of_the_second(complete: Workspace) -> None:
    store = CaseStore(complete.preprocessed_dir("3d_fullres"))
    for fold, cases in enumerate((("case00", "case01"), ("case02", "case03"))):
        for case_id in cases:
            case = store.open(case_id).load()
            assert case.segmentation is not None
            path = complete.run("3d_lowres", fold).next_stage("3d_fullres", case_id)
            previous = read_previous(path, case.image.shape[1:])
            overlap = 2 * np.sum((previous > 0) & (case.segmentation > 0))
            assert overlap / (np.sum(previous > 0) + np.sum(case.segmentation > 0)) > 0.6


def test_lost_segmentations_are_made_again_without_training(complete: Workspace) -> None:
    run_paths = complete.run("3d_lowres", 1)
    path = run_paths.next_stage("3d_fullres", "case03")
    before, weights = path.read_bytes(), run_paths.final.stat().st_mtime_ns
    path.unlink()
    result = run("train", "3d_cascade_fullres", "fold0", "-w", complete.root, *SETTINGS, expected=2)
    assert "fold1 (1 of 2: case03)" in flat(result)
    run("train", "3d_lowres", "-w", complete.root, *SETTINGS)
    assert path.read_bytes() == before
    assert run_paths.final.stat().st_mtime_ns == weights


def test_the_cascade_competes_and_predicts_in_one_command(
    complete: Workspace, cascade_dataset: Path, tmp_path: Path
) -> None:
    run("ensemble-predict", "-w", complete.root, "-o", tmp_path, "--device", "cpu", "--no-mirroring")
    ensemble = json.loads(complete.ensemble_path.read_text())
    assert set(ensemble["scores"]) >= {"3d_lowres", "3d_cascade_fullres", "3d_lowres + 3d_cascade_fullres"}
    words = ["--members", "3d_cascade_fullres", "--no-mirroring", "--device", "cpu", "-o", tmp_path / "cascade"]
    run("ensemble-predict", "-w", complete.root, *words)
    record = json.loads((tmp_path / "cascade" / "prediction.json").read_text())
    assert record["first_stages"]["3d_cascade_fullres"]["configuration"] == "3d_lowres"
    assert record["first_stages"]["3d_cascade_fullres"]["folds"] == [0, 1]
    predicted = tmp_path / "cascade" / "case04.nii.gz"
    image = read_header(cascade_dataset / "imagesTs" / "case04_0000.nii.gz")
    assert read_header(predicted).geometry.differences(image.geometry) == []
    segmentation = read_segmentation(predicted).array
    reference = read_segmentation(cascade_dataset / "labelsTs" / "case04.nii.gz").array
    overlap = 2 * np.sum((segmentation > 0) & (reference > 0))
    assert overlap / (np.sum(segmentation > 0) + np.sum(reference > 0)) > 0.7


def test_a_cascade_without_its_first_stage_says_what_to_train(complete: Workspace, tmp_path: Path) -> None:
    copied = Workspace(Path(shutil.copytree(complete.root, tmp_path / "workspace")))
    shutil.rmtree(copied.results_dir("3d_lowres"))
    words = ["--members", "3d_cascade_fullres", "--device", "cpu", "-o", tmp_path / "out"]
    result = run("ensemble-predict", "-w", copied.root, *words, expected=2)
    assert "of which no fold is trained" in flat(result)
    assert "autoseg train 3d_lowres" in flat(result)
