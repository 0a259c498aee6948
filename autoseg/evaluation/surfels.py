"""Surfels: the pieces of a mask's surface, one in each cube of eight neighbouring voxels that the surface crosses.

In two dimensions they are pieces of the contour, in squares of four pixels. Where they lie and how large they are
depends on two planes of voxels only, so that a volume can be walked through in slabs.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Corners (z, y, x) inside the mask -> triangles of the marching-cubes surface between them and the other corners, each
# by its area vector in eighths of a cube's faces, signs left out. Every other arrangement is one of these turned,
# mirrored or turned inside out. The areas are those of DeepMind's surface-distance (Nikolov et al., 2021,
# doi:10.2196/26151), which makes surface Dice comparable between programs.
_TRIANGLES: tuple[tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]], ...] = (
    (("111",), ((1, 1, 1),)),
    (("110", "111"), ((2, 2, 0), (2, 2, 0))),
    (("101", "110"), ((1, 1, 1), (1, 1, 1))),
    (("101", "110", "111"), ((1, 1, 1), (2, 2, 2), (4, 0, 0))),
    (("100", "101", "110", "111"), ((4, 0, 0), (4, 0, 0))),
    (("011", "101", "110"), ((1, 1, 1), (1, 1, 1), (1, 1, 1))),
    (("011", "101", "110", "111"), ((1, 1, 1), (1, 1, 1), (2, 2, 2), (2, 2, 2))),
    (("011", "100"), ((1, 1, 1), (1, 1, 1))),
    (("011", "100", "111"), ((0, 2, 2), (0, 2, 2), (1, 1, 1))),
    (("011", "100", "110", "111"), ((0, 2, 2), (1, 1, 1), (2, 0, 2), (3, 3, 3))),
    (("011", "100", "101", "110"), ((1, 1, 1), (1, 1, 1), (2, 2, 2), (4, 0, 0))),
    (("010", "011", "100", "101"), ((2, 2, 0), (2, 2, 0), (2, 2, 0), (2, 2, 0))),
    (("001", "010", "100", "111"), ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1))),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surfels:
    """Surface of one mask, or of a part of it.

    Args:
        corners: int32 (n, d): the voxel corner each lies at; corner (0, ...) is before the first voxel.
        codes: uint8 (n,): which of the voxels around the corner belong to the mask, one bit each.
    """

    corners: np.ndarray
    codes: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Surfels], ndim: int) -> Surfels:
        """Surface in one piece, from any number of parts."""
        return cls(
            corners=np.concatenate([np.empty((0, ndim), np.int32), *(part.corners for part in parts)]),
            codes=np.concatenate([np.empty(0, np.uint8), *(part.codes for part in parts)]),
        )

    @property
    def is_empty(self) -> bool:
        """Whether there is no surface, and therefore no mask."""
        return not len(self.codes)

    def sizes(self, spacing: Sequence[float]) -> np.ndarray:
        """Area in mm2 (length in mm in two dimensions) of each, (n,)."""
        return np.asarray(surfel_sizes(tuple(spacing))[self.codes])

    def positions(self, spacing: Sequence[float]) -> np.ndarray:
        """Where they lie in mm along the array axes, (n, d)."""
        return np.asarray(self.corners * np.asarray(spacing))


def surfels_of(mask: np.ndarray, offset: Sequence[int] | None = None) -> Surfels:
    """Find the surface of a mask; outside of the array there is nothing.

    Args:
        mask: Boolean (z, y, x) or (y, x).
        offset: Index of the mask's first voxel in the volume it was cut from.
    """
    codes = _codes(np.pad(mask, 1))
    at = np.nonzero((codes != 0) & (codes != _full(mask.ndim)))
    corners = np.stack(at, axis=1).astype(np.int32)
    if offset is not None:
        corners += np.asarray(offset, dtype=np.int32)
    return Surfels(corners=corners, codes=codes[at])


def surfels_of_part(mask: np.ndarray, offset: Sequence[int], *, opens: bool, closes: bool) -> Surfels:
    """Find the surface in one of the slabs that a volume is cut into along its first axis.

    Args:
        mask: Boolean; its first plane is the last one of the slab before, unless ``opens``.
        offset: Index of its first voxel in the volume.
        opens: Whether the volume begins here: nothing lies before the first plane.
        closes: Whether the volume ends here: nothing lies behind the last plane.
    """
    others = [(1, 1)] * (mask.ndim - 1)
    codes = _codes(np.pad(mask, [(int(opens), int(closes)), *others]))
    at = np.nonzero((codes != 0) & (codes != _full(mask.ndim)))
    first = np.asarray([offset[0] + (0 if opens else 1), *offset[1:]], dtype=np.int32)
    return Surfels(corners=np.stack(at, axis=1).astype(np.int32) + first, codes=codes[at])


@functools.lru_cache(maxsize=64)
def surfel_sizes(spacing: tuple[float, ...]) -> np.ndarray:
    """Size of a surfel by its code: float64 (256,) in mm2, or (16,) in mm for a spacing of two axes."""
    sizes = np.zeros(_full(len(spacing)) + 1)
    for code, vectors in (_codes_to_triangles() if len(spacing) == 3 else _codes_to_segments()).items():
        sizes[code] = sum(_length(vector, spacing) for vector in vectors)
    sizes.setflags(write=False)
    return sizes


def _length(vector: tuple[int, ...], spacing: tuple[float, ...]) -> float:
    """Size of a triangle or segment whose area vector is given in eighths of faces (halves of edges)."""
    unit = 8 if len(spacing) == 3 else 2
    faces = [math.prod(spacing) / s for s in spacing]
    return math.hypot(*(n / unit * face for n, face in zip(vector, faces, strict=True)))


def _codes(padded: np.ndarray) -> np.ndarray:
    """Which voxels around every inner corner are set; the voxel that comes first is the highest bit."""
    ndim = padded.ndim
    voxels = padded.view(np.uint8)
    codes = np.zeros(tuple(n - 1 for n in padded.shape), dtype=np.uint8)
    for shifts in itertools.product((0, 1), repeat=ndim):
        part = voxels[tuple(slice(shift, n - 1 + shift) for shift, n in zip(shifts, padded.shape, strict=True))]
        codes |= part << np.uint8(_bit(shifts))
    return codes


def _bit(corner: Sequence[int]) -> int:
    """Position of a neighbour's bit."""
    ndim = len(corner)
    return (1 << ndim) - 1 - sum(c << (ndim - 1 - axis) for axis, c in enumerate(corner))


