"""Preprocessed arrays of nnU-Net 2.8.1, voxel by voxel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autoseg.dataset import load_dataset
from autoseg.image import read_image, read_segmentation
from autoseg.plan import Plan
from autoseg.preprocessing.case import preprocess_case

DATASETS = [
    "Dataset901_AnisoCT",
    "Dataset902_TwoChannelMR",
    "Dataset903_OddAxis",
    "Dataset904_VeryThick",
    "Dataset905_Regions",
    "Dataset906_NoNorm",
    "Dataset907_Rgb2D",
    "Dataset908_Ignore",
    "Dataset909_Cascade",
]


@pytest.mark.parametrize("name", DATASETS)
def test_preprocessed_arrays_equal_nnunets(name: str, shared_dir: Path, golden_plan: Callable[[Path], Plan]) -> None:
    folder = shared_dir / "golden" / "nnunet" / name
    plan = golden_plan(folder)
    cases = {case.id: case for case in load_dataset(shared_dir / "golden" / "raw" / name).training}
    compared = 0
    for configuration in plan.configurations:
        for path in sorted((folder / "preprocessed" / configuration.name).glob("*.npz")):
            files = cases[path.stem]
            assert files.label is not None
            case = preprocess_case(
                files.id, read_image(files.images), read_segmentation(files.label), plan, configuration
            )
            expected = np.load(path)
            image, segmentation = expected["data"], expected["seg"][0]
            if case.image.ndim == 3:  # nnU-Net gives 2D images an axis of one voxel
                image, segmentation = image[:, 0], segmentation[0]
            assert case.image.dtype == np.float32
            np.testing.assert_allclose(case.image, image, rtol=0, atol=1e-5)
            assert case.segmentation is not None
            assert case.segmentation.dtype == np.int16
            np.testing.assert_array_equal(case.segmentation, segmentation)
            compared += 1
    assert compared >= 2
