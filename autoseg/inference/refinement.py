"""Operations on probabilities between the network and the labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from autoseg.image import Image
from autoseg.inference.export import Prediction, slab_slices
from autoseg.labels import LabelScheme
from autoseg.postprocessing.steps import (
    PostprocessingStep,
    is_pointwise,
    refine_probabilities,
    works_on_probabilities,
)


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
