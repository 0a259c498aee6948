"""Intensity normalization, one scheme per channel; float32, with nnU-Net's results.

A scheme is one function that changes a channel in place. It runs on the original grid, before resampling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from autoseg.arrays import IN_MEMORY, Room, let_go, slabs
from autoseg.errors import DatasetError, PlanError
from autoseg.plan import NormalizationPlan
from autoseg.preprocessing.crop import nonzero_mask
from autoseg.preprocessing.enhancement import correct_bias_field, equalize_contrast, match_histogram
from autoseg.registry import Registry

_SMALLEST_SCALE = 1e-8  # divides what has no contrast
_CHUNK = 2**20
_GATHERED = 2**26  # voxels of a channel up to which those inside a mask are gathered


class Normalization(Protocol):
    """Normalizes the intensities of one channel."""

    def __call__(self, channel: np.ndarray, plan: NormalizationPlan, outside: np.ndarray) -> None:
        """Change ``channel`` in place.

        Args:
            channel: (z, y, x) or (y, x), float32, contiguous.
            plan: What the plan says about this channel.
            outside: Boolean, same shape: voxels that hold neither intensity nor label.
        """


NORMALIZATIONS: Registry[Normalization] = Registry(
    "normalization",
    group="autoseg.normalizations",
    built_in={
        "zscore": "autoseg.preprocessing.normalization:zscore",
        "ct": "autoseg.preprocessing.normalization:ct",
        "window": "autoseg.preprocessing.normalization:window",
        "rescale_to_0_1": "autoseg.preprocessing.normalization:rescale_to_0_1",
        "rgb_to_0_1": "autoseg.preprocessing.normalization:rgb_to_0_1",
        "none": "autoseg.preprocessing.normalization:none",
    },
)


def normalize(
    image: np.ndarray,
    plans: Sequence[NormalizationPlan],
    outside: np.ndarray,
    *,
    cache: Path | None = None,
    room: Room = IN_MEMORY,
) -> np.ndarray:
    """Normalize every channel as planned.

    Args:
        image: (c, z, y, x) or (c, y, x); not modified.
        plans: One entry per channel.
        outside: Boolean (z, y, x) or (y, x): voxels that hold neither intensity nor label.
        cache: Folder for what takes minutes, the fields of bias-field correction; None remembers the last few.
        room: Where the result lies.

    Returns:
        A contiguous float32 array of the same shape.

    Raises:
        PlanError: When plan and image differ in their number of channels, or a plan lacks statistics.
        DatasetError: When intensities cannot be what their channel's name says.
    """
    if len(plans) != len(image):
        raise PlanError(f"the plan normalizes {len(plans)} channel(s), the image has {len(image)}")
    # Not ``outside``, which knows labels: at prediction there are none, and the result must be the same.
    empty = ~nonzero_mask(image) if any(plan.contrast is not None for plan in plans) else outside
    normalized = room.empty(image.shape, np.float32)
    for part in slabs(image.shape[1:]):
        normalized[:, part] = image[:, part]
        let_go(image, normalized)
    for channel, plan in zip(normalized, plans, strict=True):
        if plan.bias_field is not None:
            correct_bias_field(channel, plan.bias_field, cache=cache)
        if plan.histogram is not None:
            match_histogram(channel, plan.histogram)
        NORMALIZATIONS.get(plan.scheme)(channel, plan, outside)
        if plan.contrast is not None:
            equalize_contrast(channel, plan.contrast, empty)
        let_go(normalized)
    return normalized


def zscore(channel: np.ndarray, plan: NormalizationPlan, outside: np.ndarray) -> None:
    """Zero mean and unit variance; with ``plan.use_mask`` only inside, and what is outside keeps its value.

    Inside holds labelled voxels even where their intensity is zero, as in nnU-Net; at prediction nothing is labelled.
    """
    if not plan.use_mask:
        _standardize(channel)
        return
    if channel.size > _GATHERED:
        _standardize_by_parts(channel, outside)
        return
    inside = ~outside
    values = channel[inside]
    if values.size:
        _standardize(values)
        channel[inside] = values


def ct(channel: np.ndarray, plan: NormalizationPlan, outside: np.ndarray) -> None:  # noqa: ARG001 - one signature
    """Clip to the dataset's 0.5 and 99.5 foreground percentiles, then apply its foreground mean and deviation.

    Raises:
        PlanError: When the plan holds no foreground statistics for the channel.
    """
    known = plan.statistics
    if known is None:
        raise PlanError("ct normalization needs foreground statistics, the plan has none for this channel")
    np.clip(channel, np.float32(known.percentile_00_5), np.float32(known.percentile_99_5), out=channel)
    channel -= np.float32(known.mean)
    channel /= np.float32(max(known.std, _SMALLEST_SCALE))


def window(channel: np.ndarray, plan: NormalizationPlan, outside: np.ndarray) -> None:  # noqa: ARG001
    """Map a fixed range of intensities to 0..1 and clip what lies beyond.

    Raises:
        PlanError: When the plan names no range.
    """
    if plan.window is None:
        raise PlanError("window normalization needs a window, the plan has none for this channel")
    low, high = plan.window
    channel -= np.float32(low)
    channel /= np.float32(high - low)
    np.clip(channel, 0, 1, out=channel)


def rescale_to_0_1(channel: np.ndarray, plan: NormalizationPlan, outside: np.ndarray) -> None:  # noqa: ARG001
    """Map the smallest intensity to 0 and the largest to 1."""
    channel -= channel.min()
    channel /= max(channel.max(), np.float32(_SMALLEST_SCALE))


def rgb_to_0_1(channel: np.ndarray, plan: NormalizationPlan, outside: np.ndarray) -> None:  # noqa: ARG001
    """Divide by 255.

    Raises:
        DatasetError: When an intensity is no 8-bit color.
    """
    low, high = float(channel.min()), float(channel.max())
    if low < 0 or high > 255:
        raise DatasetError(f"rgb_to_0_1 expects intensities from 0 to 255, found {low:g} to {high:g}")
    channel /= np.float32(255)


def none(channel: np.ndarray, plan: NormalizationPlan, outside: np.ndarray) -> None:
    """Keep intensities as they are."""


def _standardize(values: np.ndarray) -> None:
    """Subtract the mean and divide by the population deviation, in place."""
    mean, deviation = _mean_and_deviation(values)
    values -= np.float32(mean)
    values /= np.float32(max(deviation, _SMALLEST_SCALE))


def _standardize_by_parts(channel: np.ndarray, outside: np.ndarray) -> None:
    """The same for the voxels inside of a large channel, which are never gathered."""
    parts = list(slabs(channel.shape))

    def inside() -> Iterator[np.ndarray]:
        for part in parts:
            yield channel[part][~outside[part]].astype(np.float64)
            let_go(channel, outside)

    count, total = 0, 0.0
    for values in inside():
        count, total = count + values.size, total + float(values.sum())
    if not count:
        return
    mean = total / count
    squares = sum(float(np.square(values - mean).sum()) for values in inside())
    scale = np.float32(max((squares / count) ** 0.5, _SMALLEST_SCALE))
    for part in parts:
        mask = ~outside[part]
        channel[part][mask] = (channel[part][mask] - np.float32(mean)) / scale
        let_go(channel, outside)


def _mean_and_deviation(values: np.ndarray) -> tuple[float, float]:
    """Population moments in double precision, without a double-precision copy of the volume."""
    flat = values.reshape(-1)
    mean = float(flat.mean(dtype=np.float64))
    squares = 0.0
    for start in range(0, flat.size, _CHUNK):
        deviations = flat[start : start + _CHUNK].astype(np.float64) - mean
        squares += float(np.dot(deviations, deviations))
    return mean, (squares / flat.size) ** 0.5
