"""TIFF: what is mapped equals what ITK reads; folders of slices are volumes, in the order of their numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from autoseg.dataset import find_cases
from autoseg.errors import DatasetError
from autoseg.image import read_header, read_image, read_segmentation
from autoseg.slices import map_tiff, slice_files

RNG = np.random.default_rng(1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("shape", [(7, 9, 11), (12, 13)])
def test_mapped_stacks_are_what_itk_reads(tmp_path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    voxels = RNG.integers(0, 100, shape).astype(dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, voxels, photometric="minisblack")
    mapped = map_tiff(path)
    assert isinstance(mapped, np.memmap)
    image = read_image([path])
    np.testing.assert_array_equal(image.array[0], sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    assert image.geometry == read_header(path).geometry
    assert image.array.flags.writeable or image.array.dtype == dtype


def test_compressed_and_colored_files_are_read_by_itk(tmp_path: Path) -> None:
    voxels = RNG.integers(0, 100, (4, 30, 20)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "z.tif", voxels, compression="zlib", photometric="minisblack")
    assert map_tiff(tmp_path / "z.tif") is None
    np.testing.assert_array_equal(read_image([tmp_path / "z.tif"]).array[0], voxels)
    tifffile.imwrite(tmp_path / "rgb.tif", RNG.integers(0, 255, (30, 20, 3)).astype(np.uint8), photometric="rgb")
    assert map_tiff(tmp_path / "rgb.tif") is None
    assert read_image([tmp_path / "rgb.tif"]).array.shape == (3, 30, 20)
    (tmp_path / "no.tif").write_bytes(b"nothing")
    assert map_tiff(tmp_path / "no.tif") is None
    with pytest.raises(DatasetError, match="cannot be read"):
        read_image([tmp_path / "no.tif"])


@pytest.mark.parametrize("ending", [".tif", ".png"])
def test_a_folder_of_slices_is_a_volume(tmp_path: Path, ending: str) -> None:
    voxels = RNG.integers(0, 4, (12, 20, 16)).astype(np.uint8)
    folder = tmp_path / "imagesTs" / "scan"
    folder.mkdir(parents=True)
    for number, plane in enumerate(voxels):  # slice 10 must not come before slice 2
        sitk.WriteImage(sitk.GetImageFromArray(plane), str(folder / f"slice{number}{ending}"))
    assert [path.stem for path in slice_files(folder)][:3] == ["slice0", "slice1", "slice2"]
    (folder.parent / "scan.json").write_text(json.dumps({"spacing": [4.0, 0.5, 0.25]}))
    image = read_image([folder])
    np.testing.assert_array_equal(image.array[0], voxels)
    assert image.geometry.spacing == (4.0, 0.5, 0.25)
    assert read_header(folder).geometry == image.geometry
    np.testing.assert_array_equal(read_segmentation(folder).array, voxels)
    assert [case.id for case in find_cases(tmp_path / "imagesTs", ".nii.gz", num_channels=1)] == ["scan"]
    assert slice_files(folder / "slice0.tif") == []
