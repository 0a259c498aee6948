"""Segmentations of a previous stage on the grid of the next one's preprocessed cases: what a cascade trains with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from autoseg.arrays import IN_MEMORY, Room, let_go, slabs
from autoseg.atomic import atomic_path
from autoseg.errors import ArtifactError, MissingArtifactError
from autoseg.geometry import BoundingBox
from autoseg.labels import LabelScheme
from autoseg.plan import Configuration, ResamplingPlan
from autoseg.preprocessing.case import CaseTrace, target_spacing
from autoseg.preprocessing.resampling import resample_image, resampled_shape
from autoseg.preprocessing.store import storage_blocks


def bring_to_next_stage(
    scores: np.ndarray, trace: CaseTrace, resampling: ResamplingPlan, following: Configuration
) -> np.ndarray:
    """Interpolate scores of one stage on the preprocessed grid of the next.

    Cropping depends on the image only, so both grids cover the same box and no detour over the stored grid is needed.

    Args:
        scores: Logits or probabilities (k, *trace.resampled_shape), a floating-point type.
        trace: What was done to the image for this stage.
        resampling: Interpolation orders of this stage.
        following: Configuration of the next stage.

    Returns:
        (k, ...) with the shape of the next stage's preprocessed case, in the type of ``scores``.
    """
    wanted = target_spacing(trace.cropped_spacing, following)
    return resample_image(
        scores,
        resampled_shape(trace.cropped_shape, spacing=trace.cropped_spacing, new_spacing=wanted),
        # As in nnU-Net this stage's spacing alone decides whether its thick axis is treated apart.
        spacing=trace.resampled_spacing,
        new_spacing=trace.resampled_spacing,
        order=resampling.probabilities_order,
        order_z=resampling.order_z,
        force_separate_z=resampling.force_separate_z,
    )


def write_previous(path: Path, segmentation: np.ndarray, *, patch_size: Sequence[int]) -> None:
    """Store a segmentation of which patches will be read; atomically.

    Args:
        path: File ending in ``.b2nd``; its folder is created.
        segmentation: Label values (z, y, x) on the preprocessed grid.
        patch_size: Voxels that are read at once.
    """
    array = np.ascontiguousarray(segmentation, dtype=np.int16)
    patch = (*(1,) * (array.ndim - len(patch_size)), *patch_size)
    chunks, blocks = storage_blocks(array.shape, patch, array.itemsize)
    compression = blosc2.CParams(codec=blosc2.Codec.LZ4, clevel=5, filters=[blosc2.Filter.SHUFFLE], nthreads=1)
    with atomic_path(path) as temporary:
        blosc2.asarray(array, urlpath=str(temporary), mode="w", chunks=chunks, blocks=blocks, cparams=compression)


def read_previous(path: Path, shape: Sequence[int], box: BoundingBox | None = None) -> np.ndarray:
    """Read a stored segmentation, or a part of it.

    Args:
        path: What :func:`write_previous` wrote.
        shape: Shape of the preprocessed case.
        box: Part to read, may reach outside; None reads everything.

    Returns:
        New int16 array (z, y, x), -1 outside.

    Raises:
        MissingArtifactError: When there is no such file.
        ArtifactError: When it is damaged or lies on another grid.
    """
    if not path.is_file():
        raise MissingArtifactError(f"{path} does not exist")
    box = BoundingBox.whole(tuple(shape)) if box is None else box
    start = [min(max(a, 0), n) for a, n in zip(box.start, shape, strict=True)]
    stop = [max(min(b, n), a) for b, n, a in zip(box.stop, shape, start, strict=True)]
    part = np.full(box.shape, -1, dtype=np.int16)
    try:
        array = _open(path, tuple(shape))
        if all(a < b for a, b in zip(start, stop, strict=True)):
            inside = tuple(slice(a - c, b - c) for a, b, c in zip(start, stop, box.start, strict=True))
            part[inside] = array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    except (OSError, RuntimeError, ValueError) as error:
        raise ArtifactError(
            f"{path} cannot be read as the previous stage's segmentation ({error}); delete it and train that stage's "
            "fold again: its weights are kept, the file is made anew"
        ) from None
    return part


def _open(path: Path, shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - blosc2 is untyped
    array = blosc2.open(str(path), mode="r", dparams=blosc2.DParams(nthreads=1))
    if not isinstance(array, blosc2.NDArray) or array.shape != shape or array.dtype != np.int16:
        raise ValueError(f"it does not hold int16 of shape {shape}")
    return array


def indicators(segmentation: np.ndarray, labels: LabelScheme) -> np.ndarray:
    """One float32 channel per foreground label value: a previous segmentation as a network sees it.

    Args:
        segmentation: Label values (...); every other value counts as background.
        labels: Names the foreground values.
    """
    return np.stack([segmentation == value for value in labels.foreground_values]).astype(np.float32)


def with_indicators(
    channels: np.ndarray, segmentation: np.ndarray, labels: LabelScheme, room: Room = IN_MEMORY
) -> np.ndarray:
    """Channels of an image (c, ...) with those of a previous segmentation (...) behind them, float32.

    Args:
        channels: Preprocessed image.
        segmentation: On the same grid.
        labels: As for :func:`indicators`.
        room: Where the result lies.
    """
    count = len(channels)
    joined = room.empty((count + len(labels.foreground_values), *segmentation.shape), np.float32)
    for part in slabs(segmentation.shape):
        joined[:count, part] = channels[:, part]
        joined[count:, part] = indicators(segmentation[part], labels)
        let_go(channels, segmentation, joined)
    return joined
