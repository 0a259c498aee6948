"""How often each axis is halved, and with which kernels: from the spacing and the patch alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SMALLEST_EDGE = 4
"""No axis is halved below this many voxels: the deepest stage needs some neighborhood to look at."""

_SIMILAR = 2.0  # spacings that differ less than this many times count as equal
_SMALLEST_FORCED_EDGE = 2  # of the one halving that tiny patches get; instance norm needs more than one voxel


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Strides and kernels of an encoder; one entry per stage and axis, highest resolution first.

    Args:
        strides: The first is all ones.
        kernel_sizes: 1 along axes that are still too coarse to mix neighbors, else 3.
        patch_size: The patch, rounded up to a multiple of the divisor.
        is_forced: Whether the patch was too small to be halved by the rules, and got one coarser stage all the same.
    """

    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    patch_size: tuple[int, ...]
    is_forced: bool = False

    @property
    def divisor(self) -> tuple[int, ...]:
        """Product of the strides per axis."""
        return _products(self.strides)


def network_topology(spacing: Sequence[float], size: Sequence[float]) -> Topology:
    """Halve axes until they are short, coarse axes later than fine ones, so that voxels become isotropic.

    Follows nnU-Net (supplement of https://doi.org/10.1038/s41592-020-01008-z), which leaves patches with edges below 8
    voxels without any second stage and therefore without a decoder; here those get one.

    Args:
        spacing: Millimeters per axis.
        size: Voxels per axis of the patch, not necessarily whole; rounded up in the result.

    Returns:
        The topology, whose ``patch_size`` is at least ``size``.
    """
    ndim = len(size)
    current_spacing, current_size = list(spacing), [float(n) for n in size]
    kernel = [1] * ndim
    strides, kernels = [(1,) * ndim], []
    axes = _axes_to_halve(spacing, size)
    is_forced = not axes
    axes = axes or _axes_to_force(spacing, size)
    while axes:
        _widen(kernel, current_spacing)
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in axes else 1 for axis in range(ndim)))
        for axis in axes:
            current_spacing[axis] *= 2
            current_size[axis] = math.ceil(current_size[axis] / 2)
        axes = _axes_to_halve(current_spacing, current_size)
    kernels.append((3,) * ndim)
    divisor = _products(strides)
    return Topology(
        strides=tuple(strides),
        kernel_sizes=tuple(kernels),
        patch_size=tuple(math.ceil(n / d) * d for n, d in zip(size, divisor, strict=True)),
        is_forced=is_forced and len(strides) > 1,
    )


def _axes_to_halve(spacing: Sequence[float], size: Sequence[float]) -> list[int]:
    long_enough = [axis for axis, n in enumerate(size) if n >= 2 * SMALLEST_EDGE]
    axes = _finest(long_enough, spacing)
    # One axis alone is not worth a stage for a last halving from 8..11 voxels.
    if len(axes) == 1 and size[axes[0]] < 3 * SMALLEST_EDGE:
        return []
    return axes


def _axes_to_force(spacing: Sequence[float], size: Sequence[float]) -> list[int]:
    return _finest([axis for axis, n in enumerate(size) if n >= 2 * _SMALLEST_FORCED_EDGE], spacing)


def _finest(axes: Sequence[int], spacing: Sequence[float]) -> list[int]:
    """Axes among those given whose spacing is similar to the finest of them."""
    if not axes:
        return []
    finest = min(spacing[axis] for axis in axes)
    return [axis for axis in axes if spacing[axis] / finest < _SIMILAR]


def _widen(kernel: list[int], spacing: Sequence[float]) -> None:
    """Let the kernel reach neighbors along every axis that is now similar to the finest; it never narrows again."""
    for axis, value in enumerate(spacing):
        if value / min(spacing) < _SIMILAR:
            kernel[axis] = 3


def _products(strides: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(math.prod(along_axis) for along_axis in zip(*strides, strict=True))
