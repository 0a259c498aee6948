"""What settings do to what is learned: on balls in noise every one of them must find the balls."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.codec import read_json
from autoseg.interop.pretrained import load_pretrained
from autoseg.pipeline.gap import GapReport, measure_gap
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.pipeline.train import TrainingReport, train
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace

CONFIG = TrainingConfig().with_settings(
    ["iterations=50", "optimizer=adamw", "learning_rate=0.01", "validation_iterations=1", "precision=float32"]
)


@pytest.fixture(scope="module")
def learned(planned_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, TrainingReport]:
    """Fold 0 trained in float32."""
    folder = tmp_path_factory.mktemp("learned") / "workspace"
    workspace = Workspace(Path(shutil.copytree(planned_workspace, folder)))
    return workspace, train(workspace, "3d_fullres", 0, config=CONFIG, device="cpu", workers=0)


def variant(workspace: Workspace, name: str, config: TrainingConfig) -> float:
    report = train(workspace, "3d_fullres", 0, config=config, variant=name, device="cpu", workers=0)
    assert report.mean_dice is not None
    return report.mean_dice


def test_half_precision_learns_as_much(learned: tuple[Workspace, TrainingReport]) -> None:
    workspace, report = learned
    half = variant(workspace, "half", replace(CONFIG, precision="bfloat16"))
    assert report.mean_dice is not None
    assert report.mean_dice > 0.7
    assert half == pytest.approx(report.mean_dice, abs=0.1)


@pytest.mark.slow
def test_losses_can_be_compared(learned: tuple[Workspace, TrainingReport]) -> None:
    workspace, _ = learned
    losses = ("dice", "focal", "bce", "mse")
    longer = replace(CONFIG, iterations=90, augmentation="none", sampling="pos_neg", foreground_share=0.5)
    ranking = {loss: variant(workspace, loss, replace(longer, loss=loss)) for loss in losses}
    assert ranking["mse"] > 0.85, ranking
    assert min(ranking.values()) > 0.3, ranking


def test_fine_tuning_beats_beginning_anew_at_equal_steps(learned: tuple[Workspace, TrainingReport]) -> None:
    workspace, _ = learned
    short = replace(CONFIG, iterations=6, learning_rate=0.001, seed=3)
    weights = load_pretrained(workspace.run("3d_fullres", 0).final)
    tuned = train(
        workspace, "3d_fullres", 0, config=short, variant="tuned", device="cpu", workers=0, pretrained=weights
    )
    assert tuned.mean_dice is not None
    assert tuned.mean_dice > variant(workspace, "scratch", short) + 0.2


def test_the_gap_between_training_held_out_and_test_cases_is_reported(
    learned: tuple[Workspace, TrainingReport],
) -> None:
    workspace, trained = learned
    words = ["gap", "3d_fullres", "fold0", "-w", str(workspace.root), "--device", "cpu"]
    result = CliRunner().invoke(app, [*words, "--threshold", "0.3"])
    assert result.exit_code == 0, result.output
    report = read_json(GapReport, workspace.run("3d_fullres", 0).gap)
    held_out = json.loads(workspace.splits_path.read_text())[0]["val"]
    assert (report.num_training, report.num_held_out, report.num_test) == (len(held_out), len(held_out), 2)
    assert trained.mean_dice is not None
    assert report.held_out == pytest.approx(trained.mean_dice, abs=0.1)  # on another grid, without mirroring
    assert report.test is not None
    assert "training 0." in " ".join(result.output.split())
    overfitted = replace(report, training=0.9, held_out=0.5, test=0.3, threshold=0.1)
    assert [text.partition(":")[0] for text in overfitted.warnings] == [
        "overfitting",
        "the test cases differ from the others",
    ]
    assert not replace(overfitted, threshold=0.45).warnings
    same = measure_gap(workspace, "3d_fullres", 0, threshold=0.3, device="cpu")
    assert same == report


def test_a_residual_encoder_trains(ball_dataset: Path, tmp_path: Path) -> None:
    workspace = plan_and_preprocess(
        ball_dataset,
        workspace=tmp_path / "workspace",
        planner="resenc_m",
        gpu_memory_gb=0.2,
        configurations=("2d@resenc_m",),
        workers=0,
    )
    config = replace(CONFIG, iterations=2)
    report = train(workspace, "2d@resenc_m", "all", config=config, device="cpu", workers=0)
    assert report.iterations == 2
    assert report.record.network.name == "resenc"
