"""Tiles cover an image, weights cancel, mirrors are undone; numbers agree with a plain second implementation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from autoseg.errors import ArtifactError, SettingsError
from autoseg.inference import sliding_window as module
from autoseg.inference import sums
from autoseg.inference.sliding_window import (
    Network,
    Tiling,
    choose_batch_size,
    gaussian_importance,
    tile_positions,
    window_slabs,
)
from autoseg.inference.sums import WorkingMemory
from autoseg.inference.views import View, mirror_subsets, views_of
from autoseg.plan import Accumulation


def sliding_window(
    image: torch.Tensor,
    network: Network,
    *,
    patch_size: tuple[int, ...],
    num_outputs: int,
    step: float = 0.5,
    mirror_axes: tuple[int, ...] = (),
    batch_size: int | None = None,
    accumulation: Accumulation = "float32",
) -> torch.Tensor:
    tiling = Tiling(
        patch_size=patch_size,
        step=step,
        views=views_of("mirrors", mirror_axes, len(patch_size)),
        batch_size=batch_size,
        accumulation=accumulation,
    )
    return module.sliding_window(image, network, tiling, num_outputs=num_outputs)


def identity(patches: torch.Tensor) -> torch.Tensor:
    return patches


class Convolution:
    """A small network that knows left from right, with two outputs."""

    def __init__(self, ndim: int, channels: int = 1) -> None:
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.randn((2, channels, *(3,) * ndim), generator=generator)
        self.operation = {2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}[ndim]
        self.batches: list[int] = []

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(patches))
        return self.operation(patches, self.weight, padding=1)


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], float, tuple[int, ...]]:
    ndim = draw(st.sampled_from([2, 3]))
    edges = st.integers(1, 9)
    shape = tuple(draw(edges) for _ in range(ndim + draw(st.integers(0, 3 - ndim))))
    patch = tuple(draw(edges) for _ in range(ndim))
    axes = draw(st.sets(st.integers(0, ndim - 1)))
    return shape, patch, draw(st.sampled_from([0.25, 0.3, 0.5, 0.77, 1.0])), tuple(sorted(axes))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(window=windows(), batch_size=st.sampled_from([1, 3, 50]))
def test_a_network_that_answers_its_input_gives_the_image_back(
    window: tuple[tuple[int, ...], tuple[int, ...], float, tuple[int, ...]], batch_size: int
) -> None:
    shape, patch, step, axes = window
    image = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
    before = image.clone()
    logits = sliding_window(
        image, identity, patch_size=patch, num_outputs=2, step=step, mirror_axes=axes, batch_size=batch_size
    )
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, image, rtol=1e-5, atol=1e-5)
    assert torch.equal(image, before)


@given(size=st.integers(1, 200), tile=st.integers(1, 40), step=st.floats(0.05, 1.0))
def test_tiles_leave_no_voxel_out_and_step_no_further_than_asked(size: int, tile: int, step: float) -> None:
    size = max(size, tile)
    starts = [p[0] for p in tile_positions((size,), (tile,), step)]
    assert starts[0] == 0
    assert starts[-1] == size - tile
    gaps = np.diff(starts)
    assert (gaps > 0).all() or step * tile < 1  # steps below one voxel visit voxels twice
    assert (gaps <= np.ceil(step * tile)).all()


def test_positions_by_hand() -> None:
    # 19 voxels, tiles of 8, at most 4 apart: ceil(11 / 4) + 1 = 4 tiles at 0, 3.67, 7.33, 11
    assert [p[0] for p in tile_positions((19,), (8,))] == [0, 4, 7, 11]
    assert tile_positions((2, 5), (5,)) == [(0, 0), (1, 0)]
    # halves go to the even neighbour: 0, 2.5, 5
    assert [p[0] for p in tile_positions((10,), (5,), 0.7)] == [0, 2, 5]


def test_impossible_tiles_are_refused() -> None:
    with pytest.raises(ValueError, match="step must lie"):
        tile_positions((8,), (4,), 0.0)
    with pytest.raises(ValueError, match="smaller than a tile"):
        tile_positions((3,), (4,))


@pytest.mark.parametrize("patch", [(8, 12, 16), (7, 5), (1, 6)])
def test_importance_is_the_filtered_impulse(patch: tuple[int, ...]) -> None:
    impulse = np.zeros(patch)
    impulse[tuple(p // 2 for p in patch)] = 1
    expected = gaussian_filter(impulse, [p / 8 for p in patch], mode="constant")
    expected /= expected.max() / 10
    weights = gaussian_importance(patch).numpy()
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert weights.max() == pytest.approx(10)
    assert weights.min() > np.finfo(np.float32).tiny  # not subnormal
    half = expected.astype(np.float16)
    half[half == 0] = half[half > 0].min()
    np.testing.assert_array_equal(gaussian_importance(patch, accumulation="float16").numpy(), half)


def reference_sliding_window(
    image: np.ndarray, network: Convolution, patch: tuple[int, ...], step: float, axes: tuple[int, ...]
) -> np.ndarray:
    """The same rules tile by tile in float64, written for reading."""
    missing = [max(0, p - n) for p, n in zip(patch, image.shape[1:], strict=True)]
    padded = np.pad(image, [(0, 0), *((m // 2, m - m // 2) for m in missing)])
    impulse = np.zeros(patch)
    impulse[tuple(p // 2 for p in patch)] = 1
    weight = gaussian_filter(impulse, [p / 8 for p in patch], mode="constant")
    sums, weights = np.zeros((2, *padded.shape[1:])), np.zeros(padded.shape[1:])
    starts = []
    for size, tile in zip(padded.shape[1:], patch, strict=True):
        count = int(np.ceil((size - tile) / (tile * step))) + 1
        starts.append([int(s) for s in np.round(np.linspace(0, size - tile, count))] if count > 1 else [0])
    for corner in itertools.product(*starts):
        where = tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))
        tile = torch.from_numpy(padded[(slice(None), *where)].copy())[None]
        passes = []
        for number in range(2 ** len(axes)):
            flips = [2 + a for i, a in enumerate(axes) if number >> i & 1]
            passes.append(network(tile.flip(flips)).flip(flips)[0].double().numpy())
        sums[(slice(None), *where)] += np.mean(passes, axis=0) * weight
        weights[where] += weight
    inside = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, image.shape[1:], strict=True))
    return (sums / weights)[(slice(None), *inside)]


@pytest.mark.parametrize(
    ("shape", "patch", "step", "axes"),
    [
        ((19, 30, 15), (8, 12, 16), 0.5, (0, 1, 2)),
        ((24, 24, 40), (24, 16, 16), 0.7, (1, 2)),
        ((31, 14), (12, 16), 0.5, (0, 1)),
        ((31, 14), (12, 16), 0.5, ()),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 3, 16, None])
def test_agrees_with_a_plain_implementation(
    shape: tuple[int, ...], patch: tuple[int, ...], step: float, axes: tuple[int, ...], batch_size: int | None
) -> None:
    image = np.random.default_rng(1).standard_normal((1, *shape)).astype(np.float32)
    network = Convolution(len(patch))
    expected = reference_sliding_window(image, network, patch, step, axes)
    network.batches.clear()
    logits = sliding_window(
        torch.from_numpy(image),
        network,
        patch_size=patch,
        num_outputs=2,
        step=step,
        mirror_axes=axes,
        batch_size=batch_size,
    )
    np.testing.assert_allclose(logits.numpy(), expected, atol=2e-5)
    assert max(network.batches) <= (batch_size or choose_batch_size(patch, torch.device("cpu")))


@pytest.mark.parametrize(("overlap", "shape"), [(0.0, (24, 24, 36)), (0.5, (24, 30, 36)), (0.25, (14, 21, 30))])
def test_agrees_with_monai_for_constant_weights(overlap: float, shape: tuple[int, ...]) -> None:
    # Images are as many steps long as fit: elsewhere MONAI moves its last tile, and autoseg spreads all of them.
    inferers = pytest.importorskip("monai.inferers")
    network = Convolution(3)
    image = torch.randn((1, *shape), generator=torch.Generator().manual_seed(2))
    tiling = Tiling(patch_size=(8, 12, 12), step=1 - overlap, importance="constant")
    ours = module.sliding_window(image, network, tiling, num_outputs=2)
    theirs = inferers.sliding_window_inference(image[None], (8, 12, 12), 4, network, overlap=overlap, mode="constant")
    torch.testing.assert_close(ours, theirs[0], rtol=1e-4, atol=1e-5)


def test_a_2d_network_sees_every_slice_by_itself() -> None:
    network = Convolution(2)
    image = torch.randn((1, 4, 31, 14), generator=torch.Generator().manual_seed(4))
    options = {"patch_size": (12, 16), "num_outputs": 2, "mirror_axes": (0, 1)}
    volume = sliding_window(image, network, batch_size=32, **options)
    assert max(network.batches) == 32  # slices share calls
    for number in range(4):
        torch.testing.assert_close(volume[:, number], sliding_window(image[:, number], network, **options))


def test_the_odd_voxel_of_padding_comes_last() -> None:
    seen: list[torch.Tensor] = []

    def record(patches: torch.Tensor) -> torch.Tensor:
        seen.extend(patches)
        return patches

    logits = sliding_window(torch.tensor([[[7.0, 8.0]]]), record, patch_size=(2, 5), num_outputs=1)
    assert seen[0].tolist() == [[[0, 7, 8, 0, 0], [0, 0, 0, 0, 0]]]
    assert logits.tolist() == [[[7, 8]]]


def test_every_way_to_mirror_is_seen_once() -> None:
    seen: list[torch.Tensor] = []

    def record(patches: torch.Tensor) -> torch.Tensor:
        seen.extend(patches)
        return patches

    image = torch.arange(8.0).reshape(1, 2, 2, 2)
    sliding_window(image, record, patch_size=(2, 2, 2), num_outputs=1, mirror_axes=(0, 1, 2), batch_size=3)
    assert len({tuple(patch.ravel().tolist()) for patch in seen}) == len(seen) == 8
    assert mirror_subsets((0, 1, 2)) == [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]


def test_float16_sums_stay_close_and_keep_their_type() -> None:
    network = Convolution(3)
    image = torch.randn((1, 19, 30, 15), generator=torch.Generator().manual_seed(5))
    options = {"patch_size": (8, 12, 16), "num_outputs": 2}
    half = sliding_window(image, network, accumulation="float16", **options)
    assert half.dtype == torch.float16
    central = (slice(None), slice(4, -4), slice(6, -6), slice(4, -4))  # corners suffer from subnormal weights
    full = sliding_window(image, network, **options)
    torch.testing.assert_close(half[central].float(), full[central], rtol=0.01, atol=0.05)


def test_a_batch_that_does_not_fit_is_split() -> None:
    sizes: list[int] = []

    def small_device(patches: torch.Tensor) -> torch.Tensor:
        sizes.append(len(patches))
        if len(patches) > 2:
            raise torch.OutOfMemoryError("too large")
        return patches

    image = torch.randn((1, 16, 16), generator=torch.Generator().manual_seed(6))
    logits = sliding_window(image, small_device, patch_size=(4, 4), num_outputs=1, batch_size=8)
    torch.testing.assert_close(logits, image)
    assert sizes[:4] == [8, 4, 2, 2]

    def no_device(patches: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("too large")

    with pytest.raises(torch.OutOfMemoryError):
        sliding_window(image, no_device, patch_size=(4, 4), num_outputs=1)


def test_values_that_are_not_finite_are_reported_with_the_remedy() -> None:
    image = torch.full((1, 8, 8), 60000.0)
    with pytest.raises(SettingsError, match="float32"):
        sliding_window(image, identity, patch_size=(4, 4), num_outputs=1, accumulation="float16")
    image[0, 0, 0] = torch.nan
    with pytest.raises(ArtifactError, match="not finite"):
        sliding_window(image, identity, patch_size=(4, 4), num_outputs=1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    window=windows(),
    batch_size=st.sampled_from([1, 3, 50]),
    piece=st.sampled_from([1, 100]),
    memory=st.sampled_from([None, WorkingMemory(in_memory=0), WorkingMemory(in_memory=2000)]),
    data=st.data(),
)
def test_planes_leave_in_order_and_a_region_is_predicted_as_without_it(
    window: tuple[tuple[int, ...], tuple[int, ...], float, tuple[int, ...]],
    batch_size: int,
    piece: int,
    memory: WorkingMemory | None,
    data: st.DataObject,
) -> None:
    shape, patch, step, _ = window
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    image = torch.from_numpy(generator.standard_normal((1, *shape)).astype(np.float32))
    region = generator.random(shape) < data.draw(st.sampled_from([0.0, 0.02, 0.5]))
    tiling = Tiling(patch_size=patch, step=step, batch_size=batch_size)

    def position_aware(patches: torch.Tensor) -> torch.Tensor:
        return torch.cat([patches.cumsum(dim=-1), -patches], dim=1)

    whole = module.sliding_window(image, position_aware, tiling, num_outputs=2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sums, "_PIECE", piece)
        slabs = list(
            window_slabs(
                image, position_aware, tiling, num_outputs=2, region=region, outside=(7.0, -7.0), memory=memory
            )
        )
    joined = torch.cat(slabs, dim=1)
    assert joined.shape == whole.shape
    torch.testing.assert_close(joined[:, torch.from_numpy(region)], whole[:, torch.from_numpy(region)])
    untouched = (joined == torch.tensor([7.0, -7.0]).reshape(2, *(1,) * len(shape))).all(dim=0)
    # Anything else was covered by some of its tiles.
    assert not (untouched & torch.from_numpy(region)).any()
    if not region.any():
        assert untouched.all()


def test_sums_are_held_for_a_few_planes_of_a_long_image() -> None:
    image = torch.randn((1, 90, 6, 5), generator=torch.Generator().manual_seed(1))
    tiling = Tiling(patch_size=(8, 6, 5), batch_size=1)
    slabs = window_slabs(image, identity, tiling, num_outputs=1)
    torch.testing.assert_close(torch.cat(list(slabs), dim=1), image)
    layout = tiling.sums((90, 6, 5), 1, torch.device("cpu"))
    assert layout.depth == 8
    assert layout.num_bytes == 2 * 8 * 6 * 5 * 4


@pytest.mark.parametrize("group", ["none", "mirrors", "turns", "six"])
@pytest.mark.parametrize("shape", [(9, 14), (3, 9, 14)])
def test_views_of_a_network_without_preference_change_nothing(group: str, shape: tuple[int, ...]) -> None:
    def symmetric(patches: torch.Tensor) -> torch.Tensor:  # sees its neighbours, all directions alike
        kernel = torch.ones((1, 1, 3, 3))
        kernel[0, 0, 1, 1] = 5
        flat = patches.reshape(-1, 1, *patches.shape[-2:])
        return torch.nn.functional.conv2d(flat, kernel, padding=1).reshape(patches.shape)

    image = torch.randn((1, *shape), generator=torch.Generator().manual_seed(1))
    patch = (6, 10)
    views = views_of(group, (0, 1), 2)  # type: ignore[arg-type]  # one of the literals
    plain = module.sliding_window(image, symmetric, Tiling(patch_size=patch), num_outputs=1)
    averaged = module.sliding_window(image, symmetric, Tiling(patch_size=patch, views=views), num_outputs=1)
    torch.testing.assert_close(averaged, plain)


def test_every_view_is_undone_and_the_groups_are_those_of_a_square() -> None:
    patch = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    seen = {}
    for turns in range(4):
        for axes in mirror_subsets((0, 1)):
            view = View(mirrored=axes, quarter_turns=turns)
            assert torch.equal(view.invert(view.apply(patch)), patch)
            assert view.apply(patch).shape[2:] == view.shape((4, 6))
            seen[tuple(view.apply(patch).flatten().tolist())] = view
    assert len(seen) == 8
    assert len(views_of("turns", (0, 1), 2)) == 8
    assert len(views_of("turns", (0,), 2)) == 8
    assert len(views_of("turns", (), 2)) == 4
    assert len(views_of("turns", (0, 1, 2), 3)) == 16
    assert len(views_of("six", (0, 1), 2)) == 6
    assert views_of("none", (0, 1), 2) == (View(),)
