"""Voxel grids: where a voxel lies in the world, and how grids are cut and turned.

Array axes are ordered (z, y, x), lengths are millimetres. World coordinates are DICOM's LPS in (x, y, z) order, as
in SimpleITK; the change between the two orders happens in this module and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

_POSITIVE = "LPS"  # towards the patient's left, posterior, superior
_NEGATIVE = "RAI"


LEAST_SPACING, LARGEST_SPACING = 1e-9, 1e9
"""Millimetres between voxels that are believed: finer than atoms, coarser than any scanner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Voxel grid of an image with two or three axes.

    Args:
        shape: Voxels per array axis, (z, y, x) or (y, x).
        spacing: Millimetres between voxel centres per array axis.
        origin: World position (x, y, z) of the first voxel; empty means zero.
        directions: World unit vector (x, y, z) of each array axis; empty means that array axes follow world axes.

    Raises:
        ValueError: When lengths disagree, a shape or a spacing is not positive, or the axes do not span space.

    Example:
        >>> Geometry(shape=(20, 40, 40), spacing=(5.0, 1.0, 1.0)).extent
        (100.0, 40.0, 40.0)
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...] = ()
    directions: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        ndim = len(self.shape)
        if len(self.spacing) != ndim:
            raise ValueError(f"shape {self.shape} and spacing {self.spacing} differ in dimension")
        if ndim not in (2, 3):
            raise ValueError(f"a geometry has two or three axes, got shape {self.shape}")
        if min(self.shape) < 1:
            raise ValueError(f"shape must be positive, got {self.shape}")
        if not all(math.isfinite(s) and s > 0 for s in self.spacing):
            raise ValueError(f"spacing must be positive, got {self.spacing} mm")
        if not self.origin:
            object.__setattr__(self, "origin", (0.0,) * ndim)
        if not self.directions:
            identity = tuple(tuple(float(world == ndim - 1 - axis) for world in range(ndim)) for axis in range(ndim))
            object.__setattr__(self, "directions", identity)
        if len(self.origin) != ndim or len(self.directions) != ndim:
            raise ValueError(f"origin {self.origin} or directions {self.directions} do not fit shape {self.shape}")
        if abs(float(np.linalg.det(np.asarray(self.directions)))) < 1e-3:
            raise ValueError(f"the directions {self.directions} do not span space")

    @classmethod
    def from_itk(
        cls,
        size: Sequence[int],
        spacing: Sequence[float],
        origin: Sequence[float],
        direction: Sequence[float],
    ) -> Geometry:
        """Build from ITK's values, which are ordered (x, y, z), direction as a flat row-major matrix."""
        ndim = len(size)
        matrix = np.asarray(direction, dtype=float).reshape(ndim, ndim)
        return cls(
            shape=tuple(int(n) for n in reversed(size)),
            spacing=tuple(float(s) for s in reversed(spacing)),
            origin=tuple(float(o) for o in origin),
            directions=tuple(tuple(float(v) for v in matrix[:, axis]) for axis in reversed(range(ndim))),
        )

    @property
    def itk_spacing(self) -> tuple[float, ...]:
        """Spacing in ITK's (x, y, z) order."""
        return self.spacing[::-1]

    @property
    def itk_direction(self) -> tuple[float, ...]:
        """Direction in ITK's form: flat, row-major, one column per (x, y, z) index axis."""
        matrix = np.asarray(self.directions[::-1]).T
        return tuple(float(v) for v in matrix.ravel())

    @property
    def ndim(self) -> int:
        """Number of array axes, 2 or 3."""
        return len(self.shape)

    @property
    def extent(self) -> tuple[float, ...]:
        """Physical size in millimetres."""
        return tuple(n * s for n, s in zip(self.shape, self.spacing, strict=True))

    @property
    def voxel_volume(self) -> float:
        """Millimetres to the power of the dimension that one voxel covers."""
        return math.prod(self.spacing)

    @property
    def has_right_angles(self) -> bool:
        """Whether the axes stand at right angles to each other, to a thousandth, as networks take for granted."""
        axes = np.asarray(self.directions)
        return bool(np.allclose(axes @ axes.T, np.eye(self.ndim), rtol=0, atol=1e-3))

    @property
    def orientation(self) -> str:
        """Anatomical direction in which each array axis grows, e.g. "SPL" for (z, y, x) along the world axes."""
        remaining = list(range(self.ndim))
        letters = [""] * self.ndim
        # Most clear-cut axis first, so that an oblique grid never names one anatomical direction twice.
        for axis in sorted(range(self.ndim), key=lambda a: -max(abs(v) for v in self.directions[a])):
            vector = self.directions[axis]
            world = max(remaining, key=lambda w: abs(vector[w]))
            remaining.remove(world)
            letters[axis] = _POSITIVE[world] if vector[world] >= 0 else _NEGATIVE[world]
        return "".join(letters)

    def world_position(self, index: Sequence[float]) -> tuple[float, ...]:
        """World position (x, y, z) in mm of an array index (z, y, x)."""
        steps = np.asarray(index, dtype=float) * np.asarray(self.spacing)
        position = np.asarray(self.origin) + steps @ np.asarray(self.directions)
        return tuple(float(v) for v in position)

    def differences(self, other: Geometry, *, tolerance: float = 1e-3) -> list[str]:
        """Describe how two grids differ, one sentence per property; empty when they are the same grid.

        Args:
            other: Grid to compare with.
            tolerance: Largest accepted difference of a spacing (mm), an origin (mm) or a direction component. On grids
                finer than 1 mm lengths are compared in units of the finest spacing.
        """
        found = []
        if self.shape != other.shape:
            found.append(f"shape {self.shape} against {other.shape}")
        unit = min(1.0, *self.spacing)
        for name, scale in (("spacing", unit), ("origin", unit), ("directions", 1.0)):
            mine, theirs = np.asarray(getattr(self, name)), np.asarray(getattr(other, name))
            if mine.shape != theirs.shape or not np.allclose(mine, theirs, rtol=1e-4, atol=tolerance * scale):
                found.append(f"{name} {_rounded(mine)} against {_rounded(theirs)}")
        return found


