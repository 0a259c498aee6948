"""Volumes larger than memory: arrays in scratch files, worked on in slabs, give what memory would give."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import cc3d
import numpy as np
import pytest
import tifffile
from scipy import ndimage

from autoseg import arrays, slab_components
from autoseg.arrays import Room, own_bytes
from autoseg.check import VoxelJob, read_and_check
from autoseg.dataset import Case
from autoseg.image import read_image
from autoseg.labels import LabelScheme
from autoseg.measurement import measure_case
from autoseg.plan import Configuration, NetworkPlan, NormalizationPlan, Plan
from autoseg.preprocessing import foreground, normalization, store
from autoseg.preprocessing.crop import nonzero_box
from autoseg.preprocessing.foreground import foreground_positions
from autoseg.preprocessing.job import PreprocessJob, PreprocessTarget, preprocess_file
from autoseg.preprocessing.store import CaseStore
from autoseg.slab_components import count_components, fill_holes

SHAPE = (90, 120, 110)
LABELS = LabelScheme.from_table({"background": 0, "ball": 1, "core": 2}, where="test")


@pytest.fixture
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every limit scaled down with the volume."""
    monkeypatch.setattr(arrays, "SLAB_VOXELS", 1 << 14)
    monkeypatch.setattr(slab_components, "_LABELLED_AT_ONCE", 1 << 16)
    monkeypatch.setattr(store, "_WRITTEN_AT_ONCE", 1 << 16)
    monkeypatch.setattr(store, "_CHUNK_BYTES", 1 << 16)
    monkeypatch.setattr(normalization, "_GATHERED", 1 << 14)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    distance = (z % 40 - 20) ** 2 + (y % 40 - 20) ** 2 + (x % 40 - 20) ** 2
    noise = np.random.default_rng(0).integers(20, 90, SHAPE)
    image = np.where(distance < 60, noise + 100, noise).astype(np.uint8)
    image[:, :8] = 0  # a border to crop
    image[:30, :40, :40] = 0  # a corner that stays
    image[40:50, 50:60, 50:60] = 0  # a hole to fill
    image[distance < 4] = 0  # many of them
    label = (distance < 60).astype(np.uint8) + (distance < 20)
    tifffile.imwrite(tmp_path / "a_0000.tif", image, photometric="minisblack", bigtiff=True)
    tifffile.imwrite(tmp_path / "a.tif", label.astype(np.uint8), photometric="minisblack")
    return Case(id="a", images=(tmp_path / "a_0000.tif",), label=tmp_path / "a.tif")


def plan_for(spacing: tuple[float, float, float], *, use_mask: bool) -> Plan:
    one = ((1, 1, 1),)
    configuration = Configuration(
        name="3d_fullres",
        data="3d_fullres",
        spacing=spacing,
        median_shape=tuple(float(n) for n in SHAPE),
        patch_size=(16, 16, 16),
        batch_size=2,
        batch_dice=False,
        normalization=(NormalizationPlan(scheme="zscore", use_mask=use_mask),),
        network=NetworkPlan(
            name="unet", features=(8,), strides=one, kernel_sizes=one, encoder_blocks=(1,), decoder_blocks=()
        ),
    )
    return Plan(
        planner="unet",
        dataset="Dataset001_Large",
        channels=("image",),
        labels=LABELS,
        file_ending=".tif",
        gpu_memory_gb=8.0,
        gpu_memory_source="test",
        orientation=None,
        transpose=(0, 1, 2),
        median_spacing=(1.0,) * 3,
        median_shape=tuple(float(n) for n in SHAPE),
        configurations=(configuration,),
    )


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize("use_mask", [False, True])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.3, 0.9, 1.1), (0.9, 1.3, 1.2)])
def test_a_case_in_scratch_files_is_the_case_in_memory(
    tmp_path: Path, case: Case, spacing: tuple[float, float, float], use_mask: bool
) -> None:
    plan = plan_for(spacing, use_mask=use_mask)

    def preprocessed(name: str, room: Room) -> tuple[object, int]:
        folder = tmp_path / name
        folder.mkdir()
        target = PreprocessTarget(configuration=plan.configurations[0], folder=folder, digest="")
        tracemalloc.start()
        preprocess_file(PreprocessJob(case=case, plan=plan, targets=(target,), room=room))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return CaseStore(folder).open("a").load(), peak

    expected, whole = preprocessed("memory", arrays.IN_MEMORY)
    found, bounded = preprocessed("files", Room(largest=1 << 12, scratch=tmp_path))
    np.testing.assert_allclose(found.image, expected.image, atol=2e-6)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(found.segmentation, expected.segmentation)  # type: ignore[attr-defined]
    for a, b in zip(found.foreground, expected.foreground, strict=True):  # type: ignore[attr-defined]
        np.testing.assert_array_equal(a, b)
    assert (found.segmentation == -1).any()  # type: ignore[attr-defined]
    assert whole > 6 * math.prod(SHAPE)
    # Positions of labelled voxels are listed for volumes of this size, and scales are not slabs of one plane.
    assert bounded < 0.6 * whole


