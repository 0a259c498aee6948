"""Exploration reports numbers that are known, because the dataset was made from them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.codec import read_json
from autoseg.dataset import load_dataset
from autoseg.errors import DatasetError
from autoseg.image import read_segmentation
from autoseg.pipeline.exploring import Exploration, explore
from autoseg.progress import LoggingProgress

CENTRES = ["A", "A", "B", "B", "B", "C"]


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    path = tmp_path / "metadata.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "centre", "vendor", "pathology"])
        for number, centre in enumerate(CENTRES[:5]):
            writer.writerow([f"case{number:02d}", centre, "Siemens" if number % 2 else "GE", f"disease {number}"])
        writer.writerow(["case99", "D", "GE", ""])
    return path


def test_counts_are_those_of_the_metadata(ball_dataset: Path, metadata: Path) -> None:
    found = explore(load_dataset(ball_dataset), metadata=metadata, workers=0, progress=LoggingProgress())
    assert found.counts["centre"] == {"B": 3, "A": 2, "unknown": 1}
    assert found.counts["vendor"] == {"GE": 3, "Siemens": 2, "unknown": 1}
    assert len(found.counts["pathology"]) == 6
    assert found.without_metadata == ("case05",)
    assert found.without_case == ("case99",)


def test_grids_and_volumes_are_those_of_the_files(ball_dataset: Path) -> None:
    found = explore(load_dataset(ball_dataset), metadata=None, workers=0, progress=LoggingProgress())
    assert [s.median for s in found.shapes] == [12, 20, 18]
    assert (found.spacings[0].min, found.spacings[0].max) == pytest.approx((1.6, 2.0))
    read = [read_segmentation(path) for path in sorted((ball_dataset / "labelsTr").iterdir())]
    cores = [np.count_nonzero(s.array == 2) * s.geometry.voxel_volume / 1000 for s in read]
    core = found.labels[1].volume_ml
    assert found.labels[1].cases == 6
    assert core is not None
    assert (core.min, core.median, core.max) == pytest.approx((min(cores), np.median(cores), max(cores)))


def test_the_command_writes_what_it_shows(ball_dataset: Path, metadata: Path, tmp_path: Path) -> None:
    report = tmp_path / "e.json"
    words = ["explore", str(ball_dataset), "--metadata", str(metadata), "--workers", "0", "-o", str(report)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0
    assert "centre: B 3, A 2, unknown 1" in done.output
    assert "core: in 6 of 6 cases" in done.output
    assert read_json(Exploration, report).training == 6


def test_metadata_without_cases_is_refused(ball_dataset: Path, tmp_path: Path) -> None:
    for text in ("patient\na\n", "case\na\na\n", "case\n"):
        (tmp_path / "m.csv").write_text(text)
        with pytest.raises(DatasetError, match=r"m\.csv"):
            explore(load_dataset(ball_dataset), metadata=tmp_path / "m.csv", workers=0, progress=LoggingProgress())


def test_very_many_values_are_only_numbered(
    ball_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoseg.pipeline.exploring._MOST_VALUES", 3)
    (tmp_path / "m.csv").write_text("case,age\n" + "".join(f"case0{n},{n + 40}\n" for n in range(6)))
    found = explore(load_dataset(ball_dataset), metadata=tmp_path / "m.csv", workers=0, progress=LoggingProgress())
    assert found.counts["age"] == {"different values": 6}
    assert json.dumps(found.counts)
