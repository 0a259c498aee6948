"""Stacks of neighboring slices as training examples: which slices, which one is segmented, along which axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from autoseg.augmentation.recipe import parse_recipe
from autoseg.augmentation.transforms import build_training_transform
from autoseg.data.loading import PatchBatches
from autoseg.data.policy import SamplingPolicy
from autoseg.data.sampling import place_slice, read_stack
from autoseg.geometry import BoundingBox
from autoseg.labels import LabelScheme
from autoseg.plan import Configuration, NetworkPlan, NormalizationPlan, SlicePlan

LABELS = LabelScheme.from_table({"background": 0, "even": 1}, where="test")


def stacked(axes: tuple[int, ...] = (0, 1, 2), *, context: int = 5, edge: int = 8, channels: int = 1) -> Configuration:
    network = NetworkPlan(
        name="unet",
        features=(4, 8),
        strides=((1, 1), (2, 2)),
        kernel_sizes=((3, 3),) * 2,
        encoder_blocks=(1, 1),
        decoder_blocks=(1,),
    )
    return Configuration(
        name="2p5d",
        data="3d_fullres",
        spacing=(1.0, 1.0, 1.0),
        median_shape=(12.0, 12.0, 12.0),
        patch_size=(edge, edge),
        batch_size=6,
        batch_dice=True,
        normalization=(NormalizationPlan(scheme="zscore"),) * channels,
        network=network,
        slices=SlicePlan(context=context, axes=axes),
    )


def numbered(case: object, shape: tuple[int, int, int]) -> None:
    """Voxels that say where they are; labels that follow the voxel."""
    places = np.arange(np.prod(shape)).reshape(shape)
    case.image[:] = places  # type: ignore[attr-defined]  # a case of the fixture
    case.segmentation[:] = places % 2 == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_stack_holds_the_neighbors_of_its_slice_and_repeats_the_border(
    make_case: Callable[..., object], axis: int
) -> None:
    case = make_case((6, 7, 8), LABELS, num_channels=2)
    for slice_number in range(case.segmentation.shape[axis]):  # type: ignore[attr-defined]
        start, stop = [0, 0, 0], list(case.segmentation.shape)  # type: ignore[attr-defined]
        start[axis], stop[axis] = slice_number, slice_number + 1
        box = BoundingBox(start=tuple(start), stop=tuple(stop))
        image, segmentation = read_stack(case, box, axis=axis, context=5)  # type: ignore[arg-type]
        for place in range(5):
            neighbor = min(max(slice_number + place - 2, 0), case.segmentation.shape[axis] - 1)  # type: ignore[attr-defined]
            np.testing.assert_array_equal(image[:, place], case.image.take(neighbor, axis=1 + axis))  # type: ignore[attr-defined]
            np.testing.assert_array_equal(segmentation[place], case.segmentation.take(neighbor, axis=axis))  # type: ignore[attr-defined]


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1, 2)])
def test_the_target_is_that_of_the_middle_slice(make_store: Callable[..., object], axes: tuple[int, ...]) -> None:
    """R305 and R306: shapes of a batch, and labels that follow the middle channel, along all axes."""
    shape = (12, 13, 14)
    store = make_store(shape, LABELS, num_cases=1)
    numbered(store.cases["case_0"], shape)  # type: ignore[attr-defined]  # a store of the fixture
    batches = PatchBatches(store, ["case_0"], stacked(axes), LABELS, augment=False, sampling=SamplingPolicy(), seed=1)
    strides = {0: 13 * 14, 1: 14, 2: 1}
    seen = set()
    for step in range(8):
        images, targets, _ = batches[step]
        assert images.shape == (6, 5, 8, 8)
        assert targets[0].shape == (6, 1, 8, 8)
        for image, target in zip(images, targets[0], strict=True):
            inside = image[2] != 0  # 0 is outside, or the very first voxel
            assert torch.equal(target[0][inside].bool(), (image[2] % 2 == 0)[inside])
            difference = (image[3] - image[2])[inside & (image[3] > image[2])]
            if len(difference):  # not at the last slice
                seen.add(int(difference[0]))
                assert difference.unique().numel() == 1
    assert seen == {strides[axis] for axis in axes}


def test_crops_of_256_pixels(make_store: Callable[..., object]) -> None:
    """R306: whatever the volume; what lies outside of it is no image."""
    store = make_store((7, 40, 300), LABELS)
    images, targets, _ = PatchBatches(
        store,  # type: ignore[arg-type]  # a store of the fixture
        ["case_0"],
        stacked(edge=256),
        LABELS,
        augment=True,
        sampling=SamplingPolicy(),
        seed=1,
    )[0]
    assert images.shape == (6, 5, 256, 256)
    assert targets[0].shape == (6, 1, 256, 256)


def test_batches_are_the_same_again(make_store: Callable[..., object]) -> None:
    store = make_store((9, 13, 14), LABELS)
    for configuration in (stacked(), replace(stacked(), spacing=(1.0, 1.0), median_shape=(12.0, 12.0), slices=None)):
        first, again = (
            PatchBatches(
                store, ["case_0", "case_1"], configuration, LABELS, augment=True, sampling=SamplingPolicy(), seed=3
            )[4]
            for _ in range(2)
        )
        assert torch.equal(first.images, again.images)
        assert torch.equal(first.targets[0], again.targets[0])


def test_slices_of_one_image_change_their_brightness_together() -> None:
    configuration = stacked(context=3, edge=16, channels=2)
    transform = build_training_transform(configuration, LABELS, recipe=parse_recipe("none+brightness"))
    torch.manual_seed(0)
    np.random.seed(0)  # the library's state
    factors = []
    for _ in range(40):
        image, _ = transform(torch.ones(6, 16, 16), torch.zeros(1, 16, 16, dtype=torch.int16))
        factors.append(image[:, 0, 0])
    found = torch.stack(factors).reshape(40, 2, 3)
    assert (found != 1).any()
    torch.testing.assert_close(found, found[:, :, :1].expand_as(found))
    assert (found[:, 0] != found[:, 1]).any()


def test_a_slice_is_placed_in_a_volume() -> None:
    assert [place_slice((4, 6), axis) for axis in (0, 1, 2, None)] == [(1, 4, 6), (4, 1, 6), (4, 6, 1), (4, 6)]


@pytest.mark.parametrize("context", [0, 2, -1])
def test_a_stack_has_a_middle(context: int) -> None:
    with pytest.raises(ValueError, match="odd number of slices"):
        SlicePlan(context=context)
