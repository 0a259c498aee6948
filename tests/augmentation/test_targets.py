from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from autoseg.augmentation.targets import make_targets
from autoseg.labels import LabelScheme


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (2, 4, 8), (3, 1, 2)])
def test_coarse_targets_equal_nearest_exact_interpolation(stride: tuple[int, ...], two_labels: LabelScheme) -> None:
    generator = torch.Generator().manual_seed(0)
    segmentation = torch.randint(0, 3, (12, 16, 24), generator=generator).to(torch.int16)
    (target,) = make_targets(segmentation, two_labels, [stride])
    shape = [n // s for n, s in zip(segmentation.shape, stride, strict=True)]
    expected = F.interpolate(segmentation[None, None].float(), shape, mode="nearest-exact")[0]
    assert target.dtype == torch.int16
    assert torch.equal(target.float(), expected)


def test_the_outside_becomes_background(two_labels: LabelScheme) -> None:
    segmentation = torch.tensor([[-1, 0], [1, 2]], dtype=torch.int16)
    (target,) = make_targets(segmentation, two_labels, [(1, 1)])
    assert target.tolist() == [[[0, 0], [1, 2]]]


def test_sparse_values_become_channels(sparse_labels_and_ignore: LabelScheme) -> None:
    segmentation = torch.tensor([[-1, 0, 3], [7, 8, 3]], dtype=torch.int16)
    (target,) = make_targets(segmentation, sparse_labels_and_ignore, [(1, 1)])
    assert target.dtype == torch.int16
    assert target.tolist() == [[[0, 0, 1], [2, 3, 1]]]  # ignore is one above the last channel


def test_regions_become_masks_with_ignore_last(regions_and_ignore: LabelScheme) -> None:
    segmentation = torch.tensor([[-1, 0, 1, 2, 3]], dtype=torch.int16)
    (target,) = make_targets(segmentation, regions_and_ignore, [(1, 1)])
    assert target.dtype == torch.bool
    assert target.int().tolist() == [[[0, 0, 1, 1, 0]], [[0, 0, 0, 1, 0]], [[0, 0, 0, 0, 1]]]
