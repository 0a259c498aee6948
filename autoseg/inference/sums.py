"""Weighted sums of logits over tiles: in memory, or in a scratch file behind a window in memory.

A scratch file holds the planes that tiles still reach. In front of it lies a window as thick and as high as a tile and
as wide as memory allows: tiles are added there, and rows that no later tile of the same planes reaches leave for the
file at once. So every sum is written about twice (first when tiles of one position in z have been added, then when the
next ones have), however many tiles overlap, and additions happen in the same order as in memory. Where the window is
narrower than the image, strips overlap by what tiles do, and sums there are written once more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autoseg.arrays import IN_MEMORY, Room, let_go, scratch_array

_PIECE = 1 << 24  # logits that leave at once
_NUMPY_TYPES: dict[torch.dtype, type[np.floating]] = {torch.float32: np.float32, torch.float16: np.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class SumsLayout:
    """What has to be held at once.

    Args:
        num_outputs: Channels k.
        plane: Shape of a plane of the padded grid, without the first axis.
        extent: Voxels of a tile along every axis of the grid.
        depth: Planes between the first and the last that tiles of one call reach.
        dtype: Type of the sums.
    """

    num_outputs: int
    plane: tuple[int, ...]
    extent: tuple[int, ...]
    depth: int
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Of logits and weights."""
        return (self.num_outputs + 1) * self._weight_bytes

    def window_bytes(self, columns: int | None = None) -> int:
        """Memory that sums in a scratch file take: weights, and a window of so many columns; None: one tile's."""
        rows = self.num_outputs * math.prod(self.extent[:-1]) * self.dtype.itemsize
        return self._weight_bytes + rows * (columns or self.extent[-1])

    @property
    def _weight_bytes(self) -> int:
        return self.depth * math.prod(self.plane) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkingMemory:
    """Where sums lie: in memory up to a size, beyond it in files that vanish with the program.

    Args:
        in_memory: Bytes of memory that one set of sums may take.
        scratch: Folder of scratch files; None takes the system's folder for temporary files.
        room: Where large arrays of the image lie.
    """

    in_memory: int
    scratch: Path | None = None
    room: Room = IN_MEMORY

    def columns(self, layout: SumsLayout) -> int | None:
        """Width of the window in front of a scratch file, at least a tile's; None where no file is needed."""
        if layout.num_bytes <= self.in_memory:
            return None
        least = layout.window_bytes()
        per_column = layout.window_bytes(layout.extent[-1] + 1) - least
        wider = max(0, self.in_memory - least) // per_column
        return min(layout.plane[-1], layout.extent[-1] + wider)


def in_strips(positions: Sequence[tuple[int, ...]], width: int, columns: int) -> dict[tuple[int, ...], int]:
    """Order tiles of the same planes strip by strip, so that a window of some columns never goes back.

    Args:
        positions: First corners in the order of nested loops.
        width: Columns of a tile.
        columns: Columns of the window.

    Returns:
        Position -> first column of its strip, in the order in which tiles are to be visited.
    """
    strip_of: dict[int, int] = {}
    first: int | None = None
    for start in sorted({position[-1] for position in positions}):
        if first is None or start + width - first > columns:
            first = start
        strip_of[start] = first
    ordered = sorted(positions, key=lambda position: (position[0], strip_of[position[-1]], *position[1:]))
    return {position: strip_of[position[-1]] for position in ordered}


class RollingSums:
    """Sums of those planes that tiles still reach; a ring, so that nothing is moved when planes leave.

    Args:
        layout: What is held.
        outside: Logits where no tile was; None where tiles cover everything.
        device: Where.
    """

    def __init__(self, layout: SumsLayout, *, outside: Sequence[float] | None, device: torch.device) -> None:
        self.layout = layout
        self.logits = torch.zeros((layout.num_outputs, layout.depth, *layout.plane), dtype=layout.dtype, device=device)
        self.weights = torch.zeros((layout.depth, *layout.plane), dtype=layout.dtype, device=device)
        self.outside = _outside(layout, outside, device)

    def add(self, position: tuple[int, ...], output: torch.Tensor, weight: torch.Tensor) -> None:
        """Add logits (k, *tile), which are overwritten, times their weights (*tile)."""
        output.mul_(weight)
        within = tuple(slice(p, p + n) for p, n in zip(position[1:], weight.shape[1:], strict=True))
        for held, planes in ring(position[0], position[0] + len(weight), self.layout.depth):
            self.logits[(slice(None), held, *within)].add_(output[:, planes])
            self.weights[(held, *within)].add_(weight[planes])

    def take(self, start: int, stop: int) -> Iterator[torch.Tensor]:
        """Mean logits (k, n, ...) of planes that are complete, in pieces; their places become free."""
        for held in _pieces(start, stop, self.layout):
            logits, weights = self.logits[:, held], self.weights[held]
            mean = _mean(logits, weights, self.outside)
            logits.zero_()
            weights.zero_()
            yield mean


