"""Segmentations of a previous stage: on the right grid, cut with the image, damaged files refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import ArtifactError, MissingArtifactError
from autoseg.geometry import BoundingBox, Geometry
from autoseg.labels import LabelScheme
from autoseg.plan import Configuration, NetworkPlan, NormalizationPlan, ResamplingPlan
from autoseg.preprocessing.case import CaseTrace
from autoseg.preprocessing.previous_stage import bring_to_next_stage, indicators, read_previous, write_previous


def make_trace(shape: tuple[int, ...], spacing: tuple[float, ...]) -> CaseTrace:
    """A case cropped to (20, 24, 28) voxels of 1 mm and resampled to ``shape``."""
    return CaseTrace(
        geometry=Geometry(shape=(24, 30, 30), spacing=(1.0, 1.0, 1.0)),
        orientation_code="LPS",
        transpose=(0, 1, 2),
        original_shape=(24, 30, 30),
        box=BoundingBox(start=(2, 3, 1), stop=(22, 27, 29)),
        cropped_shape=(20, 24, 28),
        cropped_spacing=(1.0, 1.0, 1.0),
        resampled_shape=shape,
        resampled_spacing=spacing,
    )


def make_next_stage(spacing: tuple[float, ...]) -> Configuration:
    return Configuration(
        name="3d_cascade_fullres",
        data="3d_fullres",
        spacing=spacing,
        median_shape=(20.0, 24.0, 28.0),
        patch_size=(8, 8, 8),
        batch_size=2,
        batch_dice=True,
        normalization=(NormalizationPlan(scheme="zscore"),),
        network=NetworkPlan(
            name="unet",
            features=(4,),
            strides=((1, 1, 1),),
            kernel_sizes=((3, 3, 3),),
            encoder_blocks=(1,),
            decoder_blocks=(),
        ),
        previous_stage="3d_lowres",
    )


def test_scores_land_on_the_grid_of_the_next_stage_at_the_same_place() -> None:
    plane = np.linspace(0.0, 1.0, 10)
    scores = np.broadcast_to(plane[None, :, None, None], (2, 10, 12, 14)).astype(np.float32)
    trace = make_trace((10, 12, 14), (2.0, 2.0, 2.0))
    brought = bring_to_next_stage(scores, trace, ResamplingPlan(), make_next_stage((1.0, 1.0, 2.0)))
    assert brought.shape == (2, 20, 24, 14)
    # Voxel centers of halved voxels lie a quarter of the old distance beside the old centers.
    expected = np.interp((np.arange(20) + 0.5) / 2 - 0.5, np.arange(10), plane)
    np.testing.assert_allclose(brought[0, :, 5, 5], expected, atol=1e-5)


def test_a_thick_first_stage_repeats_its_planes() -> None:
    """The first stage's own spacing decides that its thick axis is not interpolated."""
    scores = np.random.default_rng(0).normal(size=(1, 5, 24, 28)).astype(np.float32)
    trace = make_trace((5, 24, 28), (4.0, 1.0, 1.0))
    brought = bring_to_next_stage(scores, trace, ResamplingPlan(), make_next_stage((1.0, 1.0, 1.0)))
    np.testing.assert_array_equal(brought, np.repeat(scores, 4, axis=1))


def test_a_thick_next_stage_is_interpolated_all_the_same() -> None:
    scores = np.random.default_rng(0).normal(size=(1, 10, 24, 28)).astype(np.float32)
    trace = make_trace((10, 24, 28), (2.0, 1.0, 1.0))
    brought = bring_to_next_stage(scores, trace, ResamplingPlan(), make_next_stage((4.0, 1.0, 1.0)))
    np.testing.assert_allclose(brought, (scores[:, ::2] + scores[:, 1::2]) / 2, atol=1e-5)


def test_parts_are_those_of_the_whole_and_minus_one_outside(tmp_path: Path) -> None:
    segmentation = np.random.default_rng(1).integers(0, 3, (9, 10, 11)).astype(np.uint8)
    path = tmp_path / "deep" / "case.b2nd"
    write_previous(path, segmentation, patch_size=(4, 4, 4))
    np.testing.assert_array_equal(read_previous(path, (9, 10, 11)), segmentation)
    part = read_previous(path, (9, 10, 11), BoundingBox(start=(-2, 3, 8), stop=(4, 9, 15)))
    expected = np.full((6, 6, 7), -1)
    expected[2:, :, :3] = segmentation[:4, 3:9, 8:]
    np.testing.assert_array_equal(part, expected)
    far = read_previous(path, (9, 10, 11), BoundingBox(start=(20, 0, 0), stop=(22, 2, 2)))
    assert (far == -1).all()


def test_slices_of_a_volume_may_be_asked_for(tmp_path: Path) -> None:
    write_previous(tmp_path / "case.b2nd", np.zeros((5, 6, 7), dtype=np.uint8), patch_size=(4, 4))
    assert read_previous(tmp_path / "case.b2nd", (5, 6, 7)).shape == (5, 6, 7)


def test_other_grids_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "case.b2nd"
    with pytest.raises(MissingArtifactError, match=r"case\.b2nd does not exist"):
        read_previous(path, (4, 4, 4))
    write_previous(path, np.zeros((4, 4, 4), dtype=np.uint8), patch_size=(4, 4, 4))
    with pytest.raises(ArtifactError, match=r"int16 of shape \(4, 4, 5\)"):
        read_previous(path, (4, 4, 5))
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_previous(path, (4, 4, 4))


def test_indicators_have_one_channel_per_foreground_value() -> None:
    labels = LabelScheme.from_table({"background": 0, "a": 3, "b": 7, "ignore": 8}, where="test")
    channels = indicators(np.asarray([[-1, 0, 3], [7, 8, 7]]), labels)
    np.testing.assert_array_equal(channels, [[[0, 0, 1], [0, 0, 0]], [[0, 0, 0], [1, 0, 1]]])
    assert channels.dtype == np.float32
