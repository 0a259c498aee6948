"""All folds of a configuration: means, standard deviations, and when they are told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.evaluation.report import CaseScore, summarize, write_evaluation
from autoseg.pipeline.cross_validation import cross_validation
from autoseg.splits import read_splits
from autoseg.workspace import Workspace

OPTIONS = ["--device", "cpu", "--workers", "0", "--iterations", "2", "--set", "validation_iterations=1"]


def score(case: str, label: str, dice: float | None) -> CaseScore:
    return CaseScore(
        case=case,
        label=label,
        dice=dice,
        iou=dice,
        values=(1,),
        true_positives=1,
        false_positives=0,
        false_negatives=0,
        true_negatives=0,
    )


def test_means_and_deviations_are_those_of_the_folds(workspace: Workspace) -> None:
    rng = np.random.default_rng(0)
    folds = read_splits(workspace.splits_path)
    dice = {case: rng.random(2) for fold in folds for case in fold.val}
    for number, fold in enumerate(folds):
        assert cross_validation(workspace, "2d") is None  # one is missing
        path = workspace.run("2d", number).scores
        path.parent.mkdir(parents=True)
        rows = [score(case, name, float(dice[case][i])) for case in fold.val for i, name in enumerate(("ball", "core"))]
        write_evaluation(summarize(rows), path)
    found = cross_validation(workspace, "2d")
    assert found is not None
    means = np.array([np.mean([dice[case] for case in fold.val], axis=0) for fold in folds])
    for index, name in enumerate(("ball", "core")):
        assert found.targets[name].mean == pytest.approx(means[:, index].mean())
        assert found.targets[name].deviation == pytest.approx(means[:, index].std(ddof=1))
    assert found.dice.folds == pytest.approx(means.mean(axis=1))
    assert found.dice.deviation == pytest.approx(means.mean(axis=1).std(ddof=1))
    written = json.loads((workspace.results_dir("2d") / "cross_validation.json").read_text())
    assert written["dice"]["mean"] == found.dice.mean


def test_undefined_folds_are_left_out(workspace: Workspace) -> None:
    for number, dice in enumerate([None, 0.5, None, 0.75, None][: len(read_splits(workspace.splits_path))]):
        path = workspace.run("2d", number).scores
        path.parent.mkdir(parents=True)
        write_evaluation(summarize([score(f"c{number}", "ball", dice)]), path)
    found = cross_validation(workspace, "2d")
    assert found is not None
    assert (found.targets["ball"].mean, found.targets["ball"].folds[:2]) == (0.625, (None, 0.5))
    assert "ball 0.625 ± 0.177" in found.summary()


def test_train_tells_of_all_folds_after_the_last(planned_cascade: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(planned_cascade, tmp_path / "workspace"))
    first, last = (
        CliRunner().invoke(app, ["train", "3d_lowres", fold, "-w", str(folder), *OPTIONS])
        for fold in ("fold0", "fold1")
    )
    assert first.exit_code == last.exit_code == 0, first.output + last.output
    assert "over 2 folds" not in first.output
    assert "3d_lowres over 2 folds: Dice " in " ".join(last.output.split())
    assert (folder / "results" / "3d_lowres" / "cross_validation.json").is_file()
