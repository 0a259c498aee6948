from __future__ import annotations

import gzip
import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.check import CheckReport, check_dataset
from autoseg.codec import read_json, write_json
from autoseg.dataset import load_dataset
from autoseg.geometry import Geometry, Reorientation
from autoseg.image import Image, Segmentation, read_header, read_image, write_image, write_segmentation

GRID = Geometry(shape=(4, 5, 6), spacing=(2.0, 1.0, 1.0))


def put_image(folder: Path, name: str, grid: Geometry = GRID) -> None:
    array = np.random.default_rng(list(name.encode())).normal(size=(1, *grid.shape)).astype(np.float32)
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
    [problem] = report.repairs
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


def shear(path: Path, amount: float) -> None:
    """Let the direction matrix of an uncompressed NIfTI file deviate from a rotation, as rounding tools do."""
    content = bytearray(path.read_bytes())
    struct.pack_into("<2h", content, 252, 0, 1)  # no quaternion, a matrix only
    row = list(struct.unpack_from("<4f", content, 280))
    row[1] = amount
    struct.pack_into("<4f", content, 280, *row)
    path.write_bytes(content)


def uncompressed_case(folder: Path) -> Path:
    """One case whose files are .nii."""
    put_table(folder, 1)
    table = json.loads((folder / "dataset.json").read_text()) | {"file_ending": ".nii", "channel_names": {"0": "T1"}}
    (folder / "dataset.json").write_text(json.dumps(table))
    image = Image(array=np.random.default_rng(0).normal(size=(1, *GRID.shape)).astype(np.float32), geometry=GRID)
    write_image(folder / "imagesTr" / "a_0000.nii", image)
    write_segmentation(folder / "labelsTr" / "a.nii", Segmentation(array=np.ones(GRID.shape, np.uint8), geometry=GRID))
    return folder


def test_a_direction_matrix_that_is_no_rotation_is_repaired(tmp_path: Path) -> None:
    path = uncompressed_case(tmp_path) / "imagesTr" / "a_0000.nii"
    before = read_image([path])
    shear(path, 0.01)
    [problem] = check(tmp_path).repairs
    assert (problem.severity, problem.case, problem.path) == ("repaired", "a", path)
    assert "the direction matrix is no rotation; the nearest one is taken" in problem.message
    after = read_image([path])
    np.testing.assert_array_equal(after.array, before.array)
    matrix = np.asarray(after.geometry.directions)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(matrix, before.geometry.directions, atol=0.01)
    assert after.geometry == read_header(path).geometry
    assert after.geometry.spacing == before.geometry.spacing


def test_a_compressed_file_is_repaired_in_the_same_way(tmp_path: Path) -> None:
    path = uncompressed_case(tmp_path) / "imagesTr" / "a_0000.nii"
    shear(path, 0.01)
    expected = read_image([path])
    compressed = tmp_path / "b.nii.gz"
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    found = read_image([compressed])
    np.testing.assert_array_equal(found.array, expected.array)
    assert found.geometry == expected.geometry


def test_a_matrix_that_does_not_span_space_is_an_error(tmp_path: Path) -> None:
    path = uncompressed_case(tmp_path) / "imagesTr" / "a_0000.nii"
    shear(path, 100.0)
    [problem] = check(tmp_path).errors
    assert "direction matrix that does not span space" in problem.message


def test_oblique_axes_that_a_format_allows_are_a_warning(tmp_path: Path) -> None:
    put_table(tmp_path, 1)
    table = json.loads((tmp_path / "dataset.json").read_text()) | {"file_ending": ".nrrd", "channel_names": {"0": "T1"}}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    sheared = replace(GRID, directions=((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.995, 0.0995, 0.0)))
    for grid, number in ((sheared, 1), (GRID, 0)):
        image = Image(array=np.random.default_rng(0).normal(size=(1, *grid.shape)).astype(np.float32), geometry=grid)
        write_image(tmp_path / "imagesTr" / "a_0000.nrrd", image)
        write_segmentation(
            tmp_path / "labelsTr" / "a.nrrd", Segmentation(array=np.ones(grid.shape, np.uint8), geometry=GRID)
        )
        found = [p for p in check(tmp_path).problems if "do not stand at right angles" in p.message]
        assert [(p.severity, p.case) for p in found] == [("warning", "a")] * number


def test_truncated_files_are_errors(folder: Path) -> None:
    path = folder / "imagesTr" / "a_0001.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-40]))
    [problem] = check(folder).errors
    assert (problem.case, "is truncated" in problem.message) == ("a", True)


