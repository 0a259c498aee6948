"""nnU-Net's selection is reproduced, and the rules hold on cross-validations made by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import DatasetError, SettingsError
from autoseg.evaluation.report import Evaluation
from autoseg.evaluation.selection import Candidate, select
from autoseg.geometry import Geometry
from autoseg.image import Segmentation, write_segmentation
from autoseg.inference.export import write_probabilities
from autoseg.labels import LabelScheme
from autoseg.postprocessing.steps import PostprocessingStep

LABELS = LabelScheme.from_table({"background": 0, "a": 1, "b": 2}, where="test")
JOINT = PostprocessingStep(name="keep_largest", values=(1, 2))


def keep(value: int) -> PostprocessingStep:
    return PostprocessingStep(name="keep_largest", values=(value,))


class TestGolden:
    """A cross-validation of ten cases that nnU-Net's own find_best_configuration was run on."""

    @pytest.fixture(scope="class")
    @staticmethod
    def folder(shared_dir: Path) -> Path:
        return shared_dir / "golden" / "selection"

    def test_every_candidate_winner_and_postprocessing(self, folder: Path) -> None:
        expected = json.loads((folder / "expected.json").read_text())
        candidates = {name: folder / name for name in ("2d", "3d_fullres")}
        selection = select(candidates, folder / "labels", rule="nnunet")
        assert [c.name for c in selection.candidates] == ["2d", "3d_fullres", "2d + 3d_fullres"]
        for candidate in selection.candidates:
            models = [f"nnUNetTrainer__nnUNetPlans__{member}" for member in candidate.members]
            name = models[0] if len(models) == 1 else f"ensemble___{'___'.join(models)}___0_1_2_3_4"
            self.compare(candidate.evaluation, expected["summaries"][name])
        best = expected["selection"]["best_model_or_ensemble"]
        assert selection.members == tuple(m["configuration"] for m in best["selected_model_or_models"])
        assert selection.score_before == pytest.approx(best["result_on_crossval_pre_pp"], abs=1e-12)
        assert selection.score_after == pytest.approx(best["result_on_crossval_post_pp"], abs=1e-12)
        (search,) = expected["postprocessing"].values()
        values = [kwargs["labels_or_regions"] for kwargs in search["postprocessing_kwargs"]]
        assert [list(step.values) for step in selection.postprocessing] == [
            v if isinstance(v, list) else [v] for v in values
        ]
        for name, means in zip("abc", search["postprocessed"]["mean"].values(), strict=True):
            assert selection.evaluation.labels[name]["dice"] == pytest.approx(means["Dice"], abs=1e-12)
        assert selection.nested_score is None
        assert selection.score == selection.score_after

    @staticmethod
    def compare(evaluation: Evaluation, summary: dict) -> None:  # type: ignore[type-arg]
        assert evaluation.mean["dice"] == pytest.approx(summary["foreground_mean"]["Dice"], abs=1e-12)
        assert evaluation.mean["iou"] == pytest.approx(summary["foreground_mean"]["IoU"], abs=1e-12)
        rows = {(row.case, str(row.values[0])): row for row in evaluation.cases}
        assert len(rows) == 3 * len(summary["metric_per_case"])
        for case in summary["metric_per_case"]:
            for value, metrics in case["metrics"].items():
                row = rows[case["case"].removesuffix(".nii.gz"), value]
                counts = (row.true_positives, row.false_positives, row.false_negatives, row.true_negatives)
                assert counts == tuple(metrics[k] for k in ("TP", "FP", "FN", "TN"))
                assert row.dice == pytest.approx(metrics["Dice"], abs=1e-12)

    def test_the_nested_rule_chooses_the_same_here(self, folder: Path) -> None:
        candidates = {name: folder / name for name in ("2d", "3d_fullres")}
        nested = select(candidates, folder / "labels")
        assert nested.rule == "nested"
        assert nested.members == ("2d", "3d_fullres")
        assert nested.score == nested.nested_score
        assert nested.score_after is not None
        assert nested.nested_score == pytest.approx(nested.score_after, abs=0.002)
        assert nested.nested_interval is not None
        assert nested.nested_interval[0] < nested.nested_score < nested.nested_interval[1]


