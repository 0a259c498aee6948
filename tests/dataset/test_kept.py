"""Kept cases come back voxel for voxel, once, and never take more than they may."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg.dataset import Case
from autoseg.dataset.kept import KeptCases
from autoseg.geometry import Geometry
from autoseg.image import Image, Segmentation

SHAPE = (5, 6, 7)
GEOMETRY = Geometry(shape=SHAPE, spacing=(2.0, 1.0, 1.0))
CASE = Case(id="a", images=(Path("a.nii.gz"),), label=Path("b.nii.gz"))


def image(values: np.ndarray) -> Image:
    return Image(array=values.astype(np.float32)[None], geometry=GEOMETRY)


SEGMENTATION = Segmentation(array=np.ones(SHAPE, np.uint8), geometry=GEOMETRY)
RNG = np.random.default_rng(4)


@pytest.mark.parametrize(
    ("values", "num_bytes"),
    [
        (RNG.integers(-1024, 3000, SHAPE), 2),
        (RNG.normal(size=SHAPE), 4),
        (RNG.integers(0, 100_000, SHAPE), 4),
        (np.where(np.arange(210).reshape(SHAPE) == 1, 0.5, 7), 4),  # the probe sees it, or the comparison does
        (np.where(np.arange(210).reshape(SHAPE) == 1, 1e30, 7), 4),
    ],
)
def test_a_case_comes_back_as_it_was_once(values: np.ndarray, num_bytes: int) -> None:
    kept, original = KeptCases(), image(values)
    assert kept.keep(CASE, original, SEGMENTATION, limit=10_000)
    assert kept.num_bytes == 210 * (num_bytes + 1)
    found = kept.take(CASE)
    assert found is not None
    np.testing.assert_array_equal(found[0].array, original.array)
    assert found[0].array.dtype == np.float32
    assert found[0].geometry == GEOMETRY
    assert found[1] is SEGMENTATION
    assert kept.take(CASE) is None
    assert kept.num_bytes == 0


def test_what_does_not_fit_is_not_kept() -> None:
    kept = KeptCases()
    other = Case(id="b", images=(Path("c.nii.gz"),))
    assert kept.keep(CASE, image(np.ones(SHAPE)), SEGMENTATION, limit=1000)
    assert not kept.keep(other, image(np.ones(SHAPE)), None, limit=1000)  # 630 + 420
    assert not kept.keep(other, image(np.full(SHAPE, 0.5)), None, limit=1400)  # 630 + 840
    assert kept.keep(other, image(np.ones(SHAPE)), None, limit=1050)
    kept.clear()
    assert kept.num_bytes == 0