def test_the_same_image_under_two_names_is_a_warning(folder: Path) -> None:
    source = (folder / "imagesTr" / "a_0001.nii.gz").read_bytes()
    (folder / "imagesTr" / "c_0001.nii.gz").write_bytes(gzip.compress(gzip.decompress(source), 1))
    [problem] = check(folder).problems
    assert problem.severity == "warning"
    assert "the same image under 2 names, a_0001.nii.gz and c_0001.nii.gz; keep one" in problem.message


def test_a_test_image_that_was_trained_on_is_a_warning(folder: Path) -> None:
    shutil.copy(folder / "imagesTr" / "a_0000.nii.gz", folder / "imagesTs" / "t_0000.nii.gz")
    [problem] = check(folder).problems
    assert "no prediction of an unseen case" in problem.message


def test_two_equal_channels_are_a_warning(folder: Path) -> None:
    shutil.copy(folder / "imagesTr" / "a_0000.nii.gz", folder / "imagesTr" / "a_0001.nii.gz")
    [problem] = check(folder).problems
    assert (problem.case, "two channels are the same image" in problem.message) == ("a", True)


def test_a_case_for_training_and_testing_is_a_warning(folder: Path) -> None:
    for channel in range(2):
        put_image(folder / "imagesTs", f"a_{channel:04d}x")  # another content than that of the training case
        (folder / "imagesTs" / f"a_{channel:04d}x.nii.gz").rename(folder / "imagesTs" / f"a_{channel:04d}.nii.gz")
    [problem] = check(folder).problems
    assert problem.message.startswith("case a is there for training and for testing")


@pytest.mark.parametrize(
    ("folds", "severity", "message"),
    [
        ([{"train": ["a", "b"], "val": ["b"]}], "error", "fold 0 trains on b and holds it out as well"),
        ([{"train": ["a"], "val": ["x"]}], "error", "fold 0 names x, which is not a training case"),
        ([{"train": ["a"], "val": ["b"]}, {"train": ["c"], "val": ["b"]}], "warning", "1 case(s) are held out twice"),
        ([{"train": ["a"], "val": ["b"]}], "warning", "1 case(s) are in no fold, such as c"),
    ],
)
def test_folds_of_the_dataset_are_checked(folder: Path, folds: object, severity: str, message: str) -> None:
    (folder / "splits_final.json").write_text(json.dumps(folds))
    [problem] = check(folder).problems
    assert problem.severity == severity
    assert message in problem.message


def test_spacings_far_from_the_others_are_warnings(folder: Path) -> None:
    for name in ("d", "e", "f"):
        put_case(folder, name)
    put_case(folder, "g", Geometry(shape=(4, 5, 6), spacing=(2.0, 1.0, 4.0)))
    put_table(folder, 7)
    [problem] = check(folder).problems
    assert (problem.severity, problem.case) == ("warning", "g")
    assert "the spacing 2, 1, 4 mm is far from the usual 2, 1, 1 mm" in problem.message
    for name in ("h", "i"):
        put_case(folder, name, Geometry(shape=(4, 5, 6), spacing=(2.0, 1.0, 4.0)))
    put_table(folder, 9)
    assert check(folder).problems == ()  # a third of the cases are no outliers


def test_labels_stored_as_floats_are_told_once(folder: Path) -> None:
    for name in ("a", "b"):
        image = Image(array=np.ones((1, *GRID.shape), np.float32), geometry=GRID)
        write_image(folder / "labelsTr" / f"{name}.nii.gz", image)
    [problem] = check(folder).problems
    assert problem.severity == "repaired"
    assert "the labels of 2 case(s), such as a, are stored as floating-point numbers" in problem.message


def test_labels_too_large_to_be_stored_are_an_error(folder: Path) -> None:
    table = json.loads((folder / "dataset.json").read_text()) | {"labels": {"background": 0, "a": 40000}}
    (folder / "dataset.json").write_text(json.dumps(table))
    [problem] = check(folder).errors
    assert "40000 is too large" in problem.message


def test_unsuitable_4d_files_are_errors(folder: Path) -> None:
    volumes = [sitk.GetImageFromArray(np.full(GRID.shape, value, np.int16)) for value in range(3)]
    for volume in volumes:
        volume.SetSpacing(GRID.itk_spacing)
    sitk.WriteImage(sitk.JoinSeries(volumes), str(folder / "imagesTr" / "a_0000.nii.gz"))
    sitk.WriteImage(sitk.JoinSeries(volumes), str(folder / "labelsTr" / "b.nii.gz"))
    messages = [p.message for p in check(folder).errors]
    assert messages == [
        "4 channel(s) in a_0000.nii.gz, a_0001.nii.gz, dataset.json declares 2",
        "the label has 3 channels, a segmentation has one",
    ]
