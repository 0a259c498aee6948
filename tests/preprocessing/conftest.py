"""Plans read from nnU-Net's own, and small plans and images made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autoseg.geometry import Geometry
from autoseg.image import Image, Segmentation
from autoseg.interop.nnunet_reading import read_plans
from autoseg.plan import Plan


def _golden_plan(folder: Path) -> Plan:
    plans, dataset = (json.loads((folder / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    names = [name for name in plans["configurations"] if (folder / "preprocessed" / name).is_dir()]
    return read_plans(plans, dataset, configurations=names)


@pytest.fixture(scope="session")
def golden_plan() -> Callable[[Path], Plan]:
    """Our form of the plan that nnU-Net made; takes a folder of golden/nnunet."""
    return _golden_plan


@pytest.fixture(scope="session")
def make_case() -> Callable[..., tuple[Image, Segmentation]]:
    """An image with a zero border of two voxels, and labels 0 to 2 inside it."""

    def make(
        shape: tuple[int, ...] = (12, 14, 16),
        *,
        spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
        num_channels: int = 1,
        seed: int = 0,
    ) -> tuple[Image, Segmentation]:
        generator = np.random.default_rng(seed)
        inside = tuple(slice(2, n - 2) for n in shape)
        image = np.zeros((num_channels, *shape), dtype=np.float32)
        labels = np.zeros(shape, dtype=np.uint8)
        size = tuple(n - 4 for n in shape)
        image[(slice(None), *inside)] = generator.uniform(1, 2, (num_channels, *size))
        labels[inside] = generator.integers(0, 3, size)
        geometry = Geometry(shape=shape, spacing=spacing)
        return Image(array=image, geometry=geometry), Segmentation(array=labels, geometry=geometry)

    return make