class ScratchSums:
    """The same in a scratch file, behind a window in memory.

    Args:
        layout: What is held.
        strips: Position -> first column of its strip; see :func:`in_strips`.
        outside: Logits where no tile was; None where tiles cover everything.
        memory: Makes the file.
    """

    def __init__(
        self,
        layout: SumsLayout,
        *,
        strips: Mapping[tuple[int, ...], int],
        outside: Sequence[float] | None,
        memory: WorkingMemory,
    ) -> None:
        self.layout, self.strips = layout, strips
        self.outside = _outside(layout, outside, torch.device("cpu"))
        # The planes of a 2D image are lines: they get one row.
        rows, width = layout.plane if len(layout.plane) == 2 else (1, *layout.plane)
        self.tile = (*layout.extent[:1], *(layout.extent[1:-1] or (1,)), layout.extent[-1])
        # A plane with all its outputs lies together, because planes leave as wholes.
        shape = (layout.depth, layout.num_outputs, rows, width)
        self.file = scratch_array(shape, _NUMPY_TYPES[layout.dtype], memory.scratch)
        self.stored = torch.from_numpy(self.file)
        self.weights = torch.zeros((layout.depth, rows, width), dtype=layout.dtype)
        # Of the columns that there is memory for, those that the widest strip has.
        columns = max((position[-1] - first for position, first in strips.items()), default=0) + self.tile[2]
        window = (layout.num_outputs, *self.tile[:2], columns)
        self.window = torch.zeros(window, dtype=layout.dtype)
        self.corner: tuple[int, int, int] | None = None

    def add(self, position: tuple[int, ...], output: torch.Tensor, weight: torch.Tensor) -> None:
        """As for :class:`RollingSums`; positions of equal first coordinate come strip by strip."""
        output.mul_(weight)
        output, weight = output.reshape(-1, *self.tile), weight.reshape(self.tile)
        z, y, x = position[0], position[1] if len(position) == 3 else 0, position[-1]
        corner = (z, y, self.strips[position])
        self._move(corner)
        within = slice(x - corner[2], x - corner[2] + self.tile[2])
        for held, rows in ring(y, y + self.tile[1], self.tile[1]):
            self.window[:, :, held, within].add_(output[:, :, rows])
        for held, planes in ring(z, z + self.tile[0], self.layout.depth):
            self.weights[held, y : y + self.tile[1], x : x + self.tile[2]].add_(weight[planes])

    def take(self, start: int, stop: int) -> Iterator[torch.Tensor]:
        """As for :class:`RollingSums`. Only weights are cleared: where they are zero, what the file holds is void."""
        if self.corner is not None and self.corner[0] < stop:
            self._move(None)
        for held in _pieces(start, stop, self.layout):
            weights = self.weights[held].reshape(-1, *self.layout.plane)
            logits = self.stored[held].transpose(0, 1)
            mean = _mean(logits.reshape(len(logits), -1, *self.layout.plane), weights, self.outside)
            weights.zero_()
            yield mean.contiguous()
        let_go(self.file)

    def _move(self, corner: tuple[int, int, int] | None) -> None:
        """Bring the window to another place: rows that it leaves are stored, rows that it meets are read."""
        old, height = self.corner, self.tile[1]
        if corner == old:
            return
        down = old is not None and corner is not None and (old[0], old[2]) == (corner[0], corner[2])
        shared = max(0, old[1] + height - corner[1]) if old is not None and corner is not None and down else 0
        if old is not None:
            for stored, held in self._parts(old, old[1], old[1] + height - shared):
                self.stored[stored[0], :, stored[1], stored[2]].copy_(self.window[held])
        if corner is not None:
            for stored, held in self._parts(corner, corner[1] + shared, corner[1] + height):
                self._read(stored, self.window[held])
        self.corner = corner
        let_go(self.file)

    def _read(self, stored: tuple[int, slice, slice], out: torch.Tensor) -> None:
        is_known = self.weights[stored] > 0
        if not is_known.any():
            out.zero_()
            return
        out.copy_(self.stored[stored[0], :, stored[1], stored[2]])
        if not is_known.all():
            out.masked_fill_(~is_known, 0)

    def _parts(
        self, corner: tuple[int, int, int], start: int, stop: int
    ) -> Iterator[tuple[tuple[int, slice, slice], tuple[slice, int, slice, slice]]]:
        """Places in the file (plane, rows, columns) of some rows of the window, and their places in the window."""
        columns = slice(corner[2], min(corner[2] + self.window.shape[-1], self.weights.shape[-1]))
        width = slice(0, columns.stop - columns.start)
        for plane in range(self.tile[0]):
            for held, rows in ring(start, stop, self.tile[1]):
                place = ((corner[0] + plane) % self.layout.depth, slice(start + rows.start, start + rows.stop), columns)
                yield place, (slice(None), plane, held, width)


def ring(start: int, stop: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Places in a ring of indices from start to stop, at most two runs, and the runs' indices counted from start.

    Example:
        >>> list(ring(6, 9, 4))
        [(slice(2, 4, None), slice(0, 2, None)), (slice(0, 1, None), slice(2, 3, None))]
    """
    index = start
    while index < stop:
        place = index % size
        count = min(stop - index, size - place)
        yield slice(place, place + count), slice(index - start, index - start + count)
        index += count


def _pieces(start: int, stop: int, layout: SumsLayout) -> Iterator[slice]:
    """Places of planes that leave together."""
    per_piece = max(1, _PIECE // max(1, layout.num_outputs * math.prod(layout.plane)))
    for first in range(start, stop, per_piece):
        for held, _ in ring(first, min(first + per_piece, stop), layout.depth):
            yield held


def _outside(layout: SumsLayout, outside: Sequence[float] | None, device: torch.device) -> torch.Tensor | None:
    if outside is None:
        return None
    shape = (layout.num_outputs, *(1,) * (1 + len(layout.plane)))
    return torch.tensor(outside, dtype=layout.dtype, device=device).reshape(shape)


def _mean(logits: torch.Tensor, weights: torch.Tensor, outside: torch.Tensor | None) -> torch.Tensor:
    mean = logits / weights
    return mean if outside is None else torch.where(weights > 0, mean, outside)
