"""TIFF: what is mapped equals what ITK reads; folders of slices are volumes, in the order of their numbers."""

from __future__ import annotations

import json
import subprocess
import sys
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


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_stacks_whose_pages_differ_are_refused(tmp_path: Path, bigtiff: bool, byteorder: str) -> None:
    """ITK writes every page into the room that the first one asks for, and beyond it."""
    pages = [RNG.integers(0, 100, shape).astype(np.uint8) for shape in ((9, 11), (9, 11), (9, 700))]
    path = tmp_path / "a.tif"

    def write(pages: list[np.ndarray]) -> None:
        with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=byteorder) as file:
            for page in pages:
                file.write(page, photometric="minisblack", compression="zlib", contiguous=False)

    write(pages[:2])
    np.testing.assert_array_equal(read_image([path]).array[0], pages[:2])
    write(pages)
    with pytest.raises(DatasetError, match=r"a\.tif is no stack of equal slices, .*page 3 of it differs .* in width"):
        read_image([path])
    write([pages[0], pages[1].astype(np.uint16)])
    with pytest.raises(DatasetError, match=r"page 2 of it differs from the first in bits per voxel"):
        read_image([path])
    (tmp_path / "slices").mkdir()
    write(pages)
    for number in range(2):
        path.with_name("slices").joinpath(f"s{number}.tif").write_bytes(path.read_bytes())
    with pytest.raises(DatasetError, match=r"s0\.tif is no stack of equal slices"):
        read_image([tmp_path / "slices"])


def test_color_stacks_are_read(tmp_path: Path) -> None:
    """Numbers that do not fit into an entry lie elsewhere, for every page in another place."""
    pages = RNG.integers(0, 100, (3, 9, 11, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="rgb")
    assert read_image([tmp_path / "a.tif"]).array.shape == (3, 3, 9, 11)


def test_no_flipped_bit_of_a_stack_ends_the_process(tmp_path: Path) -> None:
    """In a process of its own: every other bit of the two tables of pages; a campaign by hand tried all."""
    sitk.WriteImage(sitk.GetImageFromArray(RNG.integers(0, 3, (2, 7, 5)).astype(np.uint8)), str(tmp_path / "a.tif"))
    code = """
import sys
from pathlib import Path
from autoseg.errors import DatasetError
from autoseg.image import read_image
whole, path = Path(sys.argv[1]).read_bytes(), Path(sys.argv[1]).with_name("b.tif")
first = int.from_bytes(whole[4:8], "little")
second = first + 2 + 12 * int.from_bytes(whole[first : first + 2], "little")
last = int.from_bytes(whole[second : second + 4], "little")
for place in (*range(first, second), *range(last, len(whole))):
    for bit in range(8 * place, 8 * place + 8, 2):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        try:
            read_image([path])
        except DatasetError as error:
            assert path.name in str(error)
print("read or told")
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a.tif")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "read or told\n", done.stderr[-2000:]
