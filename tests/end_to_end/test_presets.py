"""Presets, from a dataset of their kind to a scored fold, by one command: their values arrive in plan and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from autoseg.cli.main import app
from autoseg.codec import read_json
from autoseg.plan import Configuration, SlicePlan
from autoseg.postprocessing.steps import parse_step
from autoseg.preprocessing.store import CaseStore
from autoseg.presets import PRESETS
from autoseg.synthetic import KINDS
from autoseg.synthetic.kinds import WHOLE_HEART_VALUES
from autoseg.synthetic.tubes import write_tube_dataset
from autoseg.training import RunRecord
from autoseg.workspace import Workspace

SHORT = ("--set", "iterations_per_epoch=1", "--set", "validation_iterations=1", "--set", "mirroring=none")


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def train(name: str, folder: Path, *words: str) -> tuple[Configuration, RunRecord, Result]:
    """Run the command on four patients; the configuration in plan.json, run.json, and what was printed."""
    if not folder.joinpath("imagesTr").is_dir():
        KINDS[name].write(folder, num_training=4, num_test=1)
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
    planned, record, result = train("aicup", tmp_path, "--set", "volume_every=1")
    assert planned.normalization[0].window == (-42, 423)
    assert planned.spacing == (1.0, 0.7, 0.7)
    network = planned.network
    assert (network.name, network.norm, network.activation) == ("cardiac_unet", "batch", "relu")
    assert not network.deep_supervision
    store = CaseStore(Workspace(tmp_path / "autoseg").preprocessed_dir(planned.data))
    for case in store.case_ids():
        stored = store.open(case)
        assert stored.trace.resampled_spacing == (1.0, 0.7, 0.7)
        image = stored.load().image
        assert -0.2 < image.min() < 0.01  # air is 0; splines reach a little beyond
        assert 0.99 < image.max() < 1.2
        assert np.median(image[image < 0.01]) == pytest.approx(0, abs=1e-3)
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
def test_cm_trancaf(tmp_path: Path) -> None:
    planned, record, _ = train("cm_trancaf", tmp_path)
    assert planned.spacing == (3.0, 3.0, 3.0)
    assert planned.normalization[0].steps == "zscore+clahe"
    assert planned.network.name == "scn"
    assert planned.network.options["refines"] == "maunet"
    assert planned.network.num_stages == 4
    labels = Workspace(tmp_path / "autoseg").load_plan().labels
    assert labels.values == (0, *sorted(WHOLE_HEART_VALUES.values()))  # files keep the values of MM-WHS
    assert planned.network.skip_gate == "grid"
    assert record.settings.loss == "dice+0.1*focal"
    assert (record.optimizer, record.learning_rate, record.configuration.batch_size) == ("adam", 1e-5, 8)


@pytest.mark.slow
def test_spine(tmp_path: Path) -> None:
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


@pytest.mark.slow
def test_sennet(tmp_path: Path) -> None:
    """From TIFF stacks over three axes to run lengths, the kidney's head bounding the vessels'."""
    write_tube_dataset(tmp_path, num_training=4, num_test=1, edge=36)
    planned, record, result = train("sennet", tmp_path, "--set", "batch_size=2")
    assert planned.name == "2p5d@sennet"
    assert planned.slices == SlicePlan(context=5, axes=(0, 1, 2))
    assert planned.normalization[0].window == (0, 65535)
    assert (planned.network.name, planned.network.options) == ("se_resnext", {"encoder": "se_resnext50_32x4d"})
    assert planned.patch_size == (64, 64)  # 256x256 were asked for, the volumes are smaller
    assert (record.settings.loss, record.optimizer, record.learning_rate) == ("dice", "adamw", 6e-5)
    assert record.settings.foreground_share == 0
    steps = PRESETS["sennet"].steps_for(("kidney", "vessel"))
    assert steps == ("inside(vessel, organ=kidney, largest=2)",)
    assert PRESETS["sennet"].steps_for(("vessel",)) == ()
    flat = " ".join(result.output.split())
    assert all(words in flat for words in (*steps, "--run-lengths runs.csv", "--tta six", "evaluate -m nsd@0mm"))
    folder = tmp_path / "autoseg"
    predicted = run(
        *("ensemble-predict", "-w", folder, "--members", "2p5d@sennet", "--tta", "none", "--device", "cpu"),
        *("--run-lengths", tmp_path / "runs.csv", "--workers", "0"),
    )
    assert predicted.exit_code == 0, predicted.output
    assert len((tmp_path / "runs.csv").read_text().splitlines()) > 36  # a row per slice, and a header
    scored = run("evaluate", "-m", "nsd@0mm", "-r", tmp_path / "labelsTs", "-p", folder / "predictions")
    assert scored.exit_code == 0, scored.output


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
