"""One head of a network bounds another: what lies outside of the organ is no part of it."""

from __future__ import annotations

import numpy as np

from autoseg.errors import SettingsError
from autoseg.postprocessing.components import largest_components
from autoseg.postprocessing.probabilities import channels_of, known_labels
from autoseg.postprocessing.steps import Operation, Surroundings


def inside(
    probabilities: np.ndarray,
    values: tuple[int, ...],
    around: Surroundings,
    /,
    *,
    organ: float,
    largest: float,
    connectivity: float,
) -> np.ndarray:
    """Set the probabilities of some labels to zero outside of an organ that the network segments as well.

    With regions the organ is where its own head says so. Without, an organ's voxels have one label: where the organ and
    what is to lie in it are together more likely than everything else.

    Args:
        probabilities: float32 (k, ...); not modified.
        values: Labels that lie in the organ.
        around: Knows the labels.
        organ: Number of the organ among the targets, from 0.
        largest: Only the largest component of the organ counts: 3 in the volume, 2 in every slice of the first axis;
            0 takes all.
        connectivity: Of components, see :func:`~autoseg.postprocessing.components.keep_largest`.
    """
    labels = known_labels(around)
    if organ not in range(len(labels.targets)):
        raise SettingsError(f"there is no target {organ:g}; name one of {', '.join(t.name for t in labels.targets)}")
    if largest not in (0, 2, 3):
        raise SettingsError(f"largest must be 0, 2 or 3, found {largest:g}")
    bounded = channels_of(values, labels)
    channel = int(organ) + (0 if labels.has_regions else 1)
    if channel in bounded:
        return probabilities
    shown = [channel] if labels.has_regions else [channel, *bounded]
    mask = probabilities[shown].sum(axis=0) > 0.5
    if largest == 2 and mask.ndim == 3:
        mask = np.stack([largest_components(plane, connectivity) for plane in mask])
    elif largest:
        mask = largest_components(mask, connectivity)
    gated = probabilities.copy()
    gated[bounded] *= mask
    if not labels.has_regions:
        gated[0] += probabilities[bounded].sum(axis=0) * ~mask
    return gated


INSIDE = Operation(
    apply=inside,
    on="probabilities",
    defaults={"organ": 0, "largest": 3, "connectivity": 26},
    trials={"largest": (0, 2, 3)},
    says="{label} counts only inside target {organ:g}, counted from 0",
)
