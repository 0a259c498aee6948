from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.codec import from_plain, to_plain
from autoseg.errors import DatasetError
from autoseg.geometry import BoundingBox, Geometry, Reorientation
from autoseg.image import Image, Segmentation
from autoseg.labels import LabelScheme
from autoseg.plan import NormalizationPlan, Plan, ResamplingPlan
from autoseg.preprocessing.case import CaseTrace, preprocess_case
from autoseg.preprocessing.resampling import resample_image
from autoseg.preprocessing.restoring import SlabAxis, restore_slabs


def restore(
    scores: np.ndarray, trace: CaseTrace, resampling: ResamplingPlan, *, fill: Sequence[float], thickness: int = 3
) -> np.ndarray:
    """Scores on the stored grid, put together from thin slabs."""
    restored = np.full((len(scores), *trace.geometry.shape), np.nan, dtype=scores.dtype)
    along = np.moveaxis(restored, 1 + SlabAxis.of(trace).axis, 1)
    parts = np.array_split(scores, 4, axis=1) if scores.shape[1] > 4 else [scores]
    for part, slab in restore_slabs(parts, trace, resampling, fill=fill, thickness=thickness):
        along[:, part] = np.moveaxis(slab, 1 + SlabAxis.of(trace).axis, 1)
    return restored


MakePlan = Callable[..., Plan]
MakeCase = Callable[..., tuple[Image, Segmentation]]


def turned(image: Image, segmentation: Segmentation, code: str) -> tuple[Image, Segmentation]:
    """The same voxels at the same world positions, stored in another orientation."""
    turn = Reorientation.between(image.geometry.orientation, code)
    grid = turn.apply_to_geometry(image.geometry)
    return (
        Image(array=np.ascontiguousarray(turn.apply(image.array)), geometry=grid),
        Segmentation(array=np.ascontiguousarray(turn.apply(segmentation.array)), geometry=grid),
    )


@pytest.mark.parametrize("code", ["SPL", "IAR", "LPS", "RSA", "PIL"])
def test_the_orientation_on_disk_does_not_matter(code: str, make_plan: MakePlan, make_case: MakeCase) -> None:
    plan = make_plan(
        spacing=(1.1, 1.3, 0.7),
        orientation="SPL",
        transpose=(1, 0, 2),
        normalization=NormalizationPlan(scheme="zscore", use_mask=True),
    )
    image, segmentation = make_case(spacing=(1.5, 1.0, 1.2))
    expected = preprocess_case("a", image, segmentation, plan, plan.configurations[0])
    result = preprocess_case("a", *turned(image, segmentation, code), plan, plan.configurations[0])
    np.testing.assert_array_equal(result.image, expected.image)
    np.testing.assert_array_equal(result.segmentation, expected.segmentation)
    for positions, other in zip(result.foreground, expected.foreground, strict=True):
        np.testing.assert_array_equal(positions, other)


@settings(max_examples=40, deadline=None)
@given(
    code=st.sampled_from(["SPL", "IAR", "LPS", "RSA", "PIL", "ASR"]),
    orientation=st.sampled_from([None, "SPL", "LAI"]),
    transpose=st.permutations(range(3)),
    margins=st.tuples(*[st.integers(0, 3)] * 6),
    seed=st.integers(0, 1000),
)
def test_scores_at_equal_spacing_come_back_to_their_voxels(
    make_plan: MakePlan,
    code: str,
    orientation: str | None,
    transpose: list[int],
    margins: tuple[int, ...],
    seed: int,
) -> None:
    generator = np.random.default_rng(seed)
    labels = LabelScheme.from_table({"background": 0, "a": 1, "b": 2}, where="test")
    shape = (5, 6, 7)
    image, segmentation = np.zeros((1, *shape), np.float32), np.zeros(shape, np.uint8)
    inside = tuple(slice(lo, max(lo + 1, n - hi)) for n, lo, hi in zip(shape, margins[:3], margins[3:], strict=True))
    image[(0, *inside)] = 1
    segmentation[inside] = generator.integers(0, 3, segmentation[inside].shape)
    grid = Geometry(shape=shape, spacing=(3.5, 1.0, 0.5))
    stored = turned(Image(array=image, geometry=grid), Segmentation(array=segmentation, geometry=grid), code)
    worked = Reorientation.between(code, orientation or code).apply_to_geometry(stored[0].geometry)
    spacing = tuple(worked.spacing[axis] for axis in transpose)
    plan = make_plan(spacing=spacing, transpose=tuple(transpose), orientation=orientation)
    case = preprocess_case("a", *stored, plan, plan.configurations[0])
    assert case.segmentation is not None
    one_hot = np.stack([case.segmentation <= 0, case.segmentation == 1, case.segmentation == 2]).astype(np.float32)
    scores = restore(one_hot, case.trace, ResamplingPlan(), fill=(1, 0, 0))
    np.testing.assert_array_equal(labels.segmentation(scores), stored[1].array)
    np.testing.assert_array_equal(scores.sum(axis=0), 1)


