"""Distortions of a previous stage's segmentation."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from autoseg.augmentation.previous_stage import distort, one_hot
from autoseg.labels import LabelScheme


def seed(number: int) -> None:
    np.random.seed(number)
    torch.manual_seed(number)


def blobs() -> torch.Tensor:
    """Two labels in a (20, 20, 20) patch: a block of 6^3 and one of 2^3 apart; a block of 4^3 beside them."""
    channels = torch.zeros(2, 20, 20, 20)
    channels[0, 2:8, 2:8, 2:8] = 1
    channels[0, 15:17, 15:17, 15:17] = 1
    channels[1, 10:14, 2:6, 2:6] = 1
    return channels


def test_indicators_are_those_of_the_label_values() -> None:
    labels = LabelScheme.from_table({"background": 0, "a": 3, "b": 7}, where="test")
    found = one_hot(torch.tensor([[-1, 0, 3, 7]]), labels)
    assert found.tolist() == [[[0, 0, 1, 0]], [[0, 0, 0, 1]]]


def test_a_patch_depends_on_its_seed_alone_and_not_on_the_patches_before() -> None:
    fresh = {}
    for number in range(30):
        seed(number)
        fresh[number] = distort(blobs())
    for number in reversed(range(30)):
        seed(number)
        assert torch.equal(distort(blobs()), fresh[number])


def test_about_half_of_the_patches_change_and_labels_stay_apart() -> None:
    changed = 0
    for number in range(300):
        seed(number)
        distorted = distort(blobs())
        assert set(distorted.unique().tolist()) <= {0.0, 1.0}
        assert not (distorted.sum(0) > 1).any()
        changed += not torch.equal(distorted, blobs())
    # 0.4 * 0.75 + 0.2 * 0.75 less both, less opening and closing that change nothing.
    assert 0.25 < changed / 300 < 0.45


def test_without_morphology_whole_components_are_lost_and_nothing_else() -> None:
    original = blobs().bool().numpy()
    sizes = set()
    for number in range(150):
        seed(number)
        if float(torch.rand(1)) < 0.4:
            continue  # this patch is changed by morphology as well
        seed(number)
        distorted = distort(blobs()).bool().numpy()
        for label in range(2):
            lost = original[label] & ~distorted[label]
            assert not (distorted[label] & ~original[label]).any()
            if lost.any():
                components, count = ndimage.label(original[label], np.ones((3, 3, 3)))
                assert any(np.array_equal(lost, components == c + 1) for c in range(count))
                sizes.add(int(lost.sum()))
    assert sizes == {6**3, 2**3, 4**3}


def test_a_component_that_fills_the_patch_is_kept() -> None:
    for number in range(60):
        seed(number)
        if float(torch.rand(1)) < 0.4:
            continue
        seed(number)
        assert distort(torch.ones(1, 8, 8, 8)).all()


def test_dilation_reaches_no_further_than_eight_voxels() -> None:
    reach = ndimage.distance_transform_edt(~blobs().bool().numpy().any(0)) <= 8
    for number in range(100):
        seed(number)
        assert not (distort(blobs()).bool().numpy().any(0) & ~reach).any()
