"""Folders are scored case by case: nothing is lost, nothing undefined becomes a number."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import DatasetError
from autoseg.evaluation.folder import evaluate_folder
from autoseg.evaluation.report import (
    CaseScore,
    mean_of_defined,
    read_evaluation,
    score_case,
    summarize,
    write_csv,
    write_evaluation,
)
from autoseg.geometry import Geometry
from autoseg.image import Segmentation, write_segmentation
from autoseg.labels import LabelScheme

LABELS = {"background": 0, "kidney": 1, "tumor": 2}


def write(path: Path, values: list[int], *, columns: int = 4) -> None:
    array = np.asarray(values, dtype=np.uint8).reshape(2, -1, columns)
    write_segmentation(path, Segmentation(array=array, geometry=Geometry(shape=array.shape, spacing=(1.0,) * 3)))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two cases by hand. a: kidney Dice 2*3/(4+3), tumor absent. b: kidney 1, tumor predicted but not there: 0."""
    reference, prediction = tmp_path / "labelsTr", tmp_path / "predictions"
    write(reference / "a.nii.gz", [1, 1, 1, 1, 0, 0, 0, 0])
    write(prediction / "a.nii.gz", [1, 1, 1, 0, 0, 0, 0, 0])
    write(reference / "b.nii.gz", [1, 1, 0, 0, 0, 0, 0, 0])
    write(prediction / "b.nii.gz", [1, 1, 0, 0, 0, 0, 2, 0])
    return reference, prediction


def declare(folder: Path) -> None:
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, "file_ending": ".nii.gz"}))


def test_scores_by_hand_with_labels_from_the_dataset(folders: tuple[Path, Path], tmp_path: Path) -> None:
    declare(tmp_path)
    evaluation = evaluate_folder(*folders)
    dice = {(row.case, row.label): row.dice for row in evaluation.cases}
    assert dice == {
        ("a", "kidney"): pytest.approx(6 / 7),
        ("a", "tumor"): None,
        ("b", "kidney"): 1.0,
        ("b", "tumor"): 0.0,
    }
    assert evaluation.labels["kidney"]["dice"] == pytest.approx((6 / 7 + 1) / 2)
    assert evaluation.labels["tumor"] == {"dice": 0.0, "iou": 0.0}
    assert evaluation.mean["dice"] == pytest.approx((6 / 7 + 1) / 4)
    assert evaluation.undefined == {"kidney": 0, "tumor": 1}
    assert evaluation.problems == ()


def test_labels_that_occur_where_none_are_declared(folders: tuple[Path, Path]) -> None:
    write(folders[1] / "extra.nii.gz", [7] * 8)  # without a reference it says nothing about labels
    assert list(evaluate_folder(*folders).labels) == ["1", "2"]


def test_dataset_json_inside_the_reference_folder_and_other_files_are_no_cases(
    folders: tuple[Path, Path],
) -> None:
    reference, prediction = folders
    declare(reference)
    (reference / "notes.txt").write_text("not an image")
    write(prediction / "extra.nii.gz", [0] * 8)
    (prediction / "prediction.json").write_text("{}")
    evaluation = evaluate_folder(reference, prediction)
    assert {row.case for row in evaluation.cases} == {"a", "b"}
    assert list(evaluation.labels) == ["kidney", "tumor"]