def test_smooth_scores_survive_resampling_both_ways(make_plan: MakePlan, make_case: MakeCase) -> None:
    image, _ = make_case((24, 22, 20), spacing=(1.0, 1.0, 1.0))
    plan = make_plan(spacing=(0.5, 0.5, 0.5), transpose=(2, 0, 1))
    case = preprocess_case("a", image, None, plan, plan.configurations[0])
    assert case.image.shape == (1, 32, 40, 36)  # without the border of two voxels, transposed
    position = np.indices(case.image.shape[1:])[1] * 0.5 + 0.25 + 2  # mm along the stored z axis
    scores = np.stack([position, -position]).astype(np.float32)
    restored = restore(scores, case.trace, ResamplingPlan(), fill=(50, -50))
    assert restored.shape == (2, 24, 22, 20)
    expected = np.broadcast_to(np.arange(24)[:, None, None] + 0.5, (24, 22, 20))
    inner = (slice(3, -3),) * 3
    np.testing.assert_allclose(restored[0][inner], expected[inner], atol=1e-5)
    assert (restored[:, :2] == np.array([50, -50])[:, None, None, None]).all()


def test_on_the_way_back_the_grid_of_the_network_decides_which_axis_is_thick(
    make_plan: MakePlan, make_case: MakeCase
) -> None:
    image, _ = make_case((12, 10, 8), spacing=(1.0, 1.0, 5.0))
    plan = make_plan(spacing=(5.0, 1.0, 1.0))
    case = preprocess_case("a", image, None, plan, plan.configurations[0])
    scores = np.random.default_rng(0).normal(size=(1, *case.trace.resampled_shape)).astype(np.float32)
    restored = restore(scores, case.trace, ResamplingPlan(), fill=(0,))[(slice(None), *case.trace.box.slices)]
    planes = resample_image(scores, (8, 6, 4), spacing=(5.0, 1.0, 1.0), new_spacing=(1.0, 1.0, 5.0), order=1)
    np.testing.assert_array_equal(restored, planes)


def test_restore_refuses_scores_of_another_grid(make_plan: MakePlan, make_case: MakeCase) -> None:
    plan = make_plan()
    case = preprocess_case("a", make_case()[0], None, plan, plan.configurations[0])
    with pytest.raises(ValueError, match="do not fit the preprocessed grid"):
        restore(np.zeros((2, 3, 3, 3), np.float32), case.trace, ResamplingPlan(), fill=(0, 0))


def test_the_trace_says_what_was_done_and_survives_json(make_plan: MakePlan, make_case: MakeCase) -> None:
    plan = make_plan(spacing=(0.5, 1.0, 2.0), transpose=(2, 0, 1))
    image, _ = make_case((12, 14, 16), spacing=(1.0, 1.0, 0.25))
    trace = preprocess_case("a", image, None, plan, plan.configurations[0]).trace
    assert trace == CaseTrace(
        geometry=image.geometry,
        orientation_code="SPL",
        transpose=(2, 0, 1),
        original_shape=(16, 12, 14),
        box=BoundingBox(start=(2, 2, 2), stop=(14, 10, 12)),
        cropped_shape=(12, 8, 10),
        cropped_spacing=(0.25, 1.0, 1.0),
        resampled_shape=(6, 8, 5),
        resampled_spacing=(0.5, 1.0, 2.0),
    )
    assert from_plain(CaseTrace, to_plain(trace)) == trace


