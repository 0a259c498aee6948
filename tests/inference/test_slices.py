"""A volume seen in slices along any axis: which slice a network sees and answers for, and how axes are averaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import SettingsError
from autoseg.inference.ensemble import mean_slabs
from autoseg.inference.model import ModelRecord, TrainedModel
from autoseg.inference.predictor import ConfigurationPredictor, InferenceOptions, logit_slabs
from autoseg.inference.sliding_window import Tiling, sliding_window, window_slabs
from autoseg.inference.views import views_of
from autoseg.networks.base import SegmentationNetwork
from autoseg.plan import Plan, SlicePlan

Records = Callable[..., ModelRecord]


class Pick(SegmentationNetwork):
    """Answers with one of its input channels, its negative and its double."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        chosen = patches[:, [self.channel]]
        return torch.cat([chosen, -chosen, 2 * chosen], dim=1)


class Blur(SegmentationNetwork):
    """Knows rows from columns and the slices of a stack from each other; turned and mirrored it answers otherwise."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.register_buffer("kernel", torch.randn((3, channels, 3, 3), generator=generator))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(patches, self.kernel, padding=1)


def model(
    make_record: Records, network: SegmentationNetwork, slices: SlicePlan | None, *, channels: int = 1
) -> TrainedModel:
    record = make_record(ndim=2, num_channels=channels * (1 if slices is None else slices.context))
    record = replace(record, configuration=replace(record.configuration, slices=slices))
    return TrainedModel(record=record, network=network.eval())


def whole(models: list[TrainedModel], image: np.ndarray, **options: object) -> np.ndarray:
    return np.concatenate(list(logit_slabs(models, image, InferenceOptions(**options))), axis=1)  # type: ignore[arg-type]  # values of many types


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    axis=st.integers(0, 2),
    context=st.sampled_from([1, 3, 5]),
    place=st.integers(0, 4),
    patch=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    step=st.sampled_from([0.3, 0.5, 1.0]),
)
def test_the_answer_is_that_of_the_middle_slice_and_the_border_is_repeated(
    shape: tuple[int, int, int], axis: int, context: int, place: int, patch: tuple[int, int], step: float
) -> None:
    image = torch.randn((2, *shape), generator=torch.Generator().manual_seed(1))
    place %= context
    tiling = Tiling(patch_size=patch, step=step, slice_axis=axis, context=context, batch_size=3)
    # Two image channels: slices of one image channel stand beside each other.
    logits = sliding_window(image, lambda p: p[:, [place, context + place]], tiling, num_outputs=2)
    offset = place - context // 2
    shifted = image.index_select(1 + axis, torch.arange(shape[axis]).add(offset).clamp(0, shape[axis] - 1))
    torch.testing.assert_close(logits, shifted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_along_an_axis_are_those_along_the_first_of_a_turned_volume(axis: int) -> None:
    image = torch.randn((1, 9, 13, 11), generator=torch.Generator().manual_seed(2))
    network = Blur(3)
    tiling = Tiling(patch_size=(4, 6), views=views_of("turns", (0, 1), 2), context=3)
    found = sliding_window(image, network, replace(tiling, slice_axis=axis), num_outputs=3)
    turned = sliding_window(image.movedim(1 + axis, 1).contiguous(), network, tiling, num_outputs=3)
    torch.testing.assert_close(found, turned.movedim(1, 1 + axis), rtol=1e-4, atol=1e-5)


def test_planes_that_wait_are_no_more_than_a_patch_is_long() -> None:
    tiling = Tiling(patch_size=(8, 8), slice_axis=1, batch_size=4)
    assert tiling.sums((100, 20, 20), 1, torch.device("cpu")).depth == 8
    image = torch.zeros((1, 100, 20, 20))
    slabs = window_slabs(image, lambda p: p, tiling, num_outputs=1)
    assert max(slab.shape[1] for slab in slabs) <= 8


def test_three_axes_are_the_mean_of_each(make_record: Records) -> None:
    image = np.random.default_rng(0).normal(size=(1, 9, 12, 10)).astype(np.float32)
    models = [model(make_record, Blur(5), SlicePlan(context=5, axes=(0, 1, 2)))]
    each = [whole(models, image, slice_axes=(axis,)) for axis in range(3)]
    assert np.abs(each[0] - each[1]).max() > 1
    np.testing.assert_allclose(whole(models, image), np.mean(each, axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(whole(models, image, slice_axes=(2, 1)), (each[1] + each[2]) / 2, rtol=1e-4, atol=1e-4)


def test_a_2d_network_is_averaged_over_axes_where_that_is_asked_for(make_record: Records) -> None:
    image = np.random.default_rng(0).normal(size=(1, 9, 12, 10)).astype(np.float32)
    models = [model(make_record, Blur(1), None)]
    each = [whole(models, image, slice_axes=(axis,)) for axis in range(3)]
    np.testing.assert_array_equal(whole(models, image), each[0])
    np.testing.assert_allclose(whole(models, image, slice_axes=(0, 1, 2)), np.mean(each, axis=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("augmentation", ["none", "mirrors", "turns", "six"])
def test_a_volume_turned_in_3d_gives_the_prediction_turned(make_record: Records, augmentation: str) -> None:
    """R309: a network that answers alike for all axes and, in its plane, whatever the view."""
    image = np.random.default_rng(0).normal(size=(1, 9, 12, 10)).astype(np.float32)
    models = [model(make_record, Pick(1), SlicePlan(context=3, axes=(0, 1, 2)))]
    before = whole(models, image, augmentation=augmentation)
    for turned in (np.rot90(image, axes=(1, 3)), np.flip(image, axis=2), image.transpose(0, 2, 3, 1)):
        found = whole(models, np.ascontiguousarray(turned), augmentation=augmentation)
        expected = np.stack([turned[0], -turned[0], 2 * turned[0]])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(before[0], image[0], rtol=1e-4, atol=1e-5)


def test_streams_that_are_cut_differently_are_averaged_plane_by_plane() -> None:
    arrays = [np.random.default_rng(i).normal(size=(2, 10, 3)).astype(np.float32) for i in range(3)]
    cuts = ([3, 7], [5], [1, 2, 9])
    streams = [iter(np.split(a.copy(), cut, axis=1)) for a, cut in zip(arrays, cuts, strict=True)]
    found = list(mean_slabs(streams))
    assert [slab.shape[1] for slab in found] == [1, 1, 1, 2, 2, 2, 1]
    np.testing.assert_allclose(np.concatenate(found, axis=1), np.mean(arrays, axis=0), rtol=1e-6, atol=1e-6)


def test_axes_that_no_image_of_the_plan_has_are_refused(make_record: Records) -> None:
    record = make_record(ndim=2)
    plan = Plan(
        planner="unet",
        dataset="d",
        channels=("MR",),
        labels=record.labels,
        file_ending=".png",
        gpu_memory_gb=8,
        gpu_memory_source="test",
        orientation=None,
        transpose=(0, 1),
        median_spacing=(1.0, 1.0),
        median_shape=(12.0, 12.0),
        configurations=(record.configuration,),
    )
    models = [TrainedModel(record=record, network=Pick(0))]
    with pytest.raises(SettingsError, match="no slices to cut"):
        ConfigurationPredictor(plan, models, InferenceOptions(slice_axes=(0, 1)))
    with pytest.raises(ValueError, match="0, 1 and 2"):
        InferenceOptions(slice_axes=(3,))
