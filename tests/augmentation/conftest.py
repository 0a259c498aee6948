"""Configurations by patch size, and label schemes of every kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autoseg.labels import LabelScheme
from autoseg.plan import Configuration, NetworkPlan, NormalizationPlan


@pytest.fixture
def make_configuration() -> Callable[..., Configuration]:
    def make(
        patch_size: tuple[int, ...], *, use_mask: tuple[bool, ...] = (False,), num_stages: int = 1
    ) -> Configuration:
        ndim = len(patch_size)
        network = NetworkPlan(
            name="unet",
            features=(4,) * num_stages,
            strides=((1,) * ndim, *((2,) * ndim,) * (num_stages - 1)),
            kernel_sizes=((3,) * ndim,) * num_stages,
            encoder_blocks=(1,) * num_stages,
            decoder_blocks=(1,) * (num_stages - 1),
        )
        return Configuration(
            name="2d" if ndim == 2 else "3d_fullres",
            data="any",
            spacing=(1.0,) * ndim,
            median_shape=tuple(float(n) for n in patch_size),
            patch_size=patch_size,
            batch_size=2,
            batch_dice=True,
            normalization=tuple(NormalizationPlan(scheme="zscore", use_mask=u) for u in use_mask),
            network=network,
        )

    return make


@pytest.fixture
def two_labels() -> LabelScheme:
    return LabelScheme.from_table({"background": 0, "organ": 1, "tumor": 2}, where="dataset.json")


@pytest.fixture
def sparse_labels_and_ignore() -> LabelScheme:
    return LabelScheme.from_table({"background": 0, "organ": 3, "tumor": 7, "ignore": 8}, where="dataset.json")


@pytest.fixture
def regions_and_ignore() -> LabelScheme:
    table = {"background": 0, "whole": [1, 2], "tumor": 2, "ignore": 3}
    return LabelScheme.from_table(table, (1, 2), where="dataset.json")
