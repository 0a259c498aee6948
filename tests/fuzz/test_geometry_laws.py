"""Laws of the way from stored voxels to the network's grid and back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from fuzzing import fuzzed
from hypothesis import given
from hypothesis import strategies as st

from autoseg.geometry import BoundingBox, Geometry, Reorientation
from autoseg.image import Image, Segmentation
from autoseg.plan import NormalizationPlan, Plan, ResamplingPlan
from autoseg.preprocessing.case import preprocess_case
from autoseg.preprocessing.restoring import SlabAxis, restore_slabs

MakePlan = Callable[..., Plan]


@st.composite
def orientations(draw: st.DrawFn) -> str:
    """Any of the 48 ways to store a volume."""
    return "".join(draw(st.sampled_from(pair)) for pair in draw(st.permutations(["LR", "PA", "SI"])))


def case_of(shape: tuple[int, ...], spacing: tuple[float, ...], seed: int) -> tuple[Image, Segmentation]:
    """Noise within a box of zeros, and labels 0 to 2 anywhere within it."""
    rng = np.random.default_rng(seed)
    image, labels = np.zeros((1, *shape), np.float32), np.zeros(shape, np.uint8)
    start = [int(rng.integers(0, n)) for n in shape]
    stop = [int(rng.integers(a + 1, n + 1)) for a, n in zip(start, shape, strict=True)]
    box = BoundingBox(start=tuple(start), stop=tuple(stop))
    image[(0, *box.slices)] = rng.uniform(1, 100, box.shape)
    labels[box.slices] = rng.integers(0, 3, box.shape)
    grid = Geometry(shape=shape, spacing=spacing, origin=(5.0, -3.0, 7.0))
    return Image(array=image, geometry=grid), Segmentation(array=labels, geometry=grid)


def stored_as(image: Image, segmentation: Segmentation, code: str) -> tuple[Image, Segmentation]:
    """The same voxels at the same world positions, stored in another orientation."""
    turn = Reorientation.between(image.geometry.orientation, code)
    grid = turn.apply_to_geometry(image.geometry)
    return (
        Image(array=np.ascontiguousarray(turn.apply(image.array)), geometry=grid),
        Segmentation(array=np.ascontiguousarray(turn.apply(segmentation.array)), geometry=grid),
    )


SHAPES = st.tuples(*[st.integers(1, 9)] * 3)
SPACINGS = st.tuples(*[st.sampled_from([0.5, 0.8, 1.0, 1.7, 4.0])] * 3)


@fuzzed(80)
@given(
    shape=SHAPES,
    spacing=SPACINGS,
    stored=orientations(),
    worked=st.none() | orientations(),
    transpose=st.permutations([0, 1, 2]),
    thickness=st.integers(1, 10),
    seed=st.integers(0, 10**6),
)
def test_a_segmentation_comes_back_whole_at_equal_spacing(
    make_plan: MakePlan,
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    stored: str,
    worked: str | None,
    transpose: list[int],
    thickness: int,
    seed: int,
) -> None:
    image, segmentation = stored_as(*case_of(shape, spacing, seed), stored)
    grid = Reorientation.between(stored, worked or stored).apply_to_geometry(image.geometry)
    wanted = tuple(grid.spacing[axis] for axis in transpose)
    plan = make_plan(spacing=wanted, transpose=tuple(transpose), orientation=worked)
    case = preprocess_case("a", image, segmentation, plan, plan.configurations[0])
    assert case.segmentation is not None
    scores = np.stack([np.maximum(case.segmentation, 0) == value for value in range(3)]).astype(np.float32)
    back = np.full(image.geometry.shape, 99, np.uint8)
    axis = SlabAxis.of(case.trace).axis
    slabs = restore_slabs([scores], case.trace, ResamplingPlan(), fill=(1, 0, 0), thickness=thickness)
    for part, slab in slabs:
        np.moveaxis(back, axis, 0)[part] = np.moveaxis(slab.argmax(axis=0), axis, 0)
    np.testing.assert_array_equal(back, segmentation.array)


@fuzzed(80)
@given(
    shape=SHAPES,
    spacing=SPACINGS,
    wanted=SPACINGS,
    stored=orientations(),
    worked=orientations(),
    transpose=st.permutations([0, 1, 2]),
    scheme=st.sampled_from(["zscore", "rescale_to_0_1", "none"]),
    use_mask=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_copies_stored_in_any_orientation_are_one_case_to_a_network(
    make_plan: MakePlan,
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    wanted: tuple[float, ...],
    stored: str,
    worked: str,
    transpose: list[int],
    scheme: str,
    use_mask: bool,
    seed: int,
) -> None:
    """Hence training on flipped and permuted copies equals training on the originals: batches are drawn from these."""
    original = case_of(shape, spacing, seed)
    plan = make_plan(
        spacing=wanted,
        transpose=tuple(transpose),
        orientation=worked,
        normalization=NormalizationPlan(scheme=scheme, use_mask=use_mask and scheme == "zscore"),
    )
    first = preprocess_case("a", *original, plan, plan.configurations[0])
    other = preprocess_case("a", *stored_as(*original, stored), plan, plan.configurations[0])
    np.testing.assert_array_equal(other.image, first.image)
    np.testing.assert_array_equal(np.asarray(other.segmentation), np.asarray(first.segmentation))
    for mine, theirs in zip(other.foreground, first.foreground, strict=True):
        np.testing.assert_array_equal(mine, theirs)