def _full(ndim: int) -> int:
    """Code of a corner in the midst of a mask."""
    return (1 << (1 << ndim)) - 1


@functools.cache
def _codes_to_triangles() -> dict[int, tuple[tuple[int, ...], ...]]:
    found: dict[int, tuple[tuple[int, ...], ...]] = {}
    for names, triangles in _TRIANGLES:
        corners = [tuple(int(digit) for digit in name) for name in names]
        for order in itertools.permutations(range(3)):
            for flips in itertools.product((0, 1), repeat=3):
                turned = [tuple(corner[a] ^ flip for a, flip in zip(order, flips, strict=True)) for corner in corners]
                code = sum(1 << _bit(corner) for corner in turned)
                vectors = tuple(tuple(vector[a] for a in order) for vector in triangles)
                found[code] = found[_full(3) - code] = vectors
    return found


@functools.cache
def _codes_to_segments() -> dict[int, tuple[tuple[int, ...], ...]]:
    """Contour pieces of a square: across a corner, straight through, or two of them across opposite corners."""
    found: dict[int, tuple[tuple[int, ...], ...]] = {}
    square = tuple(itertools.product((0, 1), repeat=2))
    for first in square:
        code = 1 << _bit(first)
        found[code] = found[_full(2) - code] = ((1, 1),)
        for axis in (0, 1):
            beside = tuple(c ^ (a == axis) for a, c in enumerate(first))
            vector = tuple(0 if a == axis else 2 for a in (0, 1))  # the normal of a piece along ``axis``
            found[code | 1 << _bit(beside)] = (vector,)
        across = tuple(1 - c for c in first)
        found[code | 1 << _bit(across)] = ((1, 1), (1, 1))
    return found
