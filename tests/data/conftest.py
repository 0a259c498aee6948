"""Cases in memory, and configurations small enough to try every path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from autoseg.geometry import BoundingBox
from autoseg.labels import LabelScheme
from autoseg.plan import Configuration, NetworkPlan, NormalizationPlan


@dataclass
class MemoryCase:
    """A case as a store would open it, held in memory."""

    image: np.ndarray
    segmentation: np.ndarray
    foreground: tuple[np.ndarray, ...]

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.image.shape

    def read_image(self, box: BoundingBox) -> np.ndarray:
        _check_inside(box, self.segmentation.shape)
        return self.image[(slice(None), *box.slices)]

    def read_segmentation(self, box: BoundingBox) -> np.ndarray:
        _check_inside(box, self.segmentation.shape)
        return self.segmentation[box.slices]


def _check_inside(box: BoundingBox, shape: tuple[int, ...]) -> None:
    assert all(a >= 0 for a in box.start)
    assert all(b <= n for b, n in zip(box.stop, shape, strict=True))


@dataclass
class MemoryStore:
    cases: dict[str, MemoryCase] = field(default_factory=dict)

    def open(self, case_id: str) -> MemoryCase:
        return self.cases[case_id]


def _make_case(
    shape: tuple[int, ...], labels: LabelScheme, *, num_channels: int = 1, seed: int = 0, empty: bool = False
) -> MemoryCase:
    generator = np.random.default_rng(seed)
    image = generator.normal(size=(num_channels, *shape)).astype(np.float32)
    segmentation = np.zeros(shape, dtype=np.int16)
    if not empty:
        top = labels.values[-1] + (labels.ignore_value is not None)
        segmentation[:] = generator.integers(0, top + 1, size=shape)
    foreground = [np.argwhere(target.mask(segmentation)).astype(np.int32) for target in labels.targets]
    if labels.ignore_value is not None:
        foreground.append(np.argwhere(segmentation != labels.ignore_value).astype(np.int32))
    return MemoryCase(image=image, segmentation=segmentation, foreground=tuple(foreground))


@pytest.fixture
def make_case() -> Callable[..., MemoryCase]:
    return _make_case


@pytest.fixture
def make_store() -> Callable[..., MemoryStore]:
    def make(shape: tuple[int, ...], labels: LabelScheme, *, num_cases: int = 3, **options: object) -> MemoryStore:
        return MemoryStore({f"case_{i}": _make_case(shape, labels, seed=i, **options) for i in range(num_cases)})  # type: ignore[arg-type]  # passed on

    return make


@pytest.fixture
def make_configuration() -> Callable[..., Configuration]:
    def make(
        patch_size: tuple[int, ...], *, batch_size: int = 2, num_channels: int = 1, use_mask: bool = False
    ) -> Configuration:
        ndim = len(patch_size)
        network = NetworkPlan(
            name="unet",
            features=(4, 8, 8),
            strides=((1,) * ndim, (2,) * ndim, (2,) * ndim),
            kernel_sizes=((3,) * ndim,) * 3,
            encoder_blocks=(1, 1, 1),
            decoder_blocks=(1, 1),
        )
        return Configuration(
            name="2d" if ndim == 2 else "3d_fullres",
            data="any",
            spacing=(1.0,) * ndim,
            median_shape=tuple(float(n) for n in patch_size),
            patch_size=patch_size,
            batch_size=batch_size,
            batch_dice=True,
            normalization=(NormalizationPlan(scheme="zscore", use_mask=use_mask),) * num_channels,
            network=network,
        )

    return make


@pytest.fixture
def two_labels() -> LabelScheme:
    return LabelScheme.from_table({"background": 0, "organ": 1, "tumor": 2}, where="dataset.json")


@pytest.fixture
def two_labels_and_ignore() -> LabelScheme:
    return LabelScheme.from_table({"background": 0, "organ": 1, "tumor": 2, "ignore": 3}, where="dataset.json")


@pytest.fixture
def regions_and_ignore() -> LabelScheme:
    table = {"background": 0, "whole": [1, 2], "tumor": 2, "ignore": 3}
    return LabelScheme.from_table(table, (1, 2), where="dataset.json")