def directions_of(orientation: str) -> tuple[tuple[float, ...], ...]:
    """World unit vectors (x, y, z) of array axes that grow in the directions a code names.

    Example:
        >>> directions_of("SPL")
        ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    """
    ndim = len(orientation)
    vectors = []
    for letter in orientation:
        sign, world = (1.0, _POSITIVE.index(letter)) if letter in _POSITIVE else (-1.0, _NEGATIVE.index(letter))
        vectors.append(tuple(sign if axis == world else 0.0 for axis in range(ndim)))
    return tuple(vectors)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundingBox:
    """Half-open box of voxels, one ``start`` and ``stop`` per axis."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.start) != len(self.stop) or any(a > b for a, b in zip(self.start, self.stop, strict=True)):
            raise ValueError(f"a box from {self.start} to {self.stop} is impossible")

    @classmethod
    def whole(cls, shape: Sequence[int]) -> BoundingBox:
        """Box that holds every voxel of ``shape``."""
        return cls(start=(0,) * len(shape), stop=tuple(int(n) for n in shape))

    @classmethod
    def around(cls, mask: np.ndarray) -> BoundingBox:
        """Smallest box that holds every true voxel of a boolean mask; the whole extent when there is none."""
        start, stop = [], []
        view = mask
        for axis in range(mask.ndim):
            occupied = np.flatnonzero(view.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
            if not occupied.size:
                return cls.whole(mask.shape)
            start.append(int(occupied[0]))
            stop.append(int(occupied[-1]) + 1)
            view = view[(slice(None),) * axis + (slice(start[-1], stop[-1]),)]  # later axes have less to look at
        return cls(start=tuple(start), stop=tuple(stop))

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis inside the box."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index of the box in an array with exactly the spatial axes."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reorientation:
    """Axis permutation, then flips; turns a grid of one orientation into another without interpolation.

    Args:
        permutation: Output axis i is input axis ``permutation[i]``.
        flips: Whether output axis i runs backwards.
    """

    permutation: tuple[int, ...]
    flips: tuple[bool, ...]

    @classmethod
    def between(cls, source: str, target: str) -> Reorientation:
        """Way from one orientation code to another, e.g. from "SPL" to "SAR".

        Raises:
            ValueError: When the codes do not name the same anatomical axes.
        """
        axis_of = {letter: pair for pair in ("LR", "PA", "SI") for letter in pair}
        source_axes = [axis_of[letter] for letter in source]
        if sorted(source_axes) != sorted(axis_of[letter] for letter in target):
            raise ValueError(f"orientation {source} cannot be turned into {target}")
        permutation = tuple(source_axes.index(axis_of[letter]) for letter in target)
        flips = tuple(source[p] != letter for p, letter in zip(permutation, target, strict=True))
        return cls(permutation=permutation, flips=flips)

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return self.permutation == tuple(range(len(self.permutation))) and not any(self.flips)

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Turn the last axes of an array (leading axes, such as channels, stay); returns a view."""
        lead = array.ndim - len(self.permutation)
        turned = array.transpose(*range(lead), *(lead + p for p in self.permutation))
        return np.flip(turned, self._flipped_axes(lead))

    def invert(self, array: np.ndarray) -> np.ndarray:
        """Undo :meth:`apply`; returns a view."""
        lead = array.ndim - len(self.permutation)
        flipped = np.flip(array, self._flipped_axes(lead))
        inverse = np.argsort(self.permutation)
        return flipped.transpose(*range(lead), *(lead + int(p) for p in inverse))

    def _flipped_axes(self, lead: int) -> tuple[int, ...]:
        return tuple(lead + axis for axis, flip in enumerate(self.flips) if flip)

    def apply_to_geometry(self, geometry: Geometry) -> Geometry:
        """Grid of the turned array: same voxels at the same world positions."""
        order = self.permutation
        first = [geometry.shape[p] - 1 if flip else 0 for p, flip in zip(order, self.flips, strict=True)]
        index = [0.0] * geometry.ndim
        for axis, value in zip(order, first, strict=True):
            index[axis] = value
        return replace(
            geometry,
            shape=tuple(geometry.shape[p] for p in order),
            spacing=tuple(geometry.spacing[p] for p in order),
            origin=geometry.world_position(index),
            directions=tuple(
                tuple(-v if flip else v for v in geometry.directions[p])
                for p, flip in zip(order, self.flips, strict=True)
            ),
        )


def _rounded(values: np.ndarray) -> str:
    """Numbers with five significant digits, as text."""
    return str(np.vectorize(lambda v: float(f"{v:.5g}"))(values).tolist())
