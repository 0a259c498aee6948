from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.errors import DatasetError
from autoseg.geometry import Geometry
from autoseg.image import (
    Image,
    Segmentation,
    read_header,
    read_image,
    read_segmentation,
    write_image,
    write_segmentation,
)

C, S = math.cos(0.4), math.sin(0.4)
OBLIQUE = Geometry(
    shape=(3, 4, 5),
    spacing=(3.0, 2.0, 1.5),
    origin=(10.0, -20.0, 5.5),
    directions=((0.0, S, C), (0.0, C, -S), (-1.0, 0.0, 0.0)),
)
FLAT = Geometry(shape=(4, 5), spacing=(1.0, 1.0))


def make_image(geometry: Geometry = OBLIQUE) -> Image:
    array = np.random.default_rng(0).normal(size=(1, *geometry.shape)).astype(np.float32)
    return Image(array=array, geometry=geometry)


def make_labels(geometry: Geometry = OBLIQUE, dtype: type[np.generic] = np.uint8) -> Segmentation:
    array = np.random.default_rng(0).integers(0, 4, geometry.shape).astype(dtype)
    return Segmentation(array=array, geometry=geometry)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_volumes_come_back_with_an_oblique_grid(tmp_path: Path, ending: str) -> None:
    image, path = make_image(), tmp_path / f"folder/image{ending}"
    write_image(path, image)
    read = read_image([path])
    np.testing.assert_array_equal(read.array, image.array)
    assert read.array.dtype == np.float32
    assert read.geometry.differences(OBLIQUE, tolerance=1e-5) == []
    assert read.geometry.orientation == OBLIQUE.orientation == "SPR"
    header = read_header(path)
    assert header.num_channels == 1
    assert header.geometry == read.geometry
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing temporary stays


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_segmentations_come_back(tmp_path: Path, ending: str, dtype: type[np.generic]) -> None:
    labels, path = make_labels(dtype=dtype), tmp_path / f"labels{ending}"
    write_segmentation(path, labels)
    read = read_segmentation(path)
    np.testing.assert_array_equal(read.array, labels.array)
    assert read.array.dtype == dtype
    assert read.geometry.differences(OBLIQUE, tolerance=1e-5) == []


def test_masks_are_written_as_zeros_and_ones(tmp_path: Path) -> None:
    labels = make_labels()
    write_segmentation(tmp_path / "a.nii.gz", replace(labels, array=labels.array > 1))
    assert np.unique(read_segmentation(tmp_path / "a.nii.gz").array).tolist() == [0, 1]


def test_png_images_have_two_axes(tmp_path: Path) -> None:
    labels = make_labels(FLAT)
    write_segmentation(tmp_path / "labels.png", labels)
    read = read_segmentation(tmp_path / "labels.png")
    np.testing.assert_array_equal(read.array, labels.array)
    assert read.geometry == FLAT
    assert read_image([tmp_path / "labels.png"]).array.shape == (1, 4, 5)


def test_one_color_png_is_three_channels(tmp_path: Path) -> None:
    colors = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colors, isVector=True), str(tmp_path / "rgb.png"))
    assert read_header(tmp_path / "rgb.png").num_channels == 3
    image = read_image([tmp_path / "rgb.png"])
    np.testing.assert_array_equal(image.array, np.moveaxis(colors, -1, 0))
    assert image.geometry == FLAT


def test_a_4d_file_is_one_image_with_channels(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    volumes = [sitk.GetImageFromArray(volume) for volume in array]
    for volume in volumes:
        volume.SetSpacing(OBLIQUE.itk_spacing)
        volume.SetOrigin(OBLIQUE.origin)
        volume.SetDirection(OBLIQUE.itk_direction)
    sitk.WriteImage(sitk.JoinSeries(volumes), str(tmp_path / "both.nii.gz"))
    image = read_image([tmp_path / "both.nii.gz"])
    np.testing.assert_array_equal(image.array, array)
    assert image.geometry.differences(OBLIQUE, tolerance=1e-5) == []
    header = read_header(tmp_path / "both.nii.gz")
    assert header.num_channels == 2
    assert header.geometry == image.geometry


def test_files_become_channels_in_the_order_given(tmp_path: Path) -> None:
    first, second = make_image(), make_image()
    second = replace(second, array=second.array + 1)
    write_image(tmp_path / "a.nrrd", first)
    write_image(tmp_path / "b.nrrd", second)
    image = read_image([tmp_path / "b.nrrd", tmp_path / "a.nrrd"])
    np.testing.assert_array_equal(image.array, np.concatenate([second.array, first.array]))


def test_channels_on_different_grids_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.nrrd", make_image())
    write_image(tmp_path / "b.nrrd", make_image(replace(OBLIQUE, spacing=(3.0, 2.0, 1.0))))
    with pytest.raises(DatasetError, match=r"b\.nrrd and .*a\.nrrd are channels of one case but differ: spacing"):
        read_image([tmp_path / "a.nrrd", tmp_path / "b.nrrd"])


def test_integer_labels_stored_as_floats_are_accepted(tmp_path: Path) -> None:
    labels = make_labels()
    write_image(tmp_path / "a.nii.gz", Image(array=labels.array[None].astype(np.float32), geometry=OBLIQUE))
    read = read_segmentation(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read.array, labels.array)
    assert np.issubdtype(read.array.dtype, np.integer)


@pytest.mark.parametrize("value", [1.5, np.nan, np.inf])
def test_labels_that_are_no_integers_are_refused(tmp_path: Path, value: float) -> None:
    array = np.ones((1, *OBLIQUE.shape), dtype=np.float32)
    array[0, 1, 2, 3] = value
    write_image(tmp_path / "a.nrrd", Image(array=array, geometry=OBLIQUE))
    with pytest.raises(DatasetError, match=rf"a\.nrrd holds {value}, which is not an integer label"):
        read_segmentation(tmp_path / "a.nrrd")


def test_a_segmentation_has_one_channel(tmp_path: Path) -> None:
    colors = np.zeros((4, 5, 3), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colors, isVector=True), str(tmp_path / "rgb.png"))
    with pytest.raises(DatasetError, match=r"rgb\.png has 3 channels; a segmentation has one"):
        read_segmentation(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match="one channel per file"):
        write_image(tmp_path / "a.nii.gz", Image(array=np.zeros((2, 4, 5), np.float32), geometry=FLAT))


@pytest.mark.parametrize("read", [read_header, read_segmentation, lambda path: read_image([path])])
def test_missing_and_foreign_files_are_named(tmp_path: Path, read: object) -> None:
    assert callable(read)
    with pytest.raises(DatasetError, match=r"absent\.nii\.gz does not exist"):
        read(tmp_path / "absent.nii.gz")
    (tmp_path / "text.nrrd").write_text("no image")
    with pytest.raises(DatasetError, match=r"text\.nrrd cannot be read as an image"):
        read(tmp_path / "text.nrrd")


def test_arrays_must_fit_their_grid() -> None:
    with pytest.raises(ValueError, match="does not fit a grid"):
        Image(array=np.zeros((1, 3, 4), np.float32), geometry=FLAT)
    with pytest.raises(ValueError, match="does not fit a grid"):
        Segmentation(array=np.zeros((3, 4), np.uint8), geometry=FLAT)
    with pytest.raises(DatasetError, match="at least one image file"):
        read_image([])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    write_segmentation(path, make_labels())
    before = path.read_bytes()
    with pytest.raises((RuntimeError, TypeError, KeyError)):
        write_segmentation(path, make_labels(dtype=np.object_))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]
