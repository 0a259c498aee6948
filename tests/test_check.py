from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from autoseg.check import CheckReport, check_dataset
from autoseg.codec import read_json, write_json
from autoseg.dataset import load_dataset
from autoseg.geometry import Geometry, Reorientation
from autoseg.image import Image, Segmentation, write_image, write_segmentation

GRID = Geometry(shape=(4, 5, 6), spacing=(2.0, 1.0, 1.0))


def put_image(folder: Path, name: str, grid: Geometry = GRID) -> None:
    array = np.ones((1, *grid.shape), dtype=np.float32)
    write_image(folder / f"{name}.nii.gz", Image(array=array, geometry=grid))


def put_label(folder: Path, name: str, grid: Geometry = GRID) -> None:
    write_segmentation(
        folder / "labelsTr" / f"{name}.nii.gz", Segmentation(array=np.ones(grid.shape, np.uint8), geometry=grid)
    )


def put_case(folder: Path, name: str, grid: Geometry = GRID) -> None:
    for channel in range(2):
        put_image(folder / "imagesTr", f"{name}_{channel:04d}", grid)
    put_label(folder, name, grid)


def put_table(folder: Path, num_training: int) -> None:
    table = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "a": 1},
        "numTraining": num_training,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(table))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three faultless cases with two channels each, and one test case."""
    for name in ("a", "b", "c"):
        put_case(tmp_path, name)
    for channel in range(2):
        put_image(tmp_path / "imagesTs", f"t_{channel:04d}")
    put_table(tmp_path, 3)
    return tmp_path


def check(folder: Path) -> CheckReport:
    return check_dataset(load_dataset(folder))


def test_a_faultless_dataset_has_no_problems(folder: Path) -> None:
    report = check(folder)
    assert report.problems == ()
    assert (report.num_cases, report.majority_orientation, report.num_turned) == (3, "SPL", 0)


def test_channels_on_different_grids_are_errors(folder: Path) -> None:
    put_image(folder / "imagesTr", "b_0001", Geometry(shape=(4, 5, 7), spacing=(2.0, 1.0, 1.5)))
    first, second = check(folder).errors
    assert (first.case, first.path) == ("b", folder / "imagesTr" / "b_0001.nii.gz")
    assert first.message == "differs from b_0000.nii.gz: shape (4, 5, 6) against (4, 5, 7)"
    assert second.message == "differs from b_0000.nii.gz: spacing [2.0, 1.0, 1.0] against [2.0, 1.0, 1.5]"
    assert str(first) == f"{first.path}: {first.message}"


def test_a_label_on_another_grid_is_an_error(folder: Path) -> None:
    put_label(folder, "c", Geometry(shape=(4, 5, 5), spacing=(2.0, 1.0, 1.0)))
    [problem] = check(folder).errors
    assert (problem.case, problem.path) == ("c", folder / "labelsTr" / "c.nii.gz")
    assert "shape (4, 5, 6) against (4, 5, 5)" in problem.message


def test_another_origin_or_direction_is_a_warning(folder: Path) -> None:
    put_label(folder, "a", Geometry(shape=(4, 5, 6), spacing=(2.0, 1.0, 1.0), origin=(9.0, 0.0, 0.0)))
    report = check(folder)
    assert report.errors == ()
    [problem] = report.warnings
    assert "origin [0.0, 0.0, 0.0] against [9.0, 0.0, 0.0]" in problem.message


def test_grids_of_micrometres_are_told_apart(folder: Path) -> None:
    put_case(folder, "a", Geometry(shape=(4, 5, 6), spacing=(2e-3, 5e-4, 5e-4)))
    put_label(folder, "a", Geometry(shape=(4, 5, 6), spacing=(2e-3, 5e-4, 6e-4)))
    [problem] = check(folder).errors
    assert "spacing [0.002, 0.0005, 0.0005] against [0.002, 0.0005, 0.0006]" in problem.message


def test_a_wrong_number_of_cases_is_an_error_that_says_what_to_write(folder: Path) -> None:
    put_table(folder, 4)
    [problem] = check(folder).errors
    assert problem.path == folder / "dataset.json"
    assert 'numTraining is 4, but 3 training cases were found; set "numTraining": 3' in problem.message


def test_missing_channels_are_errors_in_training_and_test_cases(folder: Path) -> None:
    (folder / "imagesTr" / "a_0001.nii.gz").unlink()
    (folder / "imagesTs" / "t_0001.nii.gz").unlink()
    problems = check(folder).errors
    assert [(p.case, p.message) for p in problems] == [
        ("a", "1 channel(s) in a_0000.nii.gz, dataset.json declares 2"),
        ("t", "1 channel(s) in t_0000.nii.gz, dataset.json declares 2"),
    ]


def test_2d_and_3d_images_cannot_be_mixed(folder: Path) -> None:
    put_case(folder, "c", Geometry(shape=(5, 6), spacing=(1.0, 1.0)))
    messages = [p.message for p in check(folder).errors]
    assert messages == ["2D and 3D images cannot be mixed: 1 are 2D (such as c), 2 are 3D (such as a)"]


def test_cases_in_another_orientation_are_counted(folder: Path) -> None:
    put_case(folder, "a", Reorientation.between("SPL", "LAI").apply_to_geometry(GRID))
    report = check(folder)
    assert report.errors == ()
    assert (report.majority_orientation, report.num_turned) == ("SPL", 1)
    [problem] = report.warnings
    assert problem.case is None
    assert problem.message.startswith(
        "1 of 3 cases are stored in another orientation than SPL, LAI (1); they are turned"
    )


def test_every_problem_is_found_at_once_unreadable_files_included(folder: Path) -> None:
    (folder / "imagesTr" / "a_0000.nii.gz").write_bytes(b"no image")
    put_label(folder, "b", Geometry(shape=(4, 5, 5), spacing=(2.0, 1.0, 1.0)))
    put_table(folder, 7)
    report = check(folder)
    assert [p.case for p in report.errors] == [None, "a", "b"]
    assert "a_0000.nii.gz" in str(report.errors[1])


def test_the_report_survives_its_file(folder: Path, tmp_path: Path) -> None:
    put_table(folder, 4)
    report = check(folder)
    write_json(report, tmp_path / "check.json")
    assert read_json(CheckReport, tmp_path / "check.json") == report


def test_worker_processes_find_the_same(folder: Path) -> None:
    put_table(folder, 4)
    (folder / "imagesTr" / "a_0001.nii.gz").unlink()
    dataset = load_dataset(folder)
    assert check_dataset(dataset, workers=1) == check_dataset(dataset)


def test_no_golden_dataset_has_problems(shared_dir: Path, tmp_path: Path) -> None:
    for path in sorted((shared_dir / "golden" / "raw").iterdir()):
        assert check(path).problems == (), path.name


def test_one_color_file_is_three_channels(tmp_path: Path, shared_dir: Path) -> None:
    source = shared_dir / "golden" / "raw" / "Dataset907_Rgb2D"
    shutil.copytree(source, tmp_path / "rgb")
    table = json.loads((tmp_path / "rgb" / "dataset.json").read_text())
    table["channel_names"] = {"0": "gray"}
    (tmp_path / "rgb" / "dataset.json").write_text(json.dumps(table))
    report = check(tmp_path / "rgb")
    assert "3 channel(s) in" in report.errors[0].message
