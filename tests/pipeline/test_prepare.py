"""Planning and preprocessing again: what is complete and unchanged stays, what was edited or trained stays."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoseg import arrays
from autoseg.codec import write_json
from autoseg.errors import PlanError, SettingsError
from autoseg.pipeline import forecast
from autoseg.pipeline import prepare as module
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.preprocessing.store import CaseStore
from autoseg.splits import read_splits
from autoseg.workspace import Workspace


@pytest.fixture
def dataset(ball_dataset: Path, tmp_path: Path) -> Path:
    # Copied with its times: a case is taken for changed when they differ.
    return Path(shutil.copytree(ball_dataset, tmp_path / "dataset"))


def prepare(dataset: Path, workspace: Workspace, **options: object) -> Workspace:
    return plan_and_preprocess(dataset, workspace=workspace.root, gpu_memory_gb=0.2, workers=0, **options)  # type: ignore[arg-type]


def state(workspace: Workspace) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in workspace.root.glob("preprocessed/*/*")}


@pytest.fixture
def prepared(dataset: Path, tmp_path: Path) -> Workspace:
    return prepare(dataset, Workspace(tmp_path / "own"))


def test_a_second_run_writes_no_array_again(dataset: Path, prepared: Workspace) -> None:
    before = state(prepared)
    assert before
    prepare(dataset, prepared)
    assert state(prepared) == before


def test_only_a_changed_case_is_preprocessed_again(dataset: Path, prepared: Workspace) -> None:
    before = state(prepared)
    os.utime(dataset / "labelsTr" / "case04.nii.gz", (1, 1))
    prepare(dataset, prepared)
    after = state(prepared)
    changed = {Path(name).name.split(".")[0].split("_")[0] for name in before if before[name] != after.get(name)}
    assert changed == {"case04"}


def test_a_lost_case_comes_back(dataset: Path, prepared: Workspace) -> None:
    before = state(prepared)
    for path in prepared.preprocessed_dir("3d_fullres").glob("case01*"):
        path.unlink()
    prepare(dataset, prepared)
    assert state(prepared).keys() == before.keys()


def test_an_edited_plan_survives_a_second_run(dataset: Path, prepared: Workspace) -> None:
    plan = prepared.load_plan()
    edited = replace(plan.configuration("2d"), batch_size=7)
    write_json(
        replace(plan, configurations=tuple(edited if c.name == "2d" else c for c in plan.configurations)),
        prepared.plan_path,
    )
    prepare(dataset, prepared)
    assert prepared.load_plan().configuration("2d").batch_size == 7


def test_another_planner_adds_configurations(dataset: Path, prepared: Workspace) -> None:
    before = prepared.load_plan()
    prepare(dataset, prepared, planner="resenc_l")
    after = prepared.load_plan()
    assert set(before.configuration_names) < set(after.configuration_names)
    assert after.configuration("3d_fullres") == before.configuration("3d_fullres")
    added = after.configuration("3d_fullres@resenc_l")
    assert added.network.name == "resenc"


def test_another_memory_plans_anew_but_never_what_was_trained(dataset: Path, prepared: Workspace) -> None:
    before = prepared.load_plan()
    prepared.run_record_path("2d").parent.mkdir(parents=True)
    prepared.run_record_path("2d").write_text("{}")
    plan_and_preprocess(dataset, workspace=prepared.root, gpu_memory_gb=8, workers=0)
    after = prepared.load_plan()
    assert after.configuration("2d") == before.configuration("2d")
    assert after.configuration("3d_fullres") != before.configuration("3d_fullres")
    assert after.gpu_memory_gb == 8


def test_other_labels_are_refused_once_something_is_trained(dataset: Path, prepared: Workspace) -> None:
    prepared.run_record_path("2d").parent.mkdir(parents=True)
    prepared.run_record_path("2d").write_text("{}")
    table = json.loads((dataset / "dataset.json").read_text())
    table["labels"]["more"] = 3
    (dataset / "dataset.json").write_text(json.dumps(table))
    with pytest.raises(PlanError, match="labels, channels or axes differ"):
        prepare(dataset, prepared)


def test_the_datasets_own_folds_are_taken(dataset: Path, prepared: Workspace) -> None:
    own = [{"train": ["case00", "case01"], "val": ["case02"]}, {"train": ["case02"], "val": ["case00", "case01"]}]
    (dataset / "splits_final.json").write_text(json.dumps(own))
    prepare(dataset, prepared)
    folds = read_splits(prepared.splits_path)
    assert [fold.val for fold in folds] == [("case02",), ("case00", "case01")]


def test_folds_do_not_change_under_trained_models(dataset: Path, prepared: Workspace) -> None:
    checkpoint = prepared.run("2d", 0).last
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"")
    (dataset / "splits_final.json").write_text(json.dumps([{"train": ["case00"], "val": ["case02"]}]))
    with pytest.raises(SettingsError, match="models were trained"):
        prepare(dataset, prepared)


def test_a_read_only_dataset_is_enough(dataset: Path, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in dataset.rglob("*")}
    prepare(dataset, Workspace(tmp_path / "elsewhere"))
    assert {p: p.stat().st_mtime_ns for p in dataset.rglob("*")} == before


def test_worker_processes_give_the_same_arrays(dataset: Path, prepared: Workspace, tmp_path: Path) -> None:
    other = plan_and_preprocess(dataset, workspace=tmp_path / "two", gpu_memory_gb=0.2, workers=2)
    for path in prepared.root.glob("preprocessed/*/*.b2nd"):
        twin = other.root / path.relative_to(prepared.root)
        assert twin.read_bytes() == path.read_bytes()
    assert other.fingerprint_path.read_bytes() == prepared.fingerprint_path.read_bytes()


def test_within_a_limit_cases_are_what_they_are_without(
    dataset: Path, prepared: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def counted(shape: tuple[int, ...], dtype: object, folder: Path | None = None) -> np.ndarray:
        made.append(folder)
        return np.zeros(tuple(shape), dtype)  # type: ignore[call-overload]

    monkeypatch.setattr(arrays, "scratch_array", counted)
    monkeypatch.setattr(forecast, "_WORKER_BYTES", 10**9)  # so that the small cases exceed the limit
    monkeypatch.setattr(module, "_ARRAYS_AT_ONCE", 10**6)
    limited = prepare(dataset, Workspace(tmp_path / "limited"), max_memory_gb=1.0)
    assert set(made) == {limited.root}
    said = json.loads(limited.forecast_path.read_text())
    assert said["memory_limit"] == said["memory_bytes"] == 10**9
    assert said["scratch_bytes"] > 0
    for case in ("case00", "case03"):
        expected, found = (CaseStore(w.preprocessed_dir("3d_fullres")).open(case).load() for w in (prepared, limited))
        np.testing.assert_array_equal(found.image, expected.image)
        np.testing.assert_array_equal(found.segmentation, expected.segmentation)
