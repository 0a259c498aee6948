"""Pivots, intervals and challenge scores follow from the rows; nnU-Net's summary is nnU-Net's."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import DatasetError, SettingsError
from autoseg.evaluation.folder import evaluate_folder
from autoseg.evaluation.intervals import bootstrap_means, paired_p_value
from autoseg.evaluation.measures import Measuring, parse_metrics
from autoseg.evaluation.publishing import collect_cases, publish, read_groups
from autoseg.evaluation.report import Evaluation, read_evaluation, summarize, with_groups, with_spread, write_evaluation
from autoseg.evaluation.summaries import weighted_views, whole_heart
from autoseg.evaluation.tables import (
    compare,
    long_table,
    pivot_by_group,
    pivot_by_label,
    write_long_table,
    write_patient_table,
)
from autoseg.geometry import Geometry
from autoseg.image import Segmentation, write_segmentation
from autoseg.interop.nnunet_summary import write_summary

LABELS = {"background": 0, "lv": 1, "rv": 2, "myo": 3}
GROUPS = {f"case{n}": {"phase": ("ED", "ES")[n % 2], "view": ("SA", "LA")[n // 4 % 2]} for n in range(8)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("evaluation")
    rng = np.random.default_rng(3)
    for n in range(8):
        reference = np.repeat(np.repeat(rng.integers(0, 4, (3, 4, 4)), 3, axis=1), 3, axis=2).astype(np.uint8)
        if n == 5:
            reference[reference == 3] = 0
        prediction = np.where(rng.random(reference.shape) < 0.04 * (n + 1), 1, reference).astype(np.uint8)
        for name, array in (("labels", reference), ("predictions", prediction)):
            geometry = Geometry(shape=array.shape, spacing=(3.0, 1.0, 1.0))
            write_segmentation(root / name / f"case{n}.nii.gz", Segmentation(array=array, geometry=geometry))
    (root / "dataset.json").write_text(json.dumps({"labels": LABELS, "file_ending": ".nii.gz"}))
    return root / "labels", root / "predictions"


@pytest.fixture(scope="module")
def evaluation(folders: tuple[Path, Path]) -> Evaluation:
    measuring = Measuring(metrics=parse_metrics("all"))
    return with_spread(evaluate_folder(*folders, measuring=measuring, groups=GROUPS))


def test_the_long_table_has_every_value_once(evaluation: Evaluation, tmp_path: Path) -> None:
    entries = long_table(evaluation)
    assert len(entries) == len({(e.case, e.label, e.metric) for e in entries}) == 8 * 3 * len(evaluation.metrics)
    write_long_table(evaluation, tmp_path / "long.csv")
    with (tmp_path / "long.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["case", "label", "phase", "view", "domain", "metric", "value"]
    assert float(rows[0]["value"]) == evaluation.cases[0].dice
    assert rows[0]["phase"] == "ED"


def test_pivots_can_be_recomputed_from_the_rows(evaluation: Evaluation) -> None:
    pivot = pivot_by_group(evaluation, ("view", "phase"), "dice")
    assert pivot.rows == ("LA / ED", "LA / ES", "SA / ED", "SA / ES", "all")
    assert pivot.columns == ("lv", "rv", "myo", "mean of labels")
    chosen = [row for row in evaluation.cases if row.label == "lv" and row.groups == {"view": "LA", "phase": "ED"}]
    dice = [row.dice for row in chosen]
    assert pivot.cells[0][0].mean == pytest.approx(np.mean(dice))
    assert pivot.cells[0][0].deviation == pytest.approx(np.std(dice, ddof=1))
    pooled = [row.dice for row in evaluation.cases if row.label == "rv"]
    assert pivot.cells[-1][1].mean == pytest.approx(np.mean(pooled))
    for column in range(4):
        means = [row[column].mean for row in pivot.cells[:-1]]
        assert [row[column].is_best for row in pivot.cells] == [*(mean == max(means) for mean in means), False]
    assert pivot.markdown().count("**") == 8


def test_distances_are_best_where_they_are_small(evaluation: Evaluation) -> None:
    worse = replace(evaluation, cases=tuple(replace(r, metrics=r.metrics | {"hd": 99.0}) for r in evaluation.cases))
    table = compare({"good": evaluation, "bad": worse}, ["dice", "hd"])
    assert [[cell.is_best for cell in row] for row in table.cells] == [[True, True], [True, False]]
    assert [row[1].mean for row in table.cells][1] == 99
    assert "| good | **" in table.markdown()


def test_the_label_table_names_the_mean_over_labels(evaluation: Evaluation) -> None:
    table = pivot_by_label(evaluation)
    assert table.rows == ("lv", "rv", "myo", "mean of labels")
    assert table.cells[2][0].count == 7  # no myo in case 5
    assert evaluation.undefined["myo"] == 1
    upright = table.upright()
    assert upright.columns == table.rows
    assert upright.cells[0] == tuple(row[0] for row in table.cells)


def test_intervals_hold_the_mean_of_a_known_distribution() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        scores = rng.normal(0.8, 0.1, (40, 1))
        ((low, high),), overall = bootstrap_means(scores, resamples=400, seed=trial)  # type: ignore[misc]
        assert overall == pytest.approx((low, high))
        inside += low <= 0.8 <= high
    assert 0.90 <= inside / 200 <= 0.98
    assert bootstrap_means(np.asarray([[0.5]])) == ([None], None)


def test_the_paired_test_is_exact_for_few_cases_and_keeps_its_level_for_many() -> None:
    assert paired_p_value(np.asarray([1.0, 1.0, 1.0])) == pytest.approx(2 / 8)
    assert paired_p_value(np.zeros(5)) == 1
    rng = np.random.default_rng(1)
    p_values = [paired_p_value(rng.normal(size=30), resamples=500, seed=n) for n in range(300)]
    assert 0.02 <= np.mean(np.asarray(p_values) <= 0.05) <= 0.09
    assert paired_p_value(rng.normal(1, 1, 40)) < 0.001


def test_the_confusion_matrix_sums_to_all_voxels(evaluation: Evaluation) -> None:
    matrix = evaluation.confusion
    assert matrix is not None
    assert matrix.names == ("background", "lv", "rv", "myo")
    assert sum(map(sum, matrix.counts)) == 8 * 3 * 12 * 12
    for position, label in enumerate(("lv", "rv", "myo"), start=1):
        rows = [row for row in evaluation.cases if row.label == label]
        assert matrix.counts[position][position] == sum(row.true_positives for row in rows)


def test_both_whole_heart_scores(evaluation: Evaluation) -> None:
    scores = {(s.metric, s.definition): s for s in whole_heart(evaluation)}
    rows = [row for row in evaluation.cases if row.case == "case2"]
    assert scores["dice", "mean of structures"].cases["case2"] == pytest.approx(np.mean([row.dice for row in rows]))
    shared = sum(row.true_positives for row in rows)
    sizes = sum(2 * row.true_positives + row.false_positives + row.false_negatives for row in rows)
    unions = sum(row.true_positives + row.false_positives + row.false_negatives for row in rows)
    assert scores["dice", "generalized"].cases["case2"] == pytest.approx(2 * shared / sizes)
    assert scores["iou", "generalized"].cases["case2"] == pytest.approx(shared / unions)
    generalized = scores["dice", "generalized"]
    assert generalized.deviation == pytest.approx(np.std(list(generalized.cases.values()), ddof=1))


def test_mms2_weights(evaluation: Evaluation) -> None:
    means = {}
    for view in ("SA", "LA"):
        labels = {
            label: [r.dice for r in evaluation.cases if r.label == label and r.groups["view"] == view and r.dice]
            for label in ("lv", "rv", "myo")
        }
        means[view] = np.mean([np.mean(values) for values in labels.values()])
    score = weighted_views(evaluation, {"SA": 0.75, "LA": 0.25})
    assert score == pytest.approx(0.75 * means["SA"] + 0.25 * means["LA"])
    with pytest.raises(SettingsError, match="there are: LA, SA"):
        weighted_views(evaluation, {"4CH": 1.0})


def test_the_published_mms2_average_is_reproduced() -> None:
    assert pytest.approx(0.90269, abs=5e-6) == 0.75 * 0.90368 + 0.25 * 0.89973
    counts = {"values": (1,), **dict.fromkeys(("true_positives", "false_positives", "false_negatives"), 0)}
    from autoseg.evaluation.report import CaseScore

    rows = [
        CaseScore(case=view, label="rv", dice=dice, iou=dice, true_negatives=0, groups={"view": view}, **counts)  # type: ignore[arg-type]
        for view, dice in (("SA", 0.90368), ("LA", 0.89973))
    ]
    assert weighted_views(summarize(rows), {"SA": 0.75, "LA": 0.25}) == pytest.approx(0.90269, abs=5e-6)


def test_the_patient_table_has_both_grids_and_averages_without_what_is_undefined(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    timed = replace(evaluation, cases=tuple(replace(row, seconds=2.5) for row in evaluation.cases))
    write_patient_table({"tt": evaluation, "inf": timed}, tmp_path / "patients.csv")
    with (tmp_path / "patients.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {f"{grid}_{label}_{m}" for grid in ("tt", "inf") for label in ("lv", "rv", "myo")
            for m in ("dice", "iou", "recall", "specificity")} <= set(rows[0])  # fmt: skip
    assert [row["patientId"] for row in rows] == [*(f"case{n}" for n in range(8)), "average"]
    assert rows[5]["inf_myo_dice"] == rows[5]["inf_myo_iou"] == rows[5]["tt_myo_iou"] == ""
    values = [float(row["inf_myo_dice"]) for row in rows[:-1] if row["inf_myo_dice"]]
    assert float(rows[-1]["inf_myo_dice"]) == pytest.approx(np.mean(values))
    assert float(rows[-1]["inf_time"]) == 2.5


def test_json_has_metrics_beside_dice_and_is_read_back(evaluation: Evaluation, tmp_path: Path) -> None:
    write_evaluation(evaluation, tmp_path / "scores.json")
    plain = json.loads((tmp_path / "scores.json").read_text())
    assert plain["cases"][0]["hd95"] == evaluation.cases[0].metrics["hd95"]
    assert plain["labels"]["lv"]["nsd@1mm"] == evaluation.labels["lv"]["nsd@1mm"]
    assert read_evaluation(tmp_path / "scores.json") == evaluation


def test_the_report_holds_every_table_and_the_cases_their_files(
    evaluation: Evaluation, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    publish(evaluation, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"scores.csv", "long.csv", "patients.csv", "summary.json", "report.md", "by_label.csv"} <= names
    assert {"confusion.csv", "confusion.png", "by_view_phase_dice.csv", "by_phase_hd95.csv"} <= names
    summary = json.loads((tmp_path / "summary.json").read_text())
    low, high = summary["intervals"]["lv"]["dice"]
    assert low < summary["labels"]["lv"]["dice"] < high
    assert "Left out: myo in 1 case(s)" in (tmp_path / "report.md").read_text()
    collect_cases(evaluation, *folders, tmp_path / "cases")
    assert {path.name for path in (tmp_path / "cases" / "case3").iterdir()} == {
        "reference.nii.gz",
        "prediction.nii.gz",
        "scores.json",
    }
    scores = json.loads((tmp_path / "cases" / "case3" / "scores.json").read_text())
    assert set(scores) == {"lv", "rv", "myo"}


def test_domains_have_intervals(evaluation: Evaluation, tmp_path: Path) -> None:
    domains = with_groups(evaluation, {f"case{n}": {"domain": "seen" if n < 5 else "unseen"} for n in range(8)})
    pivot = pivot_by_group(domains, ("domain",), "dice")
    assert pivot.rows == ("seen", "unseen", "all")
    for row in pivot.cells:
        low, high = row[-1].interval or (1, 0)
        assert low <= (row[-1].mean or 0) <= high
    pivot.write_csv(tmp_path / "domains.csv")
    header = (tmp_path / "domains.csv").read_text().splitlines()[0]
    assert "lv mean,lv std,lv n,lv low,lv high" in header


def test_groups_come_from_a_table(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("case,image,label,phase,view\na,a.nii,l.nii,ED,\nb,b.nii,,ES,SA\n")
    assert read_groups(tmp_path / "cases.csv") == {"a": {"phase": "ED"}, "b": {"phase": "ES", "view": "SA"}}
    (tmp_path / "wrong.csv").write_text("patient,phase\na,ED\n")
    with pytest.raises(DatasetError, match="needs a column case"):
        read_groups(tmp_path / "wrong.csv")


def test_a_prediction_that_lies_elsewhere_is_reported(folders: tuple[Path, Path], tmp_path: Path) -> None:
    array = np.ones((3, 12, 12), dtype=np.uint8)
    for name, origin in (("labels", (0.0, 0.0, 0.0)), ("predictions", (5.0, 0.0, 0.0))):
        geometry = Geometry(shape=array.shape, spacing=(3.0, 1.0, 1.0), origin=origin)
        write_segmentation(tmp_path / name / "a.nii.gz", Segmentation(array=array, geometry=geometry))
    (problem,) = evaluate_folder(tmp_path / "labels", tmp_path / "predictions").problems
    assert "lies elsewhere: origin" in problem


def test_seconds_come_from_what_the_prediction_left(folders: tuple[Path, Path], tmp_path: Path) -> None:
    reference, _ = folders
    (tmp_path / "quality").mkdir()
    (tmp_path / "quality" / "case1.json").write_text('{"seconds": 4.5}')
    (tmp_path / "quality" / "case2.json").write_text("[]")
    evaluation = evaluate_folder(reference, tmp_path)
    assert {row.seconds for row in evaluation.cases if row.case == "case1"} == {4.5}
    assert {row.seconds for row in evaluation.cases if row.case == "case2"} == {None}


@pytest.mark.parametrize(
    "model", ["Dataset901_AnisoCT__nnUNetPlans__2d", "Dataset905_Regions__nnUNetPlans__3d_fullres"]
)
def test_the_summary_equals_nnunets(shared_dir: Path, tmp_path: Path, model: str) -> None:
    predictions = shared_dir / "golden" / "models" / model / "predictions"
    expected = json.loads((predictions / "summary.json").read_text())
    references = tmp_path / "labelsTr"
    references.mkdir()
    source = shared_dir / "golden" / "raw" / model.partition("__")[0]
    for case in expected["metric_per_case"]:
        name = Path(case["reference_file"]).name
        (references / name).write_bytes((source / "labelsTr" / name).read_bytes())
    (tmp_path / "dataset.json").write_bytes((source / "dataset.json").read_bytes())
    evaluation = evaluate_folder(references, predictions)
    path = tmp_path / "summary.json"
    write_summary(evaluation, path, reference_dir=references, prediction_dir=predictions, file_ending=".nii.gz")
    found = json.loads(path.read_text())
    assert list(found) == sorted(found)
    assert found["foreground_mean"] == pytest.approx(expected["foreground_mean"], nan_ok=True, abs=1e-12)
    assert found["mean"].keys() == expected["mean"].keys()
    for key, means in expected["mean"].items():
        assert found["mean"][key] == pytest.approx(means, nan_ok=True, abs=1e-12)
    for mine, theirs in zip(found["metric_per_case"], expected["metric_per_case"], strict=True):
        assert Path(mine["prediction_file"]).name == Path(theirs["prediction_file"]).name
        for key, metrics in theirs["metrics"].items():
            assert mine["metrics"][key] == pytest.approx(metrics, nan_ok=True, abs=1e-12)


def test_the_summary_has_bare_nan_where_nothing_is_defined(folders: tuple[Path, Path], tmp_path: Path) -> None:
    evaluation = evaluate_folder(*folders)
    rows = tuple(row for row in evaluation.cases if (row.case, row.label) == ("case5", "myo"))
    nothing = [replace(row, true_positives=0, false_positives=0, false_negatives=0) for row in rows]
    path = tmp_path / "summary.json"
    write_summary(summarize(nothing), path, reference_dir=tmp_path, prediction_dir=tmp_path, file_ending=".nrrd")
    assert '"Dice": NaN' in path.read_text()
    assert math.isnan(json.loads(path.read_text())["foreground_mean"]["IoU"])