@pytest.mark.usefixtures("small_slabs")
def test_reading_checking_and_measuring_a_mapped_stack_takes_slabs_of_it(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = read_image(case.images)
    assert image.array.dtype == np.uint8
    assert own_bytes(image.array) == 0
    tracemalloc.start()
    checked = read_and_check(VoxelJob(case=case, labels=LABELS, num_channels=1))
    assert checked.is_usable
    assert checked.values == (1, 2)
    assert checked.image is not None
    assert checked.segmentation is not None
    measured = measure_case("a", checked.image, checked.segmentation, num_samples=20_000, orientation=None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * math.prod(SHAPE)  # mostly tables of fixed size; a float32 volume takes four bytes per voxel
    floating = measure_case(
        "a",
        type(image)(array=np.array(image.array, dtype=np.float32), geometry=image.geometry),
        checked.segmentation,
        num_samples=20_000,
        orientation=None,
    )
    assert measured.case == floating.case
    np.testing.assert_array_equal(measured.samples[0].values, floating.samples[0].values)
    np.testing.assert_array_equal(measured.samples[0].counts, floating.samples[0].counts)


def test_many_narrow_intensities_are_drawn_as_nnunet_draws_them() -> None:
    values = np.random.default_rng(3).integers(-1000, 2000, 100_000).astype(np.int16)
    from autoseg.measurement import _draw

    sample = _draw(np.random.RandomState(1234), values, 300_000)
    drawn = np.random.RandomState(1234).choice(values, 300_000)
    expected, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(sample.values, expected)
    np.testing.assert_array_equal(sample.counts, counts)


@pytest.mark.parametrize("density", [0.2, 0.5, 0.62, 0.9])
@pytest.mark.parametrize("shape", [(20, 17, 13), (40, 33)])
def test_holes_and_components_of_slabs_are_those_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], density: float
) -> None:
    monkeypatch.setattr(slab_components, "_LABELLED_AT_ONCE", math.prod(shape[1:]) * 3)
    mask = np.random.default_rng(int(100 * density)).random(shape) < density
    filled = mask.copy()
    fill_holes(filled)
    np.testing.assert_array_equal(filled, ndimage.binary_fill_holes(mask))
    everywhere = np.ones((3,) * len(shape))

    def label(part: np.ndarray) -> tuple[np.ndarray, int]:
        numbers, count = ndimage.label(part, everywhere)
        return numbers, int(count)

    expected = cc3d.connected_components(mask.astype(np.uint8), connectivity=26 if mask.ndim == 3 else 8).max()
    assert count_components(shape[0], lambda part: mask[part], shape[1:], label) == expected


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_the_box_is_found_in_slabs(axes: tuple[int, ...]) -> None:
    image = np.zeros((2, 40, 50, 60), dtype=np.int16)
    assert nonzero_box(image).shape == (40, 50, 60)
    image[0, 3, 20, 50], image[1, 30, 6, 9] = 5, -2
    turned = image.transpose(0, *(1 + axis for axis in axes))
    box = nonzero_box(turned)
    assert tuple(box.start[axes.index(i)] for i in range(3)) == (3, 6, 9)
    assert tuple(box.stop[axes.index(i)] for i in range(3)) == (31, 21, 51)


@pytest.mark.usefixtures("small_slabs")
def test_positions_in_a_very_large_volume_are_an_even_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((60, 50, 40), dtype=np.int16)
    labels[10:40, :, :20], labels[50, 3, 3] = 1, 2
    monkeypatch.setattr(foreground, "_MOST", 3000)
    expected = [len(p) for p in foreground_positions(labels, LABELS)]
    monkeypatch.setattr(foreground, "_LARGE", 1000)
    ball, core = foreground_positions(labels, LABELS)
    assert [len(ball), len(core)] == expected == [3000, 1]
    np.testing.assert_array_equal(core, [[50, 3, 3]])
    assert (labels[tuple(ball.T)] == 1).all()
    assert len(np.unique(ball, axis=0)) == 3000
    assert ball.dtype == np.int32
    # Means of 3000 even draws from 30 planes and 20 columns stay within five standard errors.
    assert abs(ball[:, 0].mean() - 24.5) < 5 * 8.66 / math.sqrt(3000)
    assert abs(ball[:, 2].mean() - 9.5) < 5 * 5.77 / math.sqrt(3000)
