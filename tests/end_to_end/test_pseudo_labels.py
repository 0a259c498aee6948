"""Sparse annotation as a user would train it: every third slice is drawn, a second round completes the others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.image import Segmentation, read_segmentation, write_segmentation
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.preprocessing.previous_stage import read_previous
from autoseg.preprocessing.store import CaseStore
from autoseg.workspace import Workspace

TRAINED = ("case01", "case02", "case03", "case04", "case05")
SETTINGS = ["--iterations", "60", "--device", "cpu", "--workers", "0", "--set", "validation_iterations=1"]
SETTINGS += ["--set", "optimizer=adamw", "--set", "learning_rate=0.01", "--set", "case_weights=annotated"]


def run(*words: str | Path, expected: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == expected, result.output
    return " ".join(result.output.split())


@pytest.mark.slow
def test_a_round_of_pseudo_labels_completes_what_was_not_annotated(ball_dataset: Path, tmp_path: Path) -> None:
    dataset = Path(shutil.copytree(ball_dataset, tmp_path / "dataset"))
    truth = {}
    for path in sorted((dataset / "labelsTr").iterdir()):
        label = read_segmentation(path)
        truth[path.name.removesuffix(".nii.gz")] = label.array
        sparse = np.full_like(label.array, 3)
        sparse[::3] = label.array[::3]
        write_segmentation(path, Segmentation(array=sparse, geometry=label.geometry))
    declaration = json.loads((dataset / "dataset.json").read_text())
    declaration["labels"]["ignore"] = 3
    (dataset / "dataset.json").write_text(json.dumps(declaration))
    folds = [{"train": list(TRAINED), "val": ["case00"]}]
    (dataset / "splits_final.json").write_text(json.dumps(folds))
    workspace = plan_and_preprocess(
        dataset, workspace=tmp_path / "workspace", gpu_memory_gb=0.2, configurations=("3d_fullres",), workers=0
    )
    second = ["train", "3d_fullres", "fold0", "-w", workspace.root, "--as", "round2", *SETTINGS]
    second += ["--set", "pseudo_labels=3d_fullres"]
    told = run(*second, expected=2)
    assert "fold0 has no final checkpoint. Train it first: autoseg train 3d_fullres fold0" in told
    run("train", "3d_fullres", "fold0", "-w", workspace.root, *SETTINGS)
    run(*second)
    _check_labels(workspace, truth)
    made = {p: p.stat().st_mtime_ns for p in workspace.run("3d_fullres@round2", 0).pseudo_labels.iterdir()}
    run(*second)  # all is done: nothing is made again
    assert made == {p: p.stat().st_mtime_ns for p in made}
    scores = [json.loads(workspace.run(name, 0).scores.read_text()) for name in ("3d_fullres", "3d_fullres@round2")]
    assert [score["mean"]["dice"] for score in scores] == pytest.approx([1, 1], abs=0.35)


def _check_labels(workspace: Workspace, truth: dict[str, np.ndarray]) -> None:
    folder = workspace.run("3d_fullres@round2", 0).pseudo_labels
    assert sorted(p.name for p in folder.glob("*.b2nd")) == [f"{case}.b2nd" for case in TRAINED]
    store = CaseStore(workspace.preprocessed_dir("3d_fullres"))
    for case_id in TRAINED:
        before = store.open(case_id).load().segmentation
        assert before is not None
        after = read_previous(folder / f"{case_id}.b2nd", before.shape)
        np.testing.assert_array_equal(after[before != 3], before[before != 3])
        share = [np.mean(labels == 3) for labels in (before, after)]
        assert share[0] > 0.5
        assert share[1] < 0.5 * share[0]
        if before.shape == truth[case_id].shape:  # on the same grid: what was filled in is right
            filled = (before == 3) & (after != 3)
            assert np.mean(after[filled] == truth[case_id][filled]) > 0.9
