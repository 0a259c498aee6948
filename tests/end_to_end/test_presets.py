"""Presets, from a dataset of their kind to a scored fold, by one command: their values arrive in plan and run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from autoseg.cli.main import app
from autoseg.codec import read_json
from autoseg.geometry import Geometry
from autoseg.image import Image, Segmentation, write_image, write_segmentation
from autoseg.plan import Configuration
from autoseg.postprocessing.steps import parse_step
from autoseg.presets import PRESETS
from autoseg.training import RunRecord
from autoseg.workspace import Workspace

SHORT = ("--set", "iterations_per_epoch=1", "--set", "validation_iterations=1", "--set", "mirroring=none")
HEART = ("LV", "RV", "LA", "RA", "myocardium", "aorta", "pulmonary artery")


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def write_case(folder: Path, name: str, array: np.ndarray, labels: np.ndarray, spacing: tuple[float, ...]) -> None:
    geometry = Geometry(shape=labels.shape, spacing=spacing, origin=(0.0, 0.0, 0.0))
    write_image(folder / "imagesTr" / f"{name}_0000.nii.gz", Image(array=array[None], geometry=geometry))
    write_segmentation(folder / "labelsTr" / f"{name}.nii.gz", Segmentation(array=labels, geometry=geometry))


def describe(folder: Path, channel: str, labels: tuple[str, ...], num_cases: int) -> None:
    table = {"background": 0, **{label: value for value, label in enumerate(labels, start=1)}}
    content = {"channel_names": {"0": channel}, "labels": table, "numTraining": num_cases, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))


def boxes(shape: tuple[int, int, int], count: int) -> np.ndarray:
    """Labels 1 to ``count`` as plates beside each other along the last axis, a margin left free."""
    labels = np.zeros(shape, np.uint8)
    for value, columns in enumerate(np.array_split(np.arange(4, shape[2] - 4), count), start=1):
        labels[1:-1, 4:-4, columns] = value
    return labels


def make_ct(folder: Path) -> None:
    """Hounsfield units; calcification in every second case only, and tiny."""
    rng = np.random.default_rng(1)
    for number in range(4):
        labels = boxes((20, 24, 24), 2)
        if number % 2 == 0:
            labels[9:11, 10:13, 10:13] = 3
        values = np.choose(labels, [-500, 100, 250, 900]) + rng.normal(0, 20, labels.shape)
        write_case(folder, f"patient{number:03d}", values.astype(np.float32), labels, (1.5, 0.9, 0.9))
    describe(folder, "CT", ("myocardium", "aortic valve", "calcification"), 4)


def make_short_axis(folder: Path) -> None:
    """Thick short-axis slices, two phases of each of two patients."""
    rng = np.random.default_rng(2)
    for patient in range(2):
        for phase, scale in (("ED", 1.0), ("ES", 0.8)):
            labels = boxes((5, 40, 40), 3)
            values = 100 * scale * labels + rng.normal(50, 10, labels.shape)
            write_case(folder, f"{patient:03d}_SA_{phase}", values.astype(np.float32), labels, (10.0, 1.25, 1.25))
    describe(folder, "MRI", ("LV", "MYO", "RV"), 4)


def make_whole_heart(folder: Path) -> None:
    rng = np.random.default_rng(3)
    for number in range(4):
        labels = boxes((24, 24, 36), len(HEART))
        values = 40 * labels + rng.normal(100, 10, labels.shape)
        write_case(folder, f"ct_{1000 + number}", values.astype(np.float32), labels, (2.0, 2.5, 2.5))
    describe(folder, "CT", HEART, 4)


def make_spine(folder: Path) -> None:
    """Four thick slices whose brightness falls off to one side, as under a surface coil."""
    rng = np.random.default_rng(4)
    for number in range(4):
        labels = boxes((5, 40, 40), 1)
        field = np.linspace(1.6, 0.6, 40)[None, None, :]
        values = (100 + 80 * labels + rng.normal(0, 5, labels.shape)) * field
        write_case(folder, f"spine{number}", values.astype(np.float32), labels, (4.0, 0.6, 0.6))
    describe(folder, "MRI", ("vertebra",), 4)


def train(name: str, folder: Path, *words: str) -> tuple[Configuration, RunRecord, Result]:
    """Run the command; the configuration in plan.json, run.json, and what was printed."""
    folder.mkdir(exist_ok=True)
    result = run(
        *("preset", "train", name, folder, "--folds", "2", "--gpu-memory", "4", "--iterations", "1"),
        *("--device", "cpu", "--workers", "0", *SHORT, *words),
    )
    assert result.exit_code == 0, result.output
    space = Workspace(folder / "autoseg")
    stored = PRESETS[name].stored_as
    return space.load_plan().configuration(stored), read_json(RunRecord, space.run_record_path(stored)), result


@pytest.mark.slow
def test_aicup(tmp_path: Path) -> None:
    make_ct(tmp_path)
    planned, record, result = train("aicup", tmp_path, "--set", "volume_every=1")
    assert planned.normalization[0].window == (-42, 423)
    assert planned.spacing == (1.0, 0.7, 0.7)
    assert (planned.network.name, planned.network.norm, planned.network.activation) == ("unet", "batch", "relu")
    assert not planned.network.deep_supervision
    assert "120x128x128 were asked for" in planned.reasons["patch_size"]  # the images are smaller
    assert (record.optimizer, record.learning_rate, record.weight_decay) == ("adamw", 5e-4, 5e-4)
    settings = record.settings
    assert (settings.sampling, settings.patches_per_case, settings.volume_patience) == ("pos_neg", 2, 2)
    assert (settings.iterations, settings.epochs, settings.volume_every) == (1, None, 1)  # what was asked for
    steps = PRESETS["aicup"].steps_for(("myocardium", "aortic valve", "calcification"))
    flat = " ".join(result.output.split())
    assert all(step in flat for step in steps)  # the command to go on with
    assert len(steps) == 6
    before = (tmp_path / "autoseg" / "plan.json").read_bytes()
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "autoseg" / "results").rglob("*.pt")}
    train("aicup", tmp_path, "--set", "volume_every=1")  # once more: nothing is done again
    assert (tmp_path / "autoseg" / "plan.json").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in trained} == trained


@pytest.mark.slow
def test_mnms2(tmp_path: Path) -> None:
    make_short_axis(tmp_path)
    planned, record, _ = train("mnms2", tmp_path)
    assert planned.name == "2d@mnms2"
    assert planned.normalization[0].scheme == "zscore"
    assert planned.network.norm == "batch"
    assert planned.network.options["head_bias"] is False
    assert planned.spacing == (1.25, 1.25)  # the median in the plane
    assert "256x256 were asked for" in planned.reasons["patch_size"]
    assert record.configuration.batch_size == 20
    assert (record.optimizer, record.learning_rate, record.settings.keep_best) == ("sgd", 0.01, 5)


@pytest.mark.slow
def test_cm_trancaf(tmp_path: Path) -> None:
    make_whole_heart(tmp_path)
    planned, record, _ = train("cm_trancaf", tmp_path)
    assert planned.spacing == (3.0, 3.0, 3.0)
    assert planned.normalization[0].steps == "zscore+clahe"
    assert planned.network.name == "scn"
    assert planned.network.options["refines"] == "maunet"
    assert planned.network.skip_gate == "grid"
    assert record.settings.loss == "dice+0.1*focal"
    assert (record.optimizer, record.learning_rate, record.configuration.batch_size) == ("adam", 1e-5, 8)


@pytest.mark.slow
def test_spine(tmp_path: Path) -> None:
    make_spine(tmp_path)
    planned, record, result = train("spine", tmp_path, "--set", "windows_per_case=2", "--set", "batch_size=2")
    assert planned.normalization[0].steps == "n4+rescale_to_0_1"
    assert planned.network.name == "spine_hybrid"
    assert planned.network.options["stem_kernel"] == 27
    assert all(stride[0] == 1 for stride in planned.network.strides)
    assert (record.settings.loss, record.settings.sampling) == ("mse", "windows")
    assert (record.optimizer, record.learning_rate, record.configuration.batch_size) == ("adam", 1e-3, 2)
    plan = Workspace(tmp_path / "autoseg").load_plan()
    (step,) = PRESETS["spine"].steps_for(("vertebra",))
    assert parse_step(step, plan.labels).parameters == {"threshold": 0.6}
    assert step in " ".join(result.output.split())


@pytest.mark.parametrize("name", list(PRESETS))
def test_show_explains_every_value(name: str) -> None:
    result = run("preset", "show", name)
    assert result.exit_code == 0
    rows = list(PRESETS[name].rows())
    assert len({row.value for _, row in rows}) == len(rows)
    for stage, row in rows:
        assert row.value.partition("=")[0].partition("(")[0] in result.output
        assert row.why
        assert row.source
        assert stage in result.output
    assert name in run("preset", "list").output


def test_wrong_words_cost_no_preprocessing(ball_dataset: Path, tmp_path: Path) -> None:
    unknown = run("preset", "train", "aicap", ball_dataset, "-w", tmp_path / "w")
    assert (unknown.exit_code, "did you mean aicup" in unknown.output) == (2, True)
    typo = run("preset", "train", "aicup", ball_dataset, "-w", tmp_path / "w", "--set", "learning_rat=1")
    assert typo.exit_code == 2
    assert "learning_rate" in typo.output
    assert not (tmp_path / "w").exists()
