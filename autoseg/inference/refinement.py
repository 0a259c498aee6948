"""Operations on probabilities between the network and the labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from autoseg.evaluation.calibration import with_temperature
from autoseg.image import Image
from autoseg.inference.ensemble import average_probabilities
from autoseg.inference.export import Prediction, slab_slices
from autoseg.labels import LabelScheme
from autoseg.postprocessing.steps import (
    PostprocessingStep,
    is_pointwise,
    refine_probabilities,
    works_on_probabilities,
)


def calibrated(prediction: Prediction, temperature: float, labels: LabelScheme) -> Prediction:
    """A prediction whose logits are divided by a temperature, slab by slab."""
    if temperature == 1:
        return prediction
    slabs = ((part, with_temperature(slab, temperature, labels)) for part, slab in prediction.slabs)
    return replace(prediction, slabs=slabs)


def watched(prediction: Prediction, watch: Callable[[np.ndarray], None]) -> Prediction:
    """The same prediction; ``watch`` sees every slab (k, ...) as it passes."""

    def passing() -> Iterator[tuple[slice, np.ndarray]]:
        for part, slab in prediction.slabs:
            watch(slab)
            yield part, slab

    return replace(prediction, slabs=passing())


def total_variation(parts: Sequence[np.ndarray], weights: Sequence[float], labels: LabelScheme) -> np.ndarray:
    """Weighted mean over predictions of their total variation distance from their mean.

    Args:
        parts: Probabilities (k, ...) each.
        weights: One per prediction.
        labels: Without regions outputs sum to one, and distances are halved; regions are averaged.

    Returns:
        float32 (...), 0 where all agree.
    """
    mean = average_probabilities(parts, weights)
    apart = sum(weight * np.abs(part - mean) for part, weight in zip(parts, weights, strict=True)) / sum(weights)
    distance = np.mean(apart, axis=0) if labels.has_regions else np.sum(apart, axis=0) / 2
    return np.asarray(distance, dtype=np.float32)


def refined(
    prediction: Prediction, steps: Sequence[PostprocessingStep], labels: LabelScheme, image: Image
) -> Prediction:
    """Apply the operations on probabilities; slab by slab where they treat each voxel alone.

    Others need all probabilities of the case in memory at once.

    Args:
        prediction: Consumed when the result is read.
        steps: Postprocessing; operations on segmentations are left out.
        labels: What the outputs mean.
        image: Intensities on the same grid.
    """
    if not works_on_probabilities(steps):
        return prediction
    spacing = prediction.geometry.spacing
    if is_pointwise(steps):
        slabs = ((part, refine_probabilities(steps, slab, labels, spacing)) for part, slab in prediction.slabs)
        return replace(prediction, slabs=slabs)

    def whole() -> Iterator[tuple[slice, np.ndarray]]:
        probabilities = refine_probabilities(steps, prediction.to_array(), labels, spacing, image)
        for part in slab_slices(probabilities.shape):
            yield part, probabilities[:, part]

    return replace(prediction, slabs=whole(), axis=0)
