"""Folders of predictions are averaged and postprocessed without any network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.codec import read_json, write_json
from autoseg.errors import CasesFailedError, MissingArtifactError, SettingsError
from autoseg.geometry import Geometry
from autoseg.image import Segmentation, read_segmentation, write_segmentation
from autoseg.inference.ensemble import Ensemble
from autoseg.inference.export import read_probabilities, write_probabilities
from autoseg.pipeline.combining import ensemble_folders, postprocess_folder
from autoseg.postprocessing.steps import PostprocessingStep
from autoseg.workspace import Workspace

GRID = Geometry(shape=(5, 6, 7), spacing=(2.0, 1.0, 1.0), origin=(3.0, 4.0, 5.0))


def write_prediction(folder: Path, case: str, seed: int, *, like_nnunet: bool = False) -> np.ndarray:
    scores = np.random.default_rng(seed).random((3, *GRID.shape), dtype=np.float32)
    probabilities = scores / scores.sum(axis=0)
    folder.mkdir(exist_ok=True)
    if like_nnunet:
        np.savez_compressed(folder / f"{case}.npz", probabilities=probabilities)
    else:
        write_probabilities(folder / f"{case}.probabilities.b2nd", probabilities)
    empty = np.zeros(GRID.shape, np.uint8)
    write_segmentation(folder / f"{case}.nii.gz", Segmentation(array=empty, geometry=GRID))
    return probabilities


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def test_probabilities_of_both_programs_are_averaged(untrained_workspace: Workspace, tmp_path: Path) -> None:
    first = write_prediction(tmp_path / "a", "x", 1)
    second = write_prediction(tmp_path / "b", "x", 2, like_nnunet=True)
    words = ["ensemble", tmp_path / "a", tmp_path / "b", "-w", untrained_workspace.root, "--save-probabilities"]
    run(*words, "-o", tmp_path / "out", "--weight", 3, "--weight", 1)
    found = read_segmentation(tmp_path / "out" / "x.nii.gz")
    mean = 0.75 * first.astype(np.float16).astype(np.float32) + 0.25 * second
    plan = untrained_workspace.load_plan()
    np.testing.assert_array_equal(found.array, plan.labels.segmentation(mean))
    assert GRID.differences(found.geometry) == []
    stored = read_probabilities(tmp_path / "out" / "x.probabilities.b2nd")
    np.testing.assert_allclose(stored, mean, atol=1e-3)
    with pytest.raises(SettingsError, match="--overwrite"):
        ensemble_folders([tmp_path / "a", tmp_path / "b"], tmp_path / "out", plan)


def test_a_folder_without_a_case_is_named_and_a_damaged_one_does_not_stop_others(
    untrained_workspace: Workspace, tmp_path: Path
) -> None:
    plan = untrained_workspace.load_plan()
    for seed, name in enumerate("ab"):
        for case in ("x", "y"):
            write_prediction(tmp_path / name, case, seed)
    (tmp_path / "b" / "x.probabilities.b2nd").write_bytes(b"damaged")
    with pytest.raises(CasesFailedError, match="x"):
        ensemble_folders([tmp_path / "a", tmp_path / "b"], tmp_path / "out", plan)
    assert (tmp_path / "out" / "y.nii.gz").is_file()
    (tmp_path / "b" / "x.probabilities.b2nd").unlink()
    with pytest.raises(MissingArtifactError, match="no probabilities of x"):
        ensemble_folders([tmp_path / "a", tmp_path / "b"], tmp_path / "other", plan)
    with pytest.raises(SettingsError, match="as many positive weights"):
        ensemble_folders([tmp_path / "a"], tmp_path / "other", plan, weights=[1, 2])


def test_a_folder_is_postprocessed_into_another_one(untrained_workspace: Workspace, tmp_path: Path) -> None:
    array = np.zeros(GRID.shape, np.uint8)
    array[1:4, 1:4, 1:4] = 3
    array[4, 5, 6] = 3
    source = tmp_path / "in"
    write_segmentation(source / "x.nii.gz", Segmentation(array=array, geometry=GRID))
    ensemble = read_json(Ensemble, untrained_workspace.ensemble_path)
    steps = (PostprocessingStep(name="keep_largest", values=(3,)),)
    workspace = Workspace.create(tmp_path / "workspace", None)
    write_json(untrained_workspace.load_plan(), workspace.plan_path)
    write_json(replace(ensemble, postprocessing=steps), workspace.ensemble_path)
    run("postprocess", source, "-o", tmp_path / "out", "-w", workspace.root)
    found = read_segmentation(tmp_path / "out" / "x.nii.gz").array
    assert found[4, 5, 6] == 0
    assert (found == 3).sum() == 27
    np.testing.assert_array_equal(read_segmentation(source / "x.nii.gz").array, array)
    with pytest.raises(SettingsError, match="name another"):
        postprocess_folder(source, source, workspace.load_plan(), steps)
