"""Connected components of masks of any size: slabs are labelled one by one and joined where they touch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from autoseg.arrays import let_go, slabs

_LABELLED_AT_ONCE = 1 << 26  # voxels; labels take four bytes

Label = Callable[[np.ndarray], tuple[np.ndarray, int]]
"""Components of a boolean array as numbers from 1, and how many there are."""


def fill_holes(mask: np.ndarray) -> None:
    """Set what is false and does not reach the border of a boolean array through faces, in place."""
    if all(mask[part].all() for part in slabs(mask.shape)):
        return
    parts = list(slabs(mask.shape, voxels=_LABELLED_AT_ONCE))
    joined = _Joined(diagonally=False)
    at_border: list[np.ndarray] = []
    for part in parts:
        numbers, count = _label_by_faces(~mask[part])
        reaches = np.zeros(count + 1, dtype=bool)
        for face in _faces(numbers, is_first=part.start == 0, is_last=part.stop == len(mask)):
            reaches[np.unique(face)] = True
        at_border.append(reaches[1:])
        joined.add(numbers, count)
        let_go(mask)
    component, count = joined.components()
    is_open = np.zeros(count, dtype=bool)
    is_open[component[np.concatenate(at_border)]] = True
    for part, offset, number in zip(parts, joined.offsets, joined.counts, strict=True):
        is_hole = np.concatenate([[False], ~is_open[component[offset : offset + number]]])
        if is_hole.any():
            _set_holes(mask[part], is_hole)
        let_go(mask)


def _set_holes(mask: np.ndarray, is_hole: np.ndarray) -> None:
    numbers, _ = _label_by_faces(~mask)
    for part in slabs(mask.shape):
        # Looked up where there is background only: inside the body of a CT that is a voxel here and there.
        zeros = np.nonzero(numbers[part])
        mask[part][zeros] = is_hole[numbers[part][zeros]]


def count_components(depth: int, mask: Callable[[slice], np.ndarray], shape: tuple[int, ...], label: Label) -> int:
    """Number of components in which voxels hang together by faces, edges or corners.

    Args:
        depth: Planes.
        mask: Gives the boolean array of some planes.
        shape: Of a plane.
        label: Labels an array with that neighbourhood.
    """
    joined = _Joined(diagonally=True)
    for part in slabs((depth, *shape), voxels=_LABELLED_AT_ONCE):
        joined.add(*label(mask(part)))
    return joined.components()[1]


class _Joined:
    """Components of consecutive slabs, and which of them touch.

    Args:
        diagonally: Whether edges and corners count as touching.
    """

    def __init__(self, *, diagonally: bool) -> None:
        self.diagonally = diagonally
        self.offsets: list[int] = []
        self.counts: list[int] = []
        self._pairs: list[np.ndarray] = []
        self._last: np.ndarray | None = None
        self._total = 0

    def add(self, numbers: np.ndarray, count: int) -> None:
        """The next slab: numbers from 1 to ``count``, 0 elsewhere."""
        if self._last is not None:
            self._pairs.extend(self._touching(self._last, numbers[0]))
        self.offsets.append(self._total)
        self.counts.append(count)
        self._total += count
        self._last = numbers[-1].astype(np.int64)

    def components(self) -> tuple[np.ndarray, int]:
        """Component of every number of every slab, slabs one after the other, and the number of components."""
        if not self._pairs:
            return np.arange(self._total), self._total
        from scipy import sparse

        first, second = np.concatenate(self._pairs, axis=1)
        graph = sparse.coo_array((np.ones(len(first), np.int8), (first, second)), shape=(self._total, self._total))
        count, component = sparse.csgraph.connected_components(graph, directed=False)
        return np.asarray(component), int(count)

    def _touching(self, above: np.ndarray, below: np.ndarray) -> Iterator[np.ndarray]:
        """Pairs (2, n) of numbers, counted through all slabs, that are neighbours across the border."""
        shifts = product((-1, 0, 1), repeat=above.ndim) if self.diagonally else [(0,) * above.ndim]
        for shift in shifts:
            here = tuple(slice(max(0, s), n + min(0, s)) for s, n in zip(shift, above.shape, strict=True))
            there = tuple(slice(max(0, -s), n + min(0, -s)) for s, n in zip(shift, above.shape, strict=True))
            a, b = above[here], below[there].astype(np.int64)
            is_touching = (a > 0) & (b > 0)
            if is_touching.any():
                pairs = np.stack([a[is_touching] - 1 + self.offsets[-1], b[is_touching] - 1 + self._total])
                yield np.unique(pairs, axis=1)


def _label_by_faces(mask: np.ndarray) -> tuple[np.ndarray, int]:
    from scipy import ndimage  # a third of a second to import, and only where something is computed

    numbers, count = ndimage.label(mask)
    return numbers, int(count)


def _faces(numbers: np.ndarray, *, is_first: bool, is_last: bool) -> Iterator[np.ndarray]:
    """Planes of a slab that lie on the border of the whole."""
    if is_first:
        yield numbers[0]
    if is_last:
        yield numbers[-1]
    for axis in range(1, numbers.ndim):
        yield numbers.take(0, axis=axis)
        yield numbers.take(-1, axis=axis)