def test_intensities_are_normalized_before_they_are_resampled(make_plan: MakePlan) -> None:
    array = np.random.default_rng(0).uniform(1, 2, (1, 8, 8, 8)).astype(np.float32)
    image = Image(array=array, geometry=Geometry(shape=(8, 8, 8), spacing=(1.0, 1.0, 1.0)))
    plan = make_plan(spacing=(2.0, 2.0, 2.0), normalization=NormalizationPlan(scheme="zscore"))
    case = preprocess_case("a", image, None, plan, plan.configurations[0])
    assert case.image.std() < 0.7  # averaging noise lowers its deviation; normalizing afterwards would hide that


def test_without_labels_the_arrays_are_the_same(make_plan: MakePlan, make_case: MakeCase) -> None:
    for use_mask in (False, True):
        plan = make_plan(spacing=(0.8, 1.3, 1.0), normalization=NormalizationPlan(scheme="zscore", use_mask=use_mask))
        image, segmentation = make_case()
        image.array[:, :6, :6] = 0  # so that the crop holds voxels outside the mask
        segmentation.array[:6, :6] = 0
        with_labels = preprocess_case("a", image, segmentation, plan, plan.configurations[0])
        without = preprocess_case("a", image, None, plan, plan.configurations[0])
        np.testing.assert_array_equal(without.image, with_labels.image)
        assert without.segmentation is None
        assert without.foreground == ()


def test_inputs_are_not_changed(make_plan: MakePlan, make_case: MakeCase) -> None:
    image, segmentation = make_case()
    arrays = image.array.copy(), segmentation.array.copy()
    plan = make_plan(normalization=NormalizationPlan(scheme="zscore"))
    preprocess_case("a", image, segmentation, plan, plan.configurations[0])
    np.testing.assert_array_equal(image.array, arrays[0])
    np.testing.assert_array_equal(segmentation.array, arrays[1])


def test_2d_images(make_plan: MakePlan) -> None:
    generator = np.random.default_rng(0)
    grid = Geometry(shape=(20, 30), spacing=(1.0, 1.0))
    image = Image(array=generator.uniform(1, 2, (1, 20, 30)).astype(np.float32), geometry=grid)
    segmentation = Segmentation(array=generator.integers(0, 3, (20, 30)), geometry=grid)
    plan = make_plan(spacing=(1.0, 1.0), transpose=(0, 1))
    case = preprocess_case("a", image, segmentation, plan, plan.configurations[0])
    np.testing.assert_array_equal(case.segmentation, segmentation.array)
    assert case.foreground[0].shape[1] == 2
    assert case.trace.box == BoundingBox.whole((20, 30))


def test_what_does_not_fit_the_plan_is_refused(make_plan: MakePlan, make_case: MakeCase) -> None:
    image, segmentation = make_case()
    plan = make_plan()
    configuration = plan.configurations[0]
    with pytest.raises(DatasetError, match=r"case a has 2 channel\(s\), the plan expects 1: MR"):
        preprocess_case("a", make_case(num_channels=2)[0], None, plan, configuration)
    other = Segmentation(array=segmentation.array[1:], geometry=Geometry(shape=(11, 14, 16), spacing=(1.0, 1.0, 1.0)))
    with pytest.raises(DatasetError, match=r"label has shape \(11, 14, 16\), the image \(12, 14, 16\)"):
        preprocess_case("a", image, other, plan, configuration)
    flat = Image(array=image.array[:, 0], geometry=Geometry(shape=(14, 16), spacing=(1.0, 1.0)))
    with pytest.raises(DatasetError, match="case a has 2 spatial axes, the plan was made for 3"):
        preprocess_case("a", flat, None, plan, configuration)
    huge = make_plan(labels={"background": 0, "a": 40000})
    with pytest.raises(DatasetError, match="label value 40000 is too large"):
        preprocess_case("a", image, segmentation, huge, configuration)
    colors = make_plan(normalization=NormalizationPlan(scheme="rgb_to_0_1"))
    bright = replace(image, array=image.array * 1000)
    with pytest.raises(DatasetError, match="case a: rgb_to_0_1 expects"):
        preprocess_case("a", bright, None, colors, colors.configurations[0])
