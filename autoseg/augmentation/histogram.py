"""A patch in the intensities of another training case: its order of voxels, the other's histogram."""

from __future__ import annotations

import numpy as np


def match_histograms(
    image: np.ndarray, inside: np.ndarray, reference: np.ndarray, reference_inside: np.ndarray
) -> None:
    """Give every channel of a patch the distribution of intensities of another patch, in place.

    Args:
        image: (c, ...) float32.
        inside: (...) bool, the voxels that count and change; those outside of the image do not.
        reference: (c, ...) float32, of any shape.
        reference_inside: (...) bool, the voxels of the reference that count.
    """
    if not (inside.any() and reference_inside.any()):
        return
    for channel, like in zip(image, reference, strict=True):
        values, where, counts = np.unique(channel[inside], return_inverse=True, return_counts=True)
        if len(values) == 1:
            continue  # nothing tells its voxels apart
        wanted, wanted_counts = np.unique(like[reference_inside], return_counts=True)
        matched = np.interp(_middle_shares(counts), _middle_shares(wanted_counts), wanted)
        channel[inside] = matched.astype(np.float32)[where.reshape(-1)]


def _middle_shares(counts: np.ndarray) -> np.ndarray:
    """Of each value, the share of voxels below it and of half of those that have it."""
    return np.asarray((np.cumsum(counts) - counts / 2) / counts.sum())
