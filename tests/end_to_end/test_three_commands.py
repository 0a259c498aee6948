"""Plan, train and predict as a user would, with two folds of two configurations that each take seconds."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner, Result

import autoseg
from autoseg.cli.main import app
from autoseg.codec import read_json
from autoseg.errors import DatasetError, SettingsError
from autoseg.evaluation.report import read_evaluation
from autoseg.image import read_header, read_image, read_segmentation, write_image
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
    assert {"2d", "3d_fullres", "2d + 3d_fullres"} <= set(ensemble.scores)
    best = max(score or 0.0 for score in ensemble.scores.values())
    assert best > 0.7
    assert ensemble.promised is not None
    assert ensemble.promised > best - 0.1
    report = (complete.reports_dir / "selection.md").read_text()
    assert "Expect **" in report
    assert all(name in report for name in ensemble.scores)
    assert (complete.reports_dir / "selection.png").is_file()
    assert all(member.folds == (0, 1) for member in ensemble.members)


def test_held_out_cases_are_scored_on_the_grid_of_training_too(complete: Workspace, tmp_path: Path) -> None:
    result = run("report", "3d_fullres", "-w", complete.root, "-o", tmp_path, "-m", "hd95", "--device", "cpu")
    assert "grid of training" in result.output
    with (tmp_path / "patients.csv").open(newline="") as file:
        rows = {row["patientId"]: row for row in csv.DictReader(file)}
    assert [*rows] == [f"case{number:02d}" for number in range(6)] + ["average"]
    columns = {f"{grid}_{label}_{metric}" for grid in ("tt", "inf") for label in ("shell", "core")
               for metric in ("dice", "iou", "hd95")}  # fmt: skip
    assert columns < set(rows["case00"])
    kept = {(row.case, row.label): row.dice for fold in (0, 1) for row in read_evaluation(
        complete.run("3d_fullres", fold).scores).cases}  # fmt: skip
    for (case, label), dice in kept.items():
        assert float(rows[case][f"inf_{label}_dice"]) == pytest.approx(dice)
        # Within what going to the other grid changes.
        assert float(rows[case][f"tt_{label}_dice"]) == pytest.approx(dice, abs=0.15)
    mean = sum(float(rows[f"case{number:02d}"]["tt_core_dice"]) for number in range(6)) / 6
    assert float(rows["average"]["tt_core_dice"]) == pytest.approx(mean)
    refused = CliRunner().invoke(app, ["report", "3d_lowres", "-w", str(complete.root)])
    assert refused.exit_code == 2


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


def test_selection_by_other_metrics_and_with_postprocessing_of_ones_own(complete: Workspace, tmp_path: Path) -> None:
    copied = Workspace(Path(shutil.copytree(complete.root, tmp_path / "workspace")))
    chosen = ["--metric", "dice,nsd@1mm", "--postprocessing", "remove_small(core, min_mm3=4)", "--max-members", "2"]
    run("select", "-w", copied.root, *chosen)
    ensemble = read_json(Ensemble, copied.ensemble_path)
    assert ensemble.metrics == ("dice", "nsd@1mm")
    assert [step.describe(copied.load_plan().labels) for step in ensemble.postprocessing] == [
        "Components of core below 4 mm3 are removed"
    ]
    run("select", "-w", copied.root, "--postprocessing", "none", "--rule", "nnunet")
    assert read_json(Ensemble, copied.ensemble_path).postprocessing == ()
    for words, says in [
        (["--postprocessing", "keep_largest(liver)"], "no label 'liver'"),
        (["--try", "keep_larges"], "did you mean keep_largest"),
        (["--metric", "dize"], "did you mean dice"),
    ]:
        result = CliRunner().invoke(app, ["select", "-w", str(copied.root), *words])
        assert result.exit_code == 2
        assert says in " ".join(result.output.split())


class TestModelFile:
    @pytest.fixture(scope="class")
    @staticmethod
    def model(complete: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path: Path = tmp_path_factory.mktemp("exported") / "balls.zip"
        result = run("export", path, "-w", complete.root, "--license", "CC-BY-4.0", "--name", "balls")
        assert "licence CC-BY-4.0" in result.output
        return path

    def test_it_predicts_the_same_without_the_training_data(
        self, model: Path, complete: Workspace, dataset: Path, tmp_path: Path
    ) -> None:
        result = run("import", model, "-w", tmp_path / "imported")
        assert "autoseg ensemble-predict -w" in result.output
        imported = Workspace(tmp_path / "imported")
        assert not imported.has_dataset
        words = ["-i", dataset / "imagesTs", "--device", "cpu"]
        run("ensemble-predict", "-w", complete.root, "-o", tmp_path / "first", *words)
        run("ensemble-predict", "-w", imported.root, "-o", tmp_path / "second", *words)
        for name in ("case06.nii.gz", "case07.nii.gz"):
            first, second = (read_segmentation(tmp_path / folder / name).array for folder in ("first", "second"))
            assert np.array_equal(first, second)
        image = read_image([dataset / "imagesTs" / "case07_0000.nii.gz"])
        loaded = autoseg.Predictor.load(model, device="cpu").segment(image)
        assert np.array_equal(loaded.array, second)
        again = run("export", tmp_path / "again.zip", "-w", imported.root)
        assert "not stated" in again.output

    def test_it_tells_about_itself_and_names_no_case(self, model: Path, complete: Workspace) -> None:
        with zipfile.ZipFile(model) as archive:
            names = set(archive.namelist())
            card = archive.read("MODEL_CARD.md").decode()
            scores = json.loads(archive.read("scores.json"))
            texts = [archive.read(name) for name in names if name.endswith((".json", ".md", ".txt"))]
        assert {"manifest.json", "plan.json", "ensemble.json", "fingerprint.json", "LICENSE.txt"} <= names
        assert not any(name.endswith((".pt", ".pkl")) for name in names)
        assert "shell (1), core (2)" in card
        assert "Expect a mean dice of" in card
        ensemble = read_json(Ensemble, complete.ensemble_path)
        assert scores["promised"] == ensemble.promised
        assert scores["promised_interval"] == list(ensemble.promised_interval or ())
        name = ensemble.members[0].configuration
        low, high = scores["intervals"][name]["core"]["dice"]
        assert low <= scores["members"][name]["core"]["dice"] <= high
        assert not any(b"case00" in text and b"case0000" not in text for text in texts)

    @staticmethod
    def tamper(files: dict[str, bytes], change: str) -> None:
        weights = next(name for name in files if name.endswith("weights.npz"))
        manifest = json.loads(files["manifest.json"])
        if change == "bytes":
            files[weights] = files[weights][:-9] + b"x" + files[weights][-8:]
        elif change in ("missing", "no manifest"):
            del files[weights if change == "missing" else "manifest.json"]
        elif change in ("foreign", "traversal"):
            files["extra.txt" if change == "foreign" else "../outside.txt"] = b"hello"
        elif change == "kind":
            manifest["kind"] = "something"
            del manifest["sha256"]
        elif change == "member":
            ensemble = json.loads(files["ensemble.json"])
            del ensemble["sha256"]
            ensemble["members"][0]["folds"].append(7)
            files["ensemble.json"] = json.dumps(ensemble).encode()
        elif change == "other weights":
            buffer = io.BytesIO()
            np.savez(buffer, **{"a.weight": np.zeros(3, np.float32)})  # type: ignore[arg-type]
            files[weights] = buffer.getvalue()
        if change in ("member", "other weights"):  # by somebody who knows how manifests work
            del manifest["sha256"]
            for name in ("ensemble.json", weights):
                entry = {"sha256": hashlib.sha256(files[name]).hexdigest(), "size": len(files[name])}
                manifest["files"][name] = entry
        if "manifest.json" in files:
            files["manifest.json"] = json.dumps(manifest).encode()

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ("bytes", "is not what the manifest says"),
            ("missing", "lacks"),
            ("foreign", "does not list"),
            ("traversal", "leads out of its folder"),
            ("kind", "not a model of autoseg"),
            ("no manifest", "has no manifest.json"),
            ("truncated", "no complete model"),  # the end of an archive of weights is taken for the end of all
            ("other weights", "no weights for its network"),
            ("member", "does not hold all of it"),
        ],
    )
    def test_one_that_was_tampered_with_is_refused(self, model: Path, tmp_path: Path, change: str, says: str) -> None:
        path = tmp_path / "changed.zip"
        with zipfile.ZipFile(model) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        self.tamper(files, change)
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        if change == "truncated":
            path.write_bytes(path.read_bytes()[:-500])
        result = CliRunner().invoke(app, ["import", str(path), "-w", str(tmp_path / "imported")])
        assert result.exit_code == 2, result.output
        assert says in " ".join(result.output.split())
        assert not (tmp_path / "imported" / "workspace.json").exists()
        assert not (tmp_path / "outside.txt").exists()

    def test_names_and_workspaces_in_the_way_are_refused(
        self, model: Path, complete: Workspace, tmp_path: Path
    ) -> None:
        for words, says in [
            (["export", tmp_path / "model.tar", "-w", complete.root], "ends in .zip"),
            (["import", model, "-w", complete.root], "is a workspace already"),
            (["import", tmp_path / "absent.zip", "-w", tmp_path / "new"], "does not exist"),
        ]:
            result = CliRunner().invoke(app, [str(word) for word in words])
            assert result.exit_code == 2
            assert says in " ".join(result.output.split())


def test_every_prediction_says_how_far_it_can_be_trusted(complete: Workspace, dataset: Path, tmp_path: Path) -> None:
    run("select", "-w", complete.root, "--any-cost")
    run("ensemble-predict", "-w", complete.root, "-o", tmp_path, "--save-uncertainty", "--device", "cpu")
    members = read_json(Ensemble, complete.ensemble_path).members
    assert all(member.temperature != 1 for member in members)
    for case in ("case06", "case07"):
        quality = json.loads((tmp_path / "quality" / f"{case}.json").read_text())
        low, high = quality["interval"]
        assert low <= quality["predicted_dice"] <= high
        assert quality["seconds"] > 0
        assert [label["name"] for label in quality["labels"]] == ["shell", "core"]
        segmentation = read_segmentation(tmp_path / f"{case}.nii.gz")
        voxel = segmentation.geometry.voxel_volume / 1000
        assert quality["labels"][1]["millilitres"] == pytest.approx((segmentation.array == 2).sum() * voxel)
        differing = read_image([tmp_path / f"{case}.uncertainty.nii.gz"])
        assert differing.geometry.differences(segmentation.geometry) == []
        assert 0 <= differing.array.min() < differing.array.max() <= 1
    # an image of noise is not like the training cases
    noise = tmp_path / "in" / "noise_0000.nii.gz"
    image = read_image([dataset / "imagesTs" / "case06_0000.nii.gz"])
    write_image(noise, replace(image, array=np.random.default_rng(0).normal(0, 1, image.array.shape)))
    result = run("ensemble-predict", "-w", complete.root, "-i", noise.parent, "-o", tmp_path / "odd", "--device", "cpu")
    assert "look at noise: " in " ".join(result.output.split())
    table = run("evaluate", "-r", dataset / "labelsTs", "-p", tmp_path, "-o", tmp_path / "scores.csv").output
    assert "core" in table
    assert "seconds" in (tmp_path / "scores.csv").read_text().splitlines()[0]
