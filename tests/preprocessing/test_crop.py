from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from autoseg.geometry import BoundingBox
from autoseg.preprocessing.crop import OUTSIDE, crop_to_nonzero, nonzero_mask


@pytest.mark.parametrize("shape", [(9, 10, 11), (20, 21)])
@pytest.mark.parametrize("density", [0.05, 0.5, 0.8])
def test_enclosed_zeros_are_inside(shape: tuple[int, ...], density: float) -> None:
    for seed in range(4):
        image = (np.random.default_rng(seed).random((2, *shape)) < density).astype(np.float32)
        expected = ndimage.binary_fill_holes(image.any(axis=0))
        np.testing.assert_array_equal(nonzero_mask(image), expected)


def test_the_crop_is_the_box_around_all_channels() -> None:
    image = np.zeros((2, 6, 7, 8), dtype=np.float32)
    image[0, 2, 3, 4] = -1
    image[1, 4, 3, 5] = 5
    cropped, labels, box = crop_to_nonzero(image, None)
    assert box == BoundingBox(start=(2, 3, 4), stop=(5, 4, 6))
    assert cropped.shape == (2, 3, 1, 2)
    assert np.shares_memory(cropped, image)
    assert labels[:, 0].tolist() == [[0, OUTSIDE], [OUTSIDE, OUTSIDE], [OUTSIDE, 0]]


def test_labels_outside_the_mask_stay_and_background_there_is_marked() -> None:
    image = np.zeros((1, 1, 4, 4), dtype=np.float32)
    image[0, 0, 1, 1:] = 1
    image[0, 0, 3, 1] = 1
    labels = np.zeros((1, 4, 4), dtype=np.uint8)
    labels[0, 2] = 2
    labels[0, 1, 1] = 1
    _, cropped, _ = crop_to_nonzero(image, labels)
    assert cropped.dtype == np.int16
    assert cropped[0].tolist() == [[1, 0, 0], [2, 2, 2], [0, OUTSIDE, OUTSIDE]]
    assert labels.min() == 0  # the input is left alone


def test_an_image_of_zeros_is_kept_whole() -> None:
    cropped, labels, box = crop_to_nonzero(np.zeros((1, 3, 4), dtype=np.float32), None)
    assert box == BoundingBox.whole((3, 4))
    assert cropped.shape == (1, 3, 4)
    assert (labels == OUTSIDE).all()
