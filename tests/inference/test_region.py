"""Only what a quick look found is looked at, and there nothing changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from autoseg.inference.model import ModelRecord, TrainedModel
from autoseg.inference.predictor import InferenceOptions, logit_slabs, outside_logits
from autoseg.inference.region import foreground_region, on_grid
from autoseg.labels import LabelScheme
from autoseg.networks.base import SegmentationNetwork

LABELS = LabelScheme.from_table({"background": 0, "a": 1, "b": 2}, where="test")


class Bright(SegmentationNetwork):
    """Sees class 1 where it is bright; counts its patches."""

    deep_supervision = False

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        self.seen += len(patches)
        return torch.cat([0 * patches, patches, 0 * patches - 9], dim=1)


def test_the_region_reaches_as_far_as_the_margin_in_millimetres() -> None:
    logits = np.zeros((3, 9, 9, 9), np.float32)
    logits[0] = 1
    logits[2, 4, 4, 4] = 5
    slabs = [logits[:, :2], logits[:, 2:]]
    region = foreground_region(slabs, LABELS, spacing=(3.0, 1.0, 1.0), margin_mm=2.0)
    assert region is not None
    z, y, x = np.ogrid[:9, :9, :9]
    np.testing.assert_array_equal(region, (3 * (z - 4)) ** 2 + (y - 4) ** 2 + (x - 4) ** 2 <= 4)
    alone = foreground_region(slabs, LABELS, spacing=(3.0, 1.0, 1.0), margin_mm=0.0)
    assert alone is not None
    assert alone.sum() == 1
    logits[2] = 0
    assert foreground_region([logits], LABELS, spacing=(3.0, 1.0, 1.0), margin_mm=2.0) is None


@pytest.mark.parametrize(("old", "new"), [(4, 8), (3, 7), (10, 4), (5, 5), (1, 6)])
def test_on_another_grid_every_voxel_takes_what_lies_at_its_place(old: int, new: int) -> None:
    region = np.random.default_rng(old).random((old, 6)) < 0.5
    found = on_grid(region, (new, 6))
    centers = (np.arange(new) + 0.5) / new
    np.testing.assert_array_equal(found, region[np.clip(np.floor(centers * old).astype(int), 0, old - 1)])


def test_inside_nothing_changes_and_outside_is_background(make_record: Callable[..., ModelRecord]) -> None:
    image = np.random.default_rng(0).normal(-3, 0.5, (1, 40, 40, 40)).astype(np.float32)
    image[:, 5:9, 20:24, 30:34] = 4
    coarse = np.zeros((10, 10, 10), bool)
    coarse[1:3, 4:7, 7:9] = True
    network = Bright()
    models = [TrainedModel(record=make_record(labels=LABELS, mirror_axes=()), network=network)]
    expected = np.concatenate(list(logit_slabs(models, image, InferenceOptions())), axis=1)
    everything, network.seen = network.seen, 0
    found = np.concatenate(list(logit_slabs(models, image, InferenceOptions(), region=coarse)), axis=1)
    assert network.seen < everything / 10
    inside = on_grid(coarse, image.shape[1:])
    np.testing.assert_allclose(found[:, inside], expected[:, inside], atol=1e-5)
    np.testing.assert_array_equal(found.argmax(0), expected.argmax(0))
    far = found[:, 30:, :10, :10].reshape(3, -1)
    np.testing.assert_array_equal(far, np.broadcast_to(np.reshape(outside_logits(LABELS), (3, 1)), far.shape))
