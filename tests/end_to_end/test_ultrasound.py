"""2D PNG images with speckle, as of an ultrasound machine: the commands learn them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.evaluation.report import read_evaluation
from autoseg.workspace import Workspace


def write_ultrasound(folder: Path, num_cases: int = 10) -> None:
    """Dark cysts in bright speckle, 64x48."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :48]
    for number in range(num_cases):
        center, radii = rng.uniform((20, 16), (44, 32)), rng.uniform(8, 13, 2)
        labels = (((y - center[0]) / radii[0]) ** 2 + ((x - center[1]) / radii[1]) ** 2 <= 1).astype(np.uint8)
        image = np.clip(np.where(labels, 50, 130) * rng.rayleigh(0.8, labels.shape), 0, 255).astype(np.uint8)
        for kind, array in (("img", image), ("seg", labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / kind / f"us{number}.png"))


def run(*words: str | Path) -> None:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_png_images_are_learned(tmp_path: Path) -> None:
    write_ultrasound(tmp_path / "data")
    where = ("-w", tmp_path / "work")
    given = ("--images", "img/{case}.png", "--labels", "seg/{case}.png", "--gpu-memory", "0.2", "--workers", "0")
    run("plan-and-preprocess", tmp_path / "data", *given, *where)
    space = Workspace(tmp_path / "work")
    assert space.load_plan().configuration_names == ("2d",)
    plain = json.loads(space.plan_path.read_text())
    network = plain["configurations"][0]["network"]
    network["features"] = [8 * 2 ** min(stage, 2) for stage in range(len(network["features"]))]
    plain["configurations"][0]["batch_size"] = 4
    space.plan_path.write_text(json.dumps(plain))
    quick = ("--iterations", "80", "--device", "cpu", "--workers", "0")
    run("train", "2d", "fold0", *where, *quick, "--set", "optimizer=adamw", "--set", "learning_rate=0.003")
    dice = read_evaluation(space.run("2d", 0).scores).mean["dice"]
    assert dice is not None
    assert dice > 0.8
