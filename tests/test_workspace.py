from __future__ import annotations

from pathlib import Path

import pytest

from autoseg.errors import ArtifactError, MissingArtifactError, SettingsError
from autoseg.workspace import Workspace


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "Dataset001_Knees"
    folder.mkdir()
    return folder


@pytest.fixture
def workspace(tmp_path: Path, dataset: Path) -> Workspace:
    return Workspace.create(tmp_path / "work", dataset)


def test_a_workspace_is_found_from_its_folder_and_from_the_dataset_that_holds_it(dataset: Path) -> None:
    made = Workspace.create(dataset / "autoseg", dataset)
    assert Workspace.discover(dataset) == made
    assert Workspace.discover(dataset / "autoseg") == made
    assert made.dataset_root == dataset.resolve()
    assert made.has_dataset


def test_without_a_workspace_the_command_that_makes_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifactError, match=r"is no workspace.+Make one: autoseg plan-and-preprocess"):
        Workspace.discover(tmp_path)


def test_making_it_again_keeps_it(workspace: Workspace, dataset: Path) -> None:
    workspace.plan_path.write_text("kept", encoding="utf-8")
    assert Workspace.create(workspace.root, dataset) == workspace
    assert workspace.plan_path.read_text(encoding="utf-8") == "kept"


def test_another_dataset_is_refused_unless_the_first_was_moved(workspace: Workspace, dataset: Path) -> None:
    other = dataset.with_name("Dataset002_Hips")
    other.mkdir()
    with pytest.raises(SettingsError, match=r"is the workspace of .+Dataset001_Knees; name another folder with -w"):
        Workspace.create(workspace.root, other)
    assert workspace.dataset_root == dataset.resolve()
    dataset.rmdir()
    assert Workspace.create(workspace.root, other).dataset_root == other.resolve()


def test_a_workspace_for_predicting_only_has_no_dataset(tmp_path: Path) -> None:
    imported = Workspace.create(tmp_path / "model", None)
    assert not imported.has_dataset
    with pytest.raises(MissingArtifactError, match="has no dataset; it can only predict"):
        _ = imported.dataset_root


def test_a_damaged_record_is_named(workspace: Workspace) -> None:
    workspace.record_path.write_text("{", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"workspace\.json cannot be read as JSON"):
        _ = workspace.dataset_root


def test_without_a_plan_the_command_that_makes_it_is_named(workspace: Workspace) -> None:
    with pytest.raises(MissingArtifactError, match=r"has no plan\.json\. Make it: autoseg plan-and-preprocess"):
        workspace.load_plan()


def test_trained_folds_are_those_with_a_final_checkpoint_in_order(workspace: Workspace) -> None:
    assert workspace.trained_folds("2d") == ()
    for fold in (10, 2, "all", 0):
        run = workspace.run("2d", fold)
        run.root.mkdir(parents=True)
        run.final.touch()
    unfinished = workspace.run("2d", 1)
    unfinished.root.mkdir()
    unfinished.last.touch()
    (workspace.results_dir("2d") / "fold_old").mkdir()
    assert workspace.trained_folds("2d") == (0, 2, 10, "all")
    assert workspace.trained_folds("3d_fullres") == ()


def test_the_layout_is_the_documented_one(workspace: Workspace) -> None:
    run = workspace.run("3d_fullres@slow", 0)
    below = "results/3d_fullres@slow/fold0"
    expected = {
        workspace.fingerprint_path: "fingerprint.json",
        workspace.plan_path: "plan.json",
        workspace.splits_path: "splits.json",
        workspace.ensemble_path: "ensemble.json",
        workspace.check_path: "check.json",
        workspace.predictions_dir: "predictions",
        workspace.reports_dir: "reports",
        workspace.preprocessed_dir("2d"): "preprocessed/2d",
        workspace.run_record_path("2d"): "results/2d/run.json",
        workspace.run("2d", "all").root: "results/2d/fold_all",
        run.last: f"{below}/checkpoint_last.pt",
        run.best: f"{below}/checkpoint_best.pt",
        run.final: f"{below}/checkpoint_final.pt",
        run.log: f"{below}/log.csv",
        run.progress_picture: f"{below}/progress.png",
        run.validation: f"{below}/validation",
        run.scores: f"{below}/validation/scores.json",
    }
    assert {path.relative_to(workspace.root).as_posix(): name for path, name in expected.items()} == {
        name: name for name in expected.values()
    }
