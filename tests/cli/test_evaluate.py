"""autoseg evaluate as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from typer.testing import CliRunner, Result

from autoseg.cli.main import app
from autoseg.geometry import Geometry
from autoseg.image import Image, Segmentation, write_image, write_segmentation


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["evaluate", "--workers", "0", *map(str, words)])


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    for case in "abcd":
        reference = np.repeat(rng.integers(0, 3, (4, 5, 6)), 2, axis=0).astype(np.uint8)
        prediction = np.where(rng.random(reference.shape) < 0.1, 0, reference).astype(np.uint8)
        for name, array in (("labels", reference), ("predictions", prediction)):
            geometry = Geometry(shape=array.shape, spacing=(2.0, 1.0, 1.0))
            write_segmentation(tmp_path / name / f"{case}.nii.gz", Segmentation(array=array, geometry=geometry))
    return ["-r", str(tmp_path / "labels"), "-p", str(tmp_path / "predictions")]


def test_everything_is_measured_and_written(folders: list[str], tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text("case,view,phase\na,SA,ED\nb,SA,ES\nc,LA,ED\nd,LA,ES\n")
    report, summary, scores = tmp_path / "report", tmp_path / "summary.json", tmp_path / "scores.json"
    options = ["--metrics", "all", "--groups", table, "--report", report, "--collect", "-o", scores]
    weights = ["--nnunet-summary", summary, "--view-weights", "SA=0.75,LA=0.25"]
    result = run(*folders, *options, *weights)
    assert result.exit_code == 0, result.output
    assert "nsd@1mm" in result.output
    assert "weighted 0.75 SA, 0.25 LA" in result.output
    assert "## dice by view, phase" in (report / "report.md").read_text()
    assert (report / "cases" / "a" / "prediction.nii.gz").is_file()
    assert set(json.loads(summary.read_text())["mean"]) == {"1", "2"}
    written = json.loads(scores.read_text())
    assert written["cases"][0]["hd95"] >= 0
    assert written["mean_intervals"]["dice"][0] < written["mean"]["dice"] < written["mean_intervals"]["dice"][1]


def test_a_picture_of_every_view_and_phase(folders: list[str], tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text("case,view,phase\na,SA,ED\nb,SA,ES\nc,LA,ED\nd,LA,ES\n")
    for case in "abcd":
        image = Image(
            array=np.random.default_rng(1).normal(size=(1, 8, 5, 6)).astype(np.float32),
            geometry=Geometry(shape=(8, 5, 6), spacing=(2.0, 1.0, 1.0)),
        )
        write_image(tmp_path / "images" / f"{case}_0000.nii.gz", image)
    panels = tmp_path / "panels"
    result = run(*folders, "--groups", table, "--panels", panels, "--images", tmp_path / "images")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in panels.iterdir()) == ["LA_ED.png", "LA_ES.png", "SA_ED.png", "SA_ES.png"]
    pictures = [np.asarray(Picture.open(path)) for path in sorted(panels.iterdir())]
    assert all(len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 50 for picture in pictures)
    assert any(not np.array_equal(pictures[0], other) for other in pictures[1:] if other.shape == pictures[0].shape)
    (tmp_path / "images" / "b_0000.nii.gz").unlink()
    lost = run(*folders, "--groups", table, "--panels", panels, "--images", tmp_path / "images")
    assert lost.exit_code == 2
    assert "no image of case b" in lost.output
    assert run(*folders, "--panels", panels).exit_code == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--metrics", "dicee"], "did you mean dice"),
        (["--collect"], "--report"),
        (["--view-weights", "SA"], "SA=0.75,LA=0.25"),
        (["--view-weights", "SA=1"], "no case has the view"),
        (["--groups", "absent.csv"], "cannot be read"),
    ],
)
def test_wrong_use_is_one_sentence(folders: list[str], words: list[str], says: str) -> None:
    result = run(*folders, *words)
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_a_missing_prediction_gives_exit_code_one(folders: list[str]) -> None:
    Path(folders[3], "b.nii.gz").unlink()
    result = run(*folders, "--metrics", "hd")
    assert result.exit_code == 1
    assert "case b has no prediction" in result.output
