"""Removing what anatomy rules out: everything but the largest connected component."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cc3d
import numpy as np

from autoseg.image import Segmentation
from autoseg.registry import Registry

Operation = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]

POSTPROCESSING: Registry[Operation] = Registry(
    "postprocessing operation",
    group="autoseg.postprocessing",
    built_in={"keep_largest": "autoseg.postprocessing.components:keep_largest"},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostprocessingStep:
    """One operation on the union of some labels.

    Args:
        name: A name of the postprocessing registry.
        values: Label values that it treats as one object.
    """

    name: str
    values: tuple[int, ...]


def apply_postprocessing(steps: Sequence[PostprocessingStep], segmentation: Segmentation) -> Segmentation:
    """Apply operations one after the other.

    Raises:
        SettingsError: When an operation is unknown.
    """
    array = segmentation.array
    for step in steps:
        array = POSTPROCESSING.get(step.name)(array, step.values)
    return replace(segmentation, array=array)


def keep_largest(segmentation: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    """Keep the largest connected component of the union of some labels; the rest of the union becomes background.

    Neighbours share a face, an edge or a corner (26 in 3D, 8 in 2D). Equally large components all stay, as in nnU-Net.

    Args:
        segmentation: Label values (z, y, x) or (y, x); not modified.
        values: Labels that form one object.
    """
    mask = np.isin(segmentation, values)
    box = _extent(mask)
    if box is None:
        return segmentation
    inside = mask[box]
    # As integers: for booleans cc3d takes another way, which labels background at the edge of odd shapes (4.1.1).
    integers = np.ascontiguousarray(inside, dtype=np.uint8)
    components = cc3d.connected_components(integers, connectivity=26 if mask.ndim == 3 else 8)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0  # what lies between components
    if len(sizes) == 2:
        return segmentation
    largest = sizes == sizes.max()
    cleaned = segmentation.copy()
    cleaned[box][inside & ~largest[components]] = 0
    return cleaned


def _extent(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Smallest box around a mask: components are searched there, which is a fraction of most volumes."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        occupied = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if not len(occupied):
            return None
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return tuple(box)
