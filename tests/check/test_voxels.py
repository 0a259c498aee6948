from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg.check import Problem, VoxelJob, read_and_check
from autoseg.dataset import Case
from autoseg.geometry import Geometry
from autoseg.image import Image, Segmentation, write_image, write_segmentation
from autoseg.labels import LabelScheme
from autoseg.nifti import count_nonfinite

GRID = Geometry(shape=(10, 12, 14), spacing=(2.0, 1.0, 0.5))
LABELS = LabelScheme.from_table({"background": 0, "a": 1, "b": 2}, where="test")


def make_arrays() -> tuple[np.ndarray, np.ndarray]:
    """Two channels without any zero, and labels 0 to 2."""
    rng = np.random.default_rng(0)
    return rng.uniform(1, 2, (2, *GRID.shape)).astype(np.float32), rng.integers(0, 3, GRID.shape).astype(np.uint8)


def check(
    folder: Path,
    image: np.ndarray,
    labels: np.ndarray,
    *,
    ending: str = ".nii.gz",
    grid: Geometry = GRID,
    scheme: LabelScheme = LABELS,
    num_channels: int = 2,
) -> tuple[Problem, ...]:
    paths = tuple(folder / f"case_{channel:04d}{ending}" for channel in range(len(image)))
    for path, channel in zip(paths, image, strict=True):
        write_image(path, Image(array=channel[None], geometry=GRID))
    write_segmentation(folder / "case.nii.gz", Segmentation(array=labels, geometry=grid))
    case = Case(id="case", images=paths, label=folder / "case.nii.gz")
    return read_and_check(VoxelJob(case=case, labels=scheme, num_channels=num_channels)).problems


def test_a_faultless_case_has_no_problems(tmp_path: Path) -> None:
    assert check(tmp_path, *make_arrays()) == ()


@pytest.mark.parametrize("ending", [".nrrd", ".nii", ".nii.gz"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_intensities_that_are_no_numbers_are_zeros_and_counted(tmp_path: Path, ending: str, value: float) -> None:
    image, labels = make_arrays()
    image[1, 5, 5, 5:7] = value
    [problem] = check(tmp_path, image, labels, ending=ending)
    assert (problem.severity, problem.case, problem.in_voxels) == ("repaired", "case", True)
    assert "2 voxel(s) are NaN or infinite (0.06%); they are read as zero" in problem.message
    case = Case(id="case", images=(tmp_path / f"case_0001{ending}",))
    read = read_and_check(VoxelJob(case=case, labels=LABELS)).image
    assert read is not None
    np.testing.assert_array_equal(read.array[0], np.where(np.isfinite(image[1]), image[1], 0))


def test_labels_that_are_no_numbers_are_background_and_counted(tmp_path: Path) -> None:
    image, labels = make_arrays()
    check(tmp_path, image, labels)
    floating = labels.astype(np.float32)
    floating[2, 3, 4:7] = np.nan
    write_image(tmp_path / "case.nii.gz", Image(array=floating[None], geometry=GRID))
    case = Case(id="case", images=(tmp_path / "case_0000.nii.gz",), label=tmp_path / "case.nii.gz")
    checked = read_and_check(VoxelJob(case=case, labels=LABELS))
    assert [(p.severity, p.message[:10]) for p in checked.problems] == [("repaired", "3 label(s)")]
    assert checked.segmentation is not None
    assert not checked.segmentation.array[2, 3, 4:7].any()


def test_zeros_alone_are_no_problem(tmp_path: Path) -> None:
    image, labels = make_arrays()
    image[:, 0] = 0
    assert check(tmp_path, image, labels) == ()


def test_integer_files_hold_only_numbers(tmp_path: Path) -> None:
    grid = Segmentation(array=np.zeros(GRID.shape, np.int16), geometry=GRID)
    write_segmentation(tmp_path / "a.nii.gz", grid)
    assert count_nonfinite(tmp_path / "a.nii.gz") == 0


def test_undeclared_labels_are_listed_with_what_helps(tmp_path: Path) -> None:
    image, labels = make_arrays()
    labels[0, 0, :2] = 7, 9
    [problem] = check(tmp_path, image, labels)
    assert problem.severity == "error"
    assert "case.nii.gz holds the label value(s) 7, 9; dataset.json declares 0, 1, 2. Declare them" in problem.message
    assert "label_map" in problem.message


def test_very_many_values_are_not_all_listed(tmp_path: Path) -> None:
    image, _ = make_arrays()
    [problem] = check(tmp_path, image, np.arange(np.prod(GRID.shape)).reshape(GRID.shape).astype(np.int32))
    assert "22 and 1657 more" in problem.message


def test_the_ignore_label_is_declared(tmp_path: Path) -> None:
    image, labels = make_arrays()
    labels[0, 0, 0] = 3
    scheme = LabelScheme.from_table({"background": 0, "a": 1, "b": 2, "ignore": 3}, where="test")
    assert check(tmp_path, image, labels, scheme=scheme) == ()


def test_a_label_without_foreground_is_a_warning(tmp_path: Path) -> None:
    image, labels = make_arrays()
    [problem] = check(tmp_path, image, np.zeros_like(labels))
    assert (problem.severity, problem.message) == ("warning", "nothing is labelled, all is background")


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (Geometry(shape=(10, 12, 14), spacing=(3.0, 1.0, 0.5)), "spacing [2.0, 1.0, 0.5] against [3.0, 1.0, 0.5]"),
        (Geometry(shape=(10, 12, 13), spacing=(2.0, 1.0, 0.5)), "shape (10, 12, 14) against (10, 12, 13)"),
    ],
)
def test_labels_on_another_grid_are_errors(tmp_path: Path, grid: Geometry, message: str) -> None:
    image, _ = make_arrays()
    [problem] = check(tmp_path, image, np.ones(grid.shape, np.uint8), grid=grid)
    assert problem.severity == "error"
    assert "case.nii.gz does not lie on the grid of" in problem.message
    assert message in problem.message


def test_several_errors_of_one_case_are_all_told(tmp_path: Path) -> None:
    image, labels = make_arrays()
    labels[0, 0, 0] = 7
    problems = check(tmp_path, image, labels, num_channels=3)
    assert [p.severity for p in problems] == ["error", "error"]
    assert "2 channel(s) found, dataset.json declares 3" in problems[0].message


@pytest.mark.parametrize("value", [1.5, np.nan])
def test_labels_that_are_no_integers_and_unreadable_images_are_problems(tmp_path: Path, value: float) -> None:
    array = np.full((1, *GRID.shape), value, dtype=np.float32)
    write_image(tmp_path / "label.nrrd", Image(array=array, geometry=GRID))
    case = Case(id="case", images=(tmp_path / "absent.nii.gz",), label=tmp_path / "label.nrrd")
    first, second = read_and_check(VoxelJob(case=case, labels=LABELS)).problems
    assert "absent.nii.gz does not exist" in first.message
    assert f"label.nrrd holds {value}, which is not an integer label" in second.message
