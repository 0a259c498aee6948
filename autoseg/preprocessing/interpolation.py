"""Separable spline interpolation: one small matrix per axis instead of a spline evaluated at every voxel.

Zooming an array is linear and treats axes one after the other, so zooming unit vectors gives a (new, old) matrix per
axis that holds everything, the edge rule included. The matrices are banded: a spline forgets a voxel after some
twenty others. They are cut into blocks of rows, and each block meets only the columns it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

import numpy as np

from autoseg.arrays import IN_MEMORY, Room, let_go

_BLOCK_ROWS = 32  # fastest of 32, 64, 128 and all on volumes of 256 voxels per edge
_NEGLIGIBLE = 1e-12  # weights below it cannot be seen in float32
_SLAB_VOXELS = 2**20  # intermediate results stay near the processor

Precision = Literal["float32", "float64"]
Finish = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatrixBlock:
    """Some rows of an interpolation matrix and the columns in which they are not zero.

    Args:
        rows: New positions.
        columns: Old positions that they depend on.
        weights: (rows, columns).
    """

    rows: slice
    columns: slice
    weights: np.ndarray


@lru_cache(maxsize=64)
def interpolation_matrix(old: int, new: int, order: int) -> np.ndarray:
    """Weights (new, old), float64, read-only, of every old voxel in every new one along an axis.

    Equal to ``scipy.ndimage.zoom`` with ``mode="nearest"`` and ``grid_mode=True``: new voxel i lies at
    (i + 0.5) * old / new - 0.5, and the outermost voxels go on for ever.

    Args:
        old: Voxels before.
        new: Voxels after.
        order: Spline order, 0 to 5.
    """
    from scipy import ndimage

    known_order = cast("Literal[0, 1, 2, 3, 4, 5]", order)  # scipy refuses others
    matrix = np.empty((new, old))
    for column, unit in enumerate(np.eye(old)):
        matrix[:, column] = ndimage.zoom(unit, new / old, order=known_order, mode="nearest", grid_mode=True)
    matrix.flags.writeable = False
    return matrix


@lru_cache(maxsize=64)
def matrix_blocks(old: int, new: int, order: int, precision: Precision) -> tuple[MatrixBlock, ...]:
    """Cut an interpolation matrix into blocks of rows without their zero columns.

    Args:
        old: Voxels before.
        new: Voxels after.
        order: Spline order, 0 to 5.
        precision: Type of the weights.
    """
    matrix = interpolation_matrix(old, new, order)
    blocks = []
    for start in range(0, new, _BLOCK_ROWS):
        rows = slice(start, min(start + _BLOCK_ROWS, new))
        used = np.flatnonzero((np.abs(matrix[rows]) > _NEGLIGIBLE).any(axis=0))
        columns = slice(int(used[0]), int(used[-1]) + 1)
        weights = np.ascontiguousarray(matrix[rows, columns], dtype=precision)
        weights.flags.writeable = False
        blocks.append(MatrixBlock(rows=rows, columns=columns, weights=weights))
    return tuple(blocks)


def resize_planes(
    volume: np.ndarray, shape: tuple[int, int], *, order: int, precision: Precision, room: Room = IN_MEMORY
) -> np.ndarray:
    """Interpolate the last two axes.

    Args:
        volume: (n, y, x); not modified.
        shape: New (y, x).
        order: Spline order.
        precision: Type to compute in and to return.
        room: Where the result lies.

    Returns:
        (n, *shape); the volume itself where there is nothing to do.
    """
    if volume.shape[1:] == shape and volume.dtype == precision:
        return volume
    resized = room.empty((len(volume), *shape), precision)
    step = max(1, _SLAB_VOXELS // (volume.shape[1] * volume.shape[2]))
    # The axis that shrinks more goes first, so that the other one has less to do.
    axes = (1, 2) if shape[0] * volume.shape[2] < shape[1] * volume.shape[1] else (2, 1)
    for start in range(0, len(volume), step):
        slab = np.ascontiguousarray(volume[start : start + step], dtype=precision)
        for axis in axes:
            slab = _resize_axis(slab, shape[axis - 1], axis=axis, order=order, precision=precision)
        resized[start : start + step] = slab
        let_go(volume, resized)
    return resized


def resize_depth(
    volume: np.ndarray,
    out: np.ndarray,
    *,
    order: int,
    precision: Precision,
    finish: Finish | None = None,
) -> None:
    """Interpolate the first axis, some new planes at a time.

    Args:
        volume: (old, y, x); not modified.
        out: (new, y, x) to write to.
        order: Spline order.
        precision: Type to compute in.
        finish: Applied to each part (n, y, x) of the result before it is written.
    """
    for block in matrix_blocks(len(volume), len(out), order, precision):
        needed = np.ascontiguousarray(volume[block.columns], dtype=precision)
        part = (block.weights @ needed.reshape(len(needed), -1)).reshape(-1, *volume.shape[1:])
        out[block.rows] = part if finish is None else finish(part)
        let_go(volume, out)


def nearest_planes(old: int, new: int) -> np.ndarray:
    """Index of the old plane that each new one repeats, floor(old / new * (i + 0.5)), as nnU-Net takes it."""
    return np.asarray(np.clip(np.floor(old / new * (np.arange(new) + 0.5)).astype(np.int64), 0, old - 1))


def _resize_axis(slab: np.ndarray, new: int, *, axis: int, order: int, precision: Precision) -> np.ndarray:
    """Interpolate axis 1 or 2 of a contiguous (n, y, x) slab."""
    old = slab.shape[axis]
    if old == new:
        return slab
    num, rows, columns = slab.shape
    blocks = matrix_blocks(old, new, order, precision)
    if axis == 1:
        resized = np.empty((num, new, columns), dtype=precision)
        for block in blocks:
            np.matmul(block.weights, slab[:, block.columns], out=resized[:, block.rows])
        return resized
    lines = slab.reshape(-1, old)
    resized_lines = np.empty((num * rows, new), dtype=precision)
    for block in blocks:
        np.matmul(lines[:, block.columns], block.weights.T, out=resized_lines[:, block.rows])
    return resized_lines.reshape(num, rows, new)
