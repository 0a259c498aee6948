"""run.json: what the first fold decides holds for all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autoseg.codec import read_json
from autoseg.errors import SettingsError
from autoseg.labels import LabelScheme, Target
from autoseg.plan import Configuration, NetworkPlan, NormalizationPlan, Plan
from autoseg.progress import LoggingProgress
from autoseg.splits import Fold
from autoseg.trainers.agreement import agree_on_run
from autoseg.training import RunRecord, TrainingJob
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace


def make_job(folder: Path, config: TrainingConfig) -> TrainingJob:
    configuration = Configuration(
        name="2d",
        data="2d",
        spacing=(1.0, 1.0),
        median_shape=(32.0, 32.0),
        patch_size=(32, 32),
        batch_size=4,
        batch_dice=True,
        normalization=(NormalizationPlan(scheme="zscore"),),
        network=NetworkPlan(
            name="unet",
            features=(16, 32),
            strides=((1, 1), (2, 2)),
            kernel_sizes=((3, 3), (3, 3)),
            encoder_blocks=(1, 1),
            decoder_blocks=(1,),
            deep_supervision=False,
        ),
    )
    plan = Plan(
        planner="unet",
        dataset="toy",
        channels=("MRI",),
        labels=LabelScheme(targets=(Target(name="ball", values=(1,)),), declared_count=2),
        file_ending=".nii.gz",
        gpu_memory_gb=8.0,
        gpu_memory_source="test",
        orientation=None,
        transpose=(0, 1, 2),
        median_spacing=(1.0, 1.0, 1.0),
        median_shape=(8.0, 32.0, 32.0),
        configurations=(configuration,),
    )
    workspace = Workspace(folder)
    return TrainingJob(
        plan=plan,
        configuration=configuration,
        fold=Fold(train=("a",), val=("b",)),
        fold_name="fold0",
        preprocessed_dir=workspace.preprocessed_dir("2d"),
        run=workspace.run("2d", 0),
        run_record_path=workspace.run_record_path("2d"),
        config=config,
        device="cpu",
        workers=0,
    )


def agree(job: TrainingJob) -> RunRecord:
    return agree_on_run(job, torch.device("cpu"), LoggingProgress())


def test_the_default_recipe_is_nnunets(tmp_path: Path) -> None:
    record = agree(make_job(tmp_path, TrainingConfig()))
    assert (record.optimizer, record.learning_rate, record.weight_decay) == ("sgd", 0.01, 3e-5)
    assert record.precision == "float32"
    assert record.configuration.network.features == (16, 32)


def test_the_second_fold_takes_the_record_of_the_first(tmp_path: Path) -> None:
    config = TrainingConfig(time_budget=20.0)
    first = agree(make_job(tmp_path, config))
    assert first.optimizer == "adamw"
    assert "features" in first.reasons["network"]
    path = Workspace(tmp_path).run_record_path("2d")
    written = path.read_bytes()
    assert agree(make_job(tmp_path, config)) == first == read_json(RunRecord, path)
    assert path.read_bytes() == written


def test_other_settings_are_refused_and_listed(tmp_path: Path) -> None:
    agree(make_job(tmp_path, TrainingConfig(epochs=5)))
    with pytest.raises(SettingsError, match=r"epochs 5 -> 7; seed 0 -> 3.*--as NAME"):
        agree(make_job(tmp_path, TrainingConfig(epochs=7, seed=3)))


def test_another_plan_is_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path, TrainingConfig(epochs=5))
    agree(job)
    changed = replace(job.configuration, patch_size=(64, 32))
    with pytest.raises(SettingsError, match=r"patch_size \[32, 32\] -> \[64, 32\]"):
        agree(replace(job, configuration=changed))