def test_a_missing_and_an_unreadable_prediction_count_as_zero_and_lose_nothing(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    declare(tmp_path)
    reference, prediction = folders
    (prediction / "a.nii.gz").unlink()
    write(reference / "c.nii.gz", [2, 0, 0, 0, 0, 0, 0, 0])
    (prediction / "c.nii.gz").write_bytes(b"not an image")
    evaluation = evaluate_folder(reference, prediction)
    dice = {(row.case, row.label): row.dice for row in evaluation.cases}
    assert dice["a", "kidney"] == dice["a", "tumor"] == dice["c", "tumor"] == 0
    assert dice["b", "kidney"] == 1
    assert evaluation.labels["kidney"]["dice"] == pytest.approx(1 / 3)
    assert len(evaluation.problems) == 2
    assert "case a has no prediction" in evaluation.problems[0]
    assert "c.nii.gz" in evaluation.problems[1]
    lost = next(row for row in evaluation.cases if (row.case, row.label) == ("a", "kidney"))
    assert (lost.true_positives, lost.false_negatives) == (0, 4)


def test_an_unreadable_reference_is_a_problem_of_that_case_only(folders: tuple[Path, Path]) -> None:
    reference, prediction = folders
    (reference / "a.nii.gz").write_bytes(b"not an image")
    evaluation = evaluate_folder(reference, prediction)
    assert {row.case for row in evaluation.cases} == {"b"}
    assert "case a is not scored" in evaluation.problems[0]


def test_a_pair_of_different_shape_is_refused_by_name(folders: tuple[Path, Path]) -> None:
    reference, prediction = folders
    write(prediction / "b.nii.gz", [1] * 8, columns=2)
    with pytest.raises(DatasetError, match=r"predictions/b.nii.gz has shape .* reference .*labelsTr/b.nii.gz"):
        evaluate_folder(reference, prediction)


def test_folders_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not a folder"):
        evaluate_folder(tmp_path / "absent", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no segmentation"):
        evaluate_folder(tmp_path / "empty", tmp_path)
    write(tmp_path / "references" / "a.nii.gz", [0] * 8)
    with pytest.raises(DatasetError, match="but background"):
        evaluate_folder(tmp_path / "references", tmp_path / "empty")


def test_predictions_in_another_format_are_found_by_case(folders: tuple[Path, Path]) -> None:
    reference, prediction = folders
    (prediction / "a.nii.gz").unlink()
    write(prediction / "a.nrrd", [1, 1, 1, 0, 0, 0, 0, 0])
    assert evaluate_folder(reference, prediction).problems == ()


def test_regions_overlap_and_ignored_voxels_do_not_count(tmp_path: Path) -> None:
    table = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    labels = LabelScheme.from_table(table, (1, 2), where="test")
    reference = np.array([[1, 2, 3, 0]])
    prediction = np.array([[2, 2, 1, 0]])
    whole, core = score_case("a", reference, prediction, labels)
    assert (whole.label, whole.dice) == ("whole", 1.0)
    assert core.dice == pytest.approx(2 / 3)
    assert whole.true_positives + whole.true_negatives == 3


def test_json_has_null_for_undefined_and_is_read_back(folders: tuple[Path, Path], tmp_path: Path) -> None:
    declare(tmp_path)
    evaluation = evaluate_folder(*folders)
    path = tmp_path / "out" / "scores.json"
    write_evaluation(evaluation, path)
    assert "NaN" not in path.read_text()
    table = json.loads(path.read_text())
    assert {"cases", "labels", "mean"} <= set(table)
    assert table["cases"][1]["case"] == "a"
    assert table["cases"][1]["label"] == "tumor"
    assert table["cases"][1]["dice"] is None
    assert table["labels"]["kidney"]["dice"] == evaluation.labels["kidney"]["dice"]
    assert table["mean"]["iou"] == evaluation.mean["iou"]
    assert read_evaluation(path) == evaluation


def test_csv_has_a_line_per_case_and_label(folders: tuple[Path, Path], tmp_path: Path) -> None:
    declare(tmp_path)
    write_csv(evaluate_folder(*folders), tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["case"], r["label"]) for r in rows] == [(c, n) for c in "ab" for n in ("kidney", "tumor")]
    assert rows[1]["dice"] == ""
    assert float(rows[2]["dice"]) == 1


def test_workers_change_nothing(folders: tuple[Path, Path]) -> None:
    assert evaluate_folder(*folders, workers=2) == evaluate_folder(*folders)


def test_means_of_nothing_are_undefined() -> None:
    assert mean_of_defined([None, None]) is None
    assert mean_of_defined([None, 0.5]) == 0.5
    empty = summarize([])
    assert empty.mean == {"dice": None, "iou": None}
    assert empty.labels == {}


def test_a_label_without_any_defined_score_does_not_spoil_the_mean() -> None:
    def row(label: str, dice: float | None) -> CaseScore:
        counts = dict.fromkeys(("true_positives", "false_positives", "false_negatives", "true_negatives"), 0)
        return CaseScore(case="a", label=label, dice=dice, iou=dice, values=(1,), **counts)

    evaluation = summarize([row("a", 0.5), row("b", None)])
    assert evaluation.labels["b"]["dice"] is None
    assert evaluation.mean["dice"] == 0.5
