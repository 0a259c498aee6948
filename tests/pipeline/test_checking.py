"""All problems in one report, headers and voxels of every case together."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from autoseg.check import CheckReport
from autoseg.check.duplicates import duplicate_problems
from autoseg.cli.main import app
from autoseg.codec import read_json
from autoseg.dataset import Case, load_dataset
from autoseg.errors import DatasetError
from autoseg.image import Image, Segmentation, read_image, read_segmentation, write_image, write_segmentation
from autoseg.pipeline.checking import check_everything
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.progress import LoggingProgress


@pytest.fixture
def dataset(ball_dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ball_dataset, tmp_path / "dataset"))


def put_value(path: Path, value: int) -> None:
    labels = read_segmentation(path)
    array = labels.array.copy()
    array[0, 0, 0] = value
    write_segmentation(path, Segmentation(array=array, geometry=labels.geometry))


def put_nan(path: Path) -> None:
    image = read_image([path])
    array = image.array.copy()
    array[0, 0, 0, :3] = np.nan
    write_image(path, Image(array=array, geometry=image.geometry))


def damage(dataset: Path) -> None:
    """Two cases with undeclared labels, one unreadable, one with NaN."""
    put_value(dataset / "labelsTr" / "case01.nii.gz", 7)
    put_value(dataset / "labelsTr" / "case03.nii.gz", 9)
    (dataset / "imagesTr" / "case04_0000.nii.gz").write_bytes(b"no image")
    put_nan(dataset / "imagesTr" / "case05_0000.nii.gz")


def test_a_faultless_dataset_has_no_problems(dataset: Path) -> None:
    report = check_everything(load_dataset(dataset), workers=0, progress=LoggingProgress())
    assert report.problems == ()


def test_everything_is_reported_before_planning_is_refused(dataset: Path, tmp_path: Path) -> None:
    damage(dataset)
    with pytest.raises(DatasetError, match=r"case04_0000\.nii\.gz .*value\(s\) 7;.*value\(s\) 9;.*check\.json"):
        plan_and_preprocess(dataset, workspace=tmp_path / "w", gpu_memory_gb=0.2, workers=0)
    report = read_json(CheckReport, tmp_path / "w" / "check.json")
    assert [(p.severity, p.case) for p in report.problems] == [
        ("error", "case04"),
        ("error", "case01"),
        ("error", "case03"),
        ("repaired", "case05"),
    ]
    assert not (tmp_path / "w" / "fingerprint.json").exists()
    assert report == check_everything(load_dataset(dataset), workers=0, progress=LoggingProgress())


def test_a_repaired_dataset_is_planned_and_its_repairs_stay_in_the_report(dataset: Path, tmp_path: Path) -> None:
    put_nan(dataset / "imagesTr" / "case05_0000.nii.gz")
    for _ in range(2):  # the second run does not read the voxels again
        space = plan_and_preprocess(dataset, workspace=tmp_path / "w", gpu_memory_gb=0.2, workers=0)
        [problem] = read_json(CheckReport, space.check_path).problems
        assert (problem.severity, problem.case) == ("repaired", "case05")


def test_a_label_that_is_no_longer_declared_is_noticed(dataset: Path, tmp_path: Path) -> None:
    plan_and_preprocess(dataset, workspace=tmp_path / "w", gpu_memory_gb=0.2, workers=0)
    path = dataset / "dataset.json"
    path.write_text(path.read_text().replace(', "core": 2', ""))
    with pytest.raises(DatasetError, match=r"value\(s\) 2; dataset.json declares 0, 1"):
        plan_and_preprocess(dataset, workspace=tmp_path / "w", gpu_memory_gb=0.2, workers=0)


def test_a_dataset_without_foreground_is_refused(dataset: Path, tmp_path: Path) -> None:
    for path in (dataset / "labelsTr").iterdir():
        labels = read_segmentation(path)
        write_segmentation(path, Segmentation(array=np.zeros_like(labels.array), geometry=labels.geometry))
    with pytest.raises(DatasetError, match=f"no label file of {dataset} has any foreground"):
        plan_and_preprocess(dataset, workspace=tmp_path / "w", gpu_memory_gb=0.2, workers=0)


def test_the_command_lists_everything_and_says_what_is_repaired(dataset: Path, tmp_path: Path) -> None:
    damage(dataset)
    result = CliRunner().invoke(app, ["check", str(dataset), "--workers", "0", "-o", str(tmp_path / "report.json")])
    assert result.exit_code == 2
    lines = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines if ": " in line] == ["error", "error", "error", "repaired"]
    assert "3 errors, 0 warnings, 1 repairs" in result.stdout
    assert read_json(CheckReport, tmp_path / "report.json").num_cases == 6
    quick = CliRunner().invoke(app, ["check", str(dataset), "--headers-only"])
    assert "1 errors, 0 warnings, 0 repairs" in quick.stdout


def test_test_images_are_read_as_well(dataset: Path) -> None:
    [path, other] = sorted((dataset / "imagesTs").iterdir())
    put_nan(path)
    payload = gzip.decompress(other.read_bytes())
    other.write_bytes(gzip.compress(payload)[:-300])  # the headers are in order, the voxels are not
    report = check_everything(load_dataset(dataset), workers=0, progress=LoggingProgress())
    [repaired] = report.repairs
    assert "3 voxel(s) are NaN or infinite" in repaired.message
    assert report.errors
    assert all(path.name.split("_")[0] not in str(problem) for problem in report.errors)


def test_a_dicom_series_that_is_there_twice_is_noticed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = []
    for name, seed in (("a", 1), ("b", 2), ("again", 1)):
        folder = tmp_path / name
        folder.mkdir()
        slices = [np.random.default_rng(seed + 10 * n).bytes(300) for n in range(4)]
        order = rng.permutation(4) if name == "again" else range(4)  # other names, the same slices
        for number, index in enumerate(order):
            (folder / f"{name}{number}.dcm").write_bytes(slices[index])
        cases.append(Case(id=name, images=(folder,)))
    [problem] = duplicate_problems(cases, [])
    assert "the same image under 2 names, a and again" in problem.message
    assert list(duplicate_problems(cases[:2], [])) == []
