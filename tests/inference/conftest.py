"""Small records and plans."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from autoseg.inference.model import ModelRecord
from autoseg.labels import LabelScheme
from autoseg.plan import Configuration, NetworkPlan, NormalizationPlan


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_record() -> Callable[..., ModelRecord]:
    """Factory of records of a two-stage U-Net."""

    def make(
        *, ndim: int = 3, num_channels: int = 1, labels: LabelScheme | None = None, **changes: object
    ) -> ModelRecord:
        network = NetworkPlan(
            name="unet",
            features=(4, 8),
            strides=((1,) * ndim, (2,) * ndim),
            kernel_sizes=((3,) * ndim,) * 2,
            encoder_blocks=(1, 1),
            decoder_blocks=(1,),
        )
        configuration = Configuration(
            name="2d" if ndim == 2 else "3d_fullres",
            data="2d" if ndim == 2 else "3d_fullres",
            spacing=(1.0,) * ndim,
            median_shape=(12.0,) * ndim,
            patch_size=(8,) * ndim,
            batch_size=2,
            batch_dice=False,
            normalization=(NormalizationPlan(scheme="zscore"),) * num_channels,
            network=network,
        )
        values: dict[str, object] = {
            "configuration": configuration,
            "labels": labels or LabelScheme.from_table({"background": 0, "a": 1, "b": 2}, where="test"),
            "num_channels": num_channels,
            "mirror_axes": tuple(range(ndim)),
            "iterations": 10,
            "plan_digest": "digest",
        }
        return ModelRecord(**values | changes)  # type: ignore[arg-type]  # values of many types

    return make
