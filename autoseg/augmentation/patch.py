"""How far patches may be turned and mirrored, and how large a patch must be read so that turning shows no border.

Everything here follows nnU-Net's rules and needs nothing but a configuration and a recipe.
"""

from __future__ import annotations

import math

import numpy as np

from autoseg.augmentation.recipe import NNUNET, AugmentationRecipe
from autoseg.plan import Configuration

_MOST_ANISOTROPIC = 3.0  # longest over first edge of a 3D patch that is still turned in all planes
_MOST_ELONGATED = 1.5  # longest over shortest edge of a 2D patch that is still turned all round
_LARGEST_ZOOM, _LARGEST_ZOOM_OF_DA5 = 0.85, 0.7


def is_anisotropic(configuration: Configuration, recipe: AugmentationRecipe = NNUNET) -> bool:
    """Whether a 3D patch is so flat along its first axis that it is only turned within the planes of the others."""
    patch = configuration.patch_size
    return len(patch) == 3 and max(patch) / patch[0] > _MOST_ANISOTROPIC and not recipe.all_planes


def rotation_range(configuration: Configuration, recipe: AugmentationRecipe = NNUNET) -> float:
    """Largest rotation angle in either direction, in radians."""
    patch = configuration.patch_size
    if len(patch) == 2:
        return math.radians(15) if max(patch) / min(patch) > _MOST_ELONGATED else math.pi
    return math.pi if is_anisotropic(configuration, recipe) else math.radians(30)


def mirror_axes(configuration: Configuration) -> tuple[int, ...]:
    """Axes along which patches are mirrored, in training and in prediction: all that the plan allows."""
    return tuple(range(configuration.ndim)) if configuration.mirror_axes is None else configuration.mirror_axes


def initial_patch_size(configuration: Configuration, recipe: AugmentationRecipe = NNUNET) -> tuple[int, ...]:
    """Edges of the patch that is read before it is turned, scaled and cut to the configuration's patch size.

    The patch's diagonal is turned about each axis by the largest angle, at most a right one; the longest result per
    axis is enlarged for the zoom. This covers most rotations, not all: corners that stay outside are padded.
    """
    patch = np.asarray(configuration.patch_size, dtype=float)
    angle = min(math.pi / 2, rotation_range(configuration, recipe))
    reach = np.max([patch, *(np.abs(patch @ matrix) for matrix in _rotations(angle, len(patch)))], axis=0)
    initial = [int(edge) for edge in reach / (_LARGEST_ZOOM_OF_DA5 if recipe.is_da5 else _LARGEST_ZOOM)]
    if is_anisotropic(configuration, recipe):
        initial[0] = configuration.patch_size[0]
    return tuple(initial)


def _rotations(angle: float, ndim: int) -> list[np.ndarray]:
    """Rotation matrices by ``angle`` within each plane of two axes, in the senses that nnU-Net turns."""
    c, s = math.cos(angle), math.sin(angle)
    if ndim == 2:
        return [np.array([[c, -s], [s, c]])]
    return [
        np.array([[1, 0, 0], [0, c, -s], [0, s, c]]),
        np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]),
        np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]),
    ]
