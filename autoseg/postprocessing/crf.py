"""A dense conditional random field: labels follow edges of the image, and voxels agree with their neighbours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from autoseg.errors import SettingsError
from autoseg.postprocessing.steps import Operation, Surroundings

_SMALLEST = 1e-6  # of a probability, before its logarithm


def dense_crf(
    probabilities: np.ndarray,
    values: tuple[int, ...],
    around: Surroundings,
    /,
    *,
    appearance_weight: float,
    appearance_mm: float,
    appearance_intensity: float,
    smoothness_weight: float,
    smoothness_mm: float,
    radius: float,
    iterations: float,
) -> np.ndarray:
    """Mean-field inference with two Gaussian kernels and Potts costs (Kraehenbuehl and Koltun, NIPS 2011).

    Kernels are cut off at a window, as in convolutional CRFs (Teichmann and Cipolla, 2018), and normalized at every
    voxel, so that a weight is the largest change of a log-probability. Weights of zero change nothing.

    Args:
        probabilities: float32 (k, ...); not modified. Regions are treated one by one against their outside.
        values: Not looked at: the field knows all labels.
        around: Knows labels, spacing and the image.
        appearance_weight: Weight of the kernel over positions and intensities.
        appearance_mm: Its width in space.
        appearance_intensity: Its width in intensities, as a share of the range from the 0.5th to the 99.5th percentile
            of each channel.
        smoothness_weight: Weight of the kernel over positions only.
        smoothness_mm: Its width.
        radius: Half the window in voxels, along every axis.
        iterations: Steps of the mean field.

    Raises:
        SettingsError: When there is no image on the grid of the probabilities.
    """
    del values
    if not (appearance_weight or smoothness_weight):
        return probabilities
    if around.image is None or around.image.shape[1:] != probabilities.shape[1:]:
        raise SettingsError("the CRF needs the image on the grid of the probabilities")
    channels = _scaled(around.image)
    offsets = list(_offsets(around.spacing, int(radius)))
    spatial = [sum((o * s) ** 2 for o, s in zip(offset, around.spacing, strict=True)) for offset in offsets]
    kernels = (
        (appearance_weight, appearance_mm, appearance_intensity),
        (smoothness_weight, smoothness_mm, math.inf),
    )
    groups = np.stack([probabilities, 1 - probabilities], axis=1) if _has_regions(around) else probabilities[None]
    refined = []
    for group in groups:
        unary = np.log(np.maximum(group, _SMALLEST))
        belief = group
        for _ in range(int(iterations)):
            message = unary.copy()
            for weight, width, intensity in kernels:
                if weight:
                    message += weight * _filtered(belief, channels, offsets, spatial, width, intensity)
            belief = _softmax(message)
        refined.append(belief)
    return np.stack([belief[0] for belief in refined]) if _has_regions(around) else refined[0]


def _filtered(
    belief: np.ndarray,
    channels: np.ndarray,
    offsets: list[tuple[int, ...]],
    spatial: list[float],
    width: float,
    intensity: float,
) -> np.ndarray:
    """Mean of the neighbours' beliefs (k, ...), weighted with a kernel."""
    total = np.zeros_like(belief)
    norm = np.full(belief.shape[1:], np.float32(1e-12))
    for offset, distance in zip(offsets, spatial, strict=True):
        here, there = _overlap(offset, belief.shape[1:])
        factor = np.float32(math.exp(-distance / (2 * width**2)))
        if math.isfinite(intensity):
            difference = channels[(slice(None), *here)] - channels[(slice(None), *there)]
            kernel = factor * np.exp(-(difference**2).sum(axis=0) / np.float32(2 * intensity**2))
        else:
            kernel = np.full(belief[0][here].shape, factor)
        total[(slice(None), *here)] += kernel * belief[(slice(None), *there)]
        norm[here] += kernel
    return np.asarray(total / norm)


def _offsets(spacing: tuple[float, ...], radius: int) -> Iterator[tuple[int, ...]]:
    """Steps to the neighbours in the window, in voxels; thick slices have no neighbours farther than in plane."""
    finest = min(spacing)
    reach = [max(1, round(radius * finest / s)) for s in spacing]
    for offset in itertools.product(*(range(-r, r + 1) for r in reach)):
        if any(offset):
            yield offset


def _overlap(offset: tuple[int, ...], shape: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Voxels that have a neighbour at the offset, and these neighbours."""
    here = tuple(slice(max(0, -o), max(0, n - max(0, o))) for o, n in zip(offset, shape, strict=True))
    there = tuple(slice(max(0, o), max(0, n + min(0, o))) for o, n in zip(offset, shape, strict=True))
    return here, there


def _scaled(image: np.ndarray) -> np.ndarray:
    """Channels (c, ...) between about 0 and 1, float32."""
    axes = tuple(range(1, image.ndim))
    low, high = np.percentile(image, [0.5, 99.5], axis=axes, keepdims=True)
    return np.asarray((image - low) / np.maximum(high - low, 1e-6), dtype=np.float32)


def _softmax(scores: np.ndarray) -> np.ndarray:
    scores = np.exp(scores - scores.max(axis=0, keepdims=True))
    return np.asarray(scores / scores.sum(axis=0, keepdims=True), dtype=np.float32)


def _has_regions(around: Surroundings) -> bool:
    return around.labels is not None and around.labels.has_regions


CRF = Operation(
    apply=dense_crf,
    on="probabilities",
    defaults={
        "appearance_weight": 4.0,
        "appearance_mm": 4.0,
        "appearance_intensity": 0.1,
        "smoothness_weight": 2.0,
        "smoothness_mm": 1.5,
        "radius": 3,
        "iterations": 5,
    },
    per_label=False,
    says="A conditional random field lets labels follow the edges of the image",
)
