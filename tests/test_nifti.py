"""Truncated files are named, whole ones pass, however they were compressed."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import DatasetError
from autoseg.geometry import Geometry
from autoseg.image import Image, read_image, write_image
from autoseg.nifti import check_nifti_is_complete


@pytest.fixture(params=[".nii.gz", ".nii"])
def image_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"image{request.param}"
    array = np.random.default_rng(0).normal(size=(1, 9, 10, 11)).astype(np.float32)
    write_image(path, Image(array=array, geometry=Geometry(shape=(9, 10, 11), spacing=(3.0, 1.0, 1.0))))
    return path


def test_a_whole_file_passes(image_path: Path) -> None:
    check_nifti_is_complete(image_path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused_wherever_it_breaks_off(image_path: Path, share: float) -> None:
    content = image_path.read_bytes()
    image_path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DatasetError, match=rf"{image_path.name} is truncated"):
        read_image([image_path])


def test_several_gzip_members_are_one_file(tmp_path: Path, image_path: Path) -> None:
    plain = gzip.decompress(image_path.read_bytes()) if image_path.suffix == ".gz" else image_path.read_bytes()
    path = tmp_path / "members.nii.gz"
    path.write_bytes(gzip.compress(plain[:1000]) + gzip.compress(plain[1000:]))
    check_nifti_is_complete(path)
    path.write_bytes(gzip.compress(plain[:1000]) + gzip.compress(plain[1000:-4]))
    with pytest.raises(DatasetError, match="truncated"):
        check_nifti_is_complete(path)


def test_other_formats_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "image.nrrd"
    path.write_bytes(b"anything")
    check_nifti_is_complete(path)
