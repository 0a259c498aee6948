"""Operations on probabilities, before labels are decided."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from autoseg.errors import SettingsError
from autoseg.labels import LabelScheme
from autoseg.postprocessing.steps import Operation, Surroundings


def threshold(
    probabilities: np.ndarray, values: tuple[int, ...], around: Surroundings, /, *, threshold: float
) -> np.ndarray:
    """Shift the decision for some labels: with a single label a voxel gets it where its probability exceeds this.

    The odds of the labels are multiplied so that ``threshold`` becomes one half; with several labels the strongest one
    still wins, and 0.5 changes nothing.

    Args:
        probabilities: float32 (k, ...); not modified.
        values: Labels whose odds change.
        around: Knows the labels.
        threshold: Above 0 and below 1; small ones give more voxels.
    """
    if not 0 < threshold < 1:
        raise SettingsError(f"threshold must lie between 0 and 1, found {threshold:g}")
    labels = known_labels(around)
    odds = np.float32((1 - threshold) / threshold)
    shifted = probabilities.copy()
    channels = channels_of(values, labels)
    if labels.has_regions:
        for channel in channels:
            p = probabilities[channel]
            shifted[channel] = odds * p / (odds * p + (1 - p))
        return shifted
    for channel in channels:
        shifted[channel] *= odds
    shifted /= shifted.sum(axis=0, keepdims=True)
    return shifted


def smooth_probabilities(
    probabilities: np.ndarray, values: tuple[int, ...], around: Surroundings, /, *, sigma_mm: float
) -> np.ndarray:
    """Blur the probabilities of some labels with a Gaussian; without regions the rest makes up the sum of one.

    Args:
        probabilities: float32 (k, ...); not modified.
        values: Labels whose probabilities are blurred, and of the background where all labels are.
        around: Knows labels and spacing.
        sigma_mm: Standard deviation of the Gaussian; 0 changes nothing.
    """
    if sigma_mm <= 0:
        return probabilities
    labels = known_labels(around)
    channels = channels_of(values, labels)
    if not labels.has_regions and set(values) == set(labels.foreground_values):
        channels = list(range(labels.num_outputs))
    sigma = [sigma_mm / s for s in around.spacing]
    blurred = probabilities.copy()
    for channel in channels:
        blurred[channel] = ndimage.gaussian_filter(probabilities[channel], sigma, mode="nearest")
    if not labels.has_regions:
        blurred /= np.maximum(blurred.sum(axis=0, keepdims=True), np.float32(1e-12))
    return blurred


def channels_of(values: tuple[int, ...], labels: LabelScheme) -> list[int]:
    """Output channels of the targets that are made of some label values only."""
    offset = 0 if labels.has_regions else 1
    return [i + offset for i, target in enumerate(labels.targets) if set(target.values) <= set(values)]


def known_labels(around: Surroundings) -> LabelScheme:
    """Labels of the prediction.

    Raises:
        SettingsError: When only a segmentation is at hand.
    """
    if around.labels is None:
        raise SettingsError("operations on probabilities need to know the labels")
    return around.labels


THRESHOLD = Operation(
    apply=threshold,
    on="probabilities",
    defaults={"threshold": 0.5},
    trials={"threshold": (0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8)},
    is_pointwise=True,
    says="{label} is taken above a probability of {threshold:g}",
)
SMOOTH_PROBABILITIES = Operation(
    apply=smooth_probabilities,
    on="probabilities",
    defaults={"sigma_mm": 1.0},
    trials={"sigma_mm": (0.5, 1.0)},
    says="Probabilities of {label} are smoothed (Gaussian of {sigma_mm:g} mm)",
)