class CrossValidation:
    """Rows of voxels as cases; files are written where select looks for them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def references(self, cases: dict[str, list[int]]) -> dict[str, Path]:
        return self.write("labels", cases)

    def write(self, name: str, cases: dict[str, list[int]]) -> dict[str, Path]:
        paths = {}
        for case, values in cases.items():
            array = np.asarray([values], dtype=np.uint8)
            paths[case] = self.root / name / f"{case}.nrrd"
            geometry = Geometry(shape=array.shape, spacing=(1.0, 1.0))
            write_segmentation(paths[case], Segmentation(array=array, geometry=geometry))
        return paths

    def candidate(
        self, name: str, cases: dict[str, list[int]], folds: dict[str, str] | None = None, confidence: float = 0.0
    ) -> Candidate:
        probabilities = {}
        for case, values in cases.items() if confidence else ():
            likely = np.eye(3, dtype=np.float32)[:, np.asarray([values])]
            probabilities[case] = self.root / name / f"{case}.probabilities.b2nd"
            write_probabilities(probabilities[case], likely * confidence + (1 - confidence) / 3)
        return Candidate(
            name=name, segmentations=self.write(name, cases), probabilities=probabilities, folds=folds or {}
        )


@pytest.fixture
def crossval(tmp_path: Path) -> CrossValidation:
    return CrossValidation(tmp_path)


def test_the_first_of_equals_wins_and_singles_come_before_pairs(crossval: CrossValidation) -> None:
    truth = {"x": [1, 1, 0, 2, 2]}
    candidates = [crossval.candidate(name, truth, confidence=0.5) for name in ("first", "second")]
    selection = select(candidates, crossval.references(truth), LABELS, rule="nnunet")
    assert [c.dice for c in selection.candidates] == [1.0, 1.0, 1.0]
    assert selection.members == ("first",)
    assert selection.postprocessing == ()


def test_a_pair_averages_probabilities_and_may_win(crossval: CrossValidation) -> None:
    references = crossval.references({"x": [1, 1, 2, 2], "y": [1, 1, 2, 2]})
    sure = crossval.candidate("sure", {"x": [1, 1, 2, 2], "y": [1, 1, 2, 2]}, confidence=0.9)
    # its file says otherwise than its probabilities: singles are scored by their segmentations
    poor = crossval.write("sure", {"x": [1, 1, 0, 0], "y": [1, 1, 0, 2]})
    left = Candidate(name="sure", segmentations=poor, probabilities=sure.probabilities)
    right = crossval.candidate("unsure", {"x": [0, 0, 2, 2], "y": [0, 0, 2, 2]}, confidence=0.1)
    selection = select([left, right], references, LABELS, rule="nnunet")
    assert selection.members == ("sure", "unsure")
    assert selection.score_before == 1.0


def test_a_pair_without_probabilities_is_not_tried_and_that_is_said(crossval: CrossValidation) -> None:
    truth = {"x": [1, 0, 2]}
    candidates = [crossval.candidate("2d", truth), crossval.candidate("3d", truth, confidence=0.5)]
    selection = select(candidates, crossval.references(truth), LABELS, rule="nnunet")
    assert len(selection.candidates) == 2
    assert any("2d + 3d was not tried" in reason for reason in selection.reasons)


def test_the_joint_step_is_vetoed_by_one_label(crossval: CrossValidation) -> None:
    # One object without the false 1s: a gains 0.2 on average. From case y a true 2 goes as well: b loses 1 - 6/7.
    references = crossval.references({"x": [1, 1, 1, 0, 0, 0, 0, 0, 0, 0], "y": [1, 1, 1, 2, 2, 2, 0, 2, 0, 0]})
    predicted = {"x": [1, 1, 1, 0, 1, 1, 0, 0, 0, 0], "y": [1, 1, 1, 2, 2, 2, 0, 2, 0, 1]}
    selection = select([crossval.candidate("2d", predicted)], references, LABELS, rule="nnunet")
    assert selection.postprocessing == (keep(1),)
    assert selection.score_after == 1.0
    assert any("b loses" in reason for reason in selection.reasons)


def test_the_joint_step_is_kept_when_nobody_loses(crossval: CrossValidation) -> None:
    references = crossval.references({"x": [1, 1, 2, 2, 0, 0, 0]})
    predicted = {"x": [1, 1, 2, 2, 0, 1, 0]}
    selection = select([crossval.candidate("2d", predicted)], references, LABELS, rule="nnunet")
    assert selection.postprocessing == (JOINT,)


def test_one_label_has_no_second_step(crossval: CrossValidation) -> None:
    labels = LabelScheme.from_table({"background": 0, "a": 1}, where="test")
    references = crossval.references({"x": [1, 1, 0, 1]})
    selection = select([crossval.candidate("2d", {"x": [1, 1, 0, 1]})], references, labels, rule="nnunet")
    assert len([reason for reason in selection.reasons if "omponent" in reason]) == 1


def test_the_nested_score_is_not_flattered_by_the_search(crossval: CrossValidation) -> None:
    # Each candidate is perfect on the other fold than the one it fails on; a third is mediocre everywhere.
    truth = {"x": [1, 1, 2, 2], "y": [1, 1, 2, 2]}
    folds = {"x": "fold0", "y": "fold1"}
    good, bad = [1, 1, 2, 2], [0, 1, 0, 2]
    candidates = [
        crossval.candidate("left", {"x": good, "y": bad}, folds),
        crossval.candidate("right", {"x": bad, "y": good}, folds),
    ]
    selection = select(candidates, crossval.references(truth), LABELS)
    optimistic = (1 + 2 / 3) / 2
    assert selection.members == ("left",)
    assert selection.score_after == pytest.approx(optimistic)
    # without x, "right" is chosen, which fails on x; without y, "left", which fails on y
    assert selection.score == selection.nested_score == pytest.approx(2 / 3)
    assert "winners right, left" in selection.reasons[-1]


@pytest.mark.parametrize("folds", [{}, {"x": "fold0", "y": "fold0"}, {"x": "fold0"}])
def test_without_two_folds_the_score_is_not_nested_and_that_is_said(
    crossval: CrossValidation, folds: dict[str, str]
) -> None:
    truth = {"x": [1, 2], "y": [1, 2]}
    selection = select([crossval.candidate("2d", truth, folds)], crossval.references(truth), LABELS)
    assert selection.nested_score is None
    assert selection.score == selection.score_after
    assert "not nested" in selection.reasons[-1]


def test_what_cannot_be_selected_is_refused(crossval: CrossValidation) -> None:
    truth = {"x": [1, 2], "y": [1, 2]}
    references, whole = crossval.references(truth), crossval.candidate("2d", truth)
    with pytest.raises(SettingsError, match="at least one"):
        select([], references, LABELS)
    with pytest.raises(SettingsError, match="share a name"):
        select([whole, whole], references, LABELS)
    with pytest.raises(SettingsError, match=r"lacks 1 case\(s\): y"):
        select([crossval.candidate("3d", {"x": [1, 2]})], references, LABELS)
    with pytest.raises(SettingsError, match="needs the labels"):
        select([whole], references)
    with pytest.raises(SettingsError, match="selection rule"):
        select([whole], references, LABELS, rule="best")  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="has shape"):
        select([crossval.candidate("3d", {"x": [1, 2, 0], "y": [1, 2]})], references, LABELS)


def test_a_case_that_two_folds_held_out_is_refused(crossval: CrossValidation, tmp_path: Path) -> None:
    for fold in ("fold0", "fold1/validation"):
        crossval.write(f"2d/{fold}", {"x": [1, 2]})
    with pytest.raises(DatasetError, match="held out twice"):
        Candidate.from_folder("2d", tmp_path / "2d")
    with pytest.raises(DatasetError, match="has no folders"):
        Candidate.from_folder("2d", tmp_path / "2d" / "fold0")


def test_selection_does_not_import_torch() -> None:
    code = "import sys, autoseg.evaluation.selection; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
