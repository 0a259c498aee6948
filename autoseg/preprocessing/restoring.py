"""Scores of a network on their way back to the stored image, some planes at a time.

The whole way (resampling, the border that was cropped, transposition, orientation) is undone slab by slab along the
first axis that the network worked in, so that scores of any number of classes never lie in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.geometry import Reorientation
from autoseg.plan import ResamplingPlan
from autoseg.preprocessing.case import CaseTrace
from autoseg.preprocessing.interpolation import interpolation_matrix, nearest_planes, resize_planes
from autoseg.preprocessing.resampling import resample_image, separate_axis

_NEGLIGIBLE = 1e-12  # weights below it cannot be seen in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class SlabAxis:
    """Where consecutive planes of the grid that is worked in lie in the stored image.

    Args:
        axis: Axis of the stored image.
        length: Its voxels.
        is_reversed: Whether the first plane that is worked on is the last one stored.
    """

    axis: int
    length: int
    is_reversed: bool

    @classmethod
    def of(cls, trace: CaseTrace) -> SlabAxis:
        """The stored axis along which a case's slabs follow each other."""
        turned = trace.transpose[0]
        way = Reorientation.between(trace.geometry.orientation, trace.orientation_code)
        axis = way.permutation[turned]
        return cls(axis=axis, length=trace.geometry.shape[axis], is_reversed=way.flips[turned])

    def stored(self, start: int, stop: int) -> slice:
        """Stored planes of planes that are worked on from start to stop."""
        return slice(self.length - stop, self.length - start) if self.is_reversed else slice(start, stop)


def restore_slabs(
    scores: Iterable[np.ndarray],
    trace: CaseTrace,
    resampling: ResamplingPlan,
    *,
    fill: Sequence[float],
    thickness: int,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Bring scores of a network back to the grid of the stored image.

    Args:
        scores: (k, n, ...) each: consecutive planes of the preprocessed grid, first axis first, a floating-point
            type; not modified. Read no further than needed.
        trace: What was done to the image.
        resampling: Interpolation orders of the configuration. Orders above 1 gather the whole before they begin:
            their values are clipped to the range of the channel.
        fill: Score of each of the k channels where the image had been cropped away.
        thickness: Planes per slab of the result.

    Yields:
        Planes along the axis that :class:`SlabAxis` names, and their scores (k, ...) with the axes of the stored
        image, in the type of ``scores``. Slabs follow each other in the order that was worked in.

    Raises:
        ValueError: When the scores do not fill the preprocessed grid.
    """
    placed = SlabAxis.of(trace)
    planes = _Planes(iter(scores), trace.resampled_shape)
    if max(resampling.probabilities_order, resampling.order_z) > 1:
        back: _Linear | _Whole = _Whole(planes, trace, resampling)
    else:
        back = _Linear(planes, trace, resampling)
    first, last = trace.box.start[0], trace.box.stop[0]
    around = trace.box.slices[1:]
    is_cropped = trace.cropped_shape[1:] != trace.original_shape[1:]
    for start in range(0, trace.original_shape[0], thickness):
        stop = min(start + thickness, trace.original_shape[0])
        inside = slice(max(start, first) - first, max(min(stop, last), first) - first)
        rows = back.planes(inside.start, inside.stop) if inside.start < inside.stop else None
        if rows is None or is_cropped or rows.shape[1] != stop - start:
            slab = np.empty((len(fill), stop - start, *trace.original_shape[1:]), dtype=planes.dtype)
            slab[...] = np.reshape(fill, (-1, *(1,) * (slab.ndim - 1)))
            if rows is not None:
                slab[(slice(None), slice(inside.start + first - start, inside.stop + first - start), *around)] = rows
        else:
            slab = rows
        yield placed.stored(start, stop), _stored_axes(slab, trace)


class _Planes:
    """A stream of planes of which the last few are kept.

    Args:
        parts: (k, n, ...) each.
        shape: Grid that the parts fill together.
    """

    def __init__(self, parts: Iterator[np.ndarray], shape: tuple[int, ...]) -> None:
        self.parts = parts
        self.shape = shape
        self.change: Callable[[np.ndarray], np.ndarray] | None = None
        self.start = 0
        self.held = self._next()
        self.dtype: np.dtype[np.floating] = self.held.dtype

    def changed_by(self, change: Callable[[np.ndarray], np.ndarray]) -> None:
        """Apply a function to every part when it arrives."""
        self.held, self.change = change(self.held), change

    def between(self, start: int, stop: int) -> np.ndarray:
        """Planes (k, n, ...) from start to stop; earlier ones are forgotten."""
        keep = [self.held[:, start - self.start :]]
        end = self.start + self.held.shape[1]
        while end < stop:
            part = self._next()
            keep.append(part[:, max(0, start - end) :])
            end += part.shape[1]
        self.held = keep[0] if len(keep) == 1 else np.concatenate(keep, axis=1)
        self.start = start
        return self.held[:, : stop - start]

    def _next(self) -> np.ndarray:
        part = next(self.parts, None)
        if part is None or part.shape[2:] != self.shape[1:]:
            found = "nothing is left" if part is None else f"planes have the shape {part.shape[2:]}"
            raise ValueError(f"scores do not fit the preprocessed grid {self.shape}: {found}")
        return part if self.change is None else self.change(part)


class _Linear:
    """Orders 0 and 1: every new plane follows from a few old ones, axes one after the other."""

    def __init__(self, source: _Planes, trace: CaseTrace, orders: ResamplingPlan) -> None:
        thick = None
        if len(trace.transpose) == 3:
            thick = separate_axis(
                trace.resampled_spacing, trace.cropped_spacing, force_separate_z=orders.force_separate_z
            )
        old, new = trace.resampled_shape, trace.cropped_shape
        self.source = source
        self.new = new[1:]
        self.order = orders.probabilities_order
        self.depth = _axis_weights(old[0], new[0], orders, is_thick=thick == 0)
        # A thick axis within the planes: lines are chosen, or interpolated with an order of their own.
        self.thick = thick or None
        self.across = None if not thick else _axis_weights(old[thick], new[thick], orders, is_thick=True)
        self.grows = new[0] >= old[0]
        if self.grows:  # every old plane is needed more than once: it is resized when it arrives
            source.changed_by(self._within)

    def planes(self, start: int, stop: int) -> np.ndarray:
        """Planes (k, n, ...) of the cropped grid."""
        used = np.flatnonzero((self.depth[start:stop] > _NEGLIGIBLE).any(axis=0))
        first, last = int(used[0]), int(used[-1]) + 1
        mixed = _mix(self.depth[start:stop, first:last], self.source.between(first, last))
        resized = mixed if self.grows else self._within(mixed)
        return resized.astype(self.source.dtype, copy=False)

    def _within(self, scores: np.ndarray) -> np.ndarray:
        """Resize planes (k, n, ...) within themselves."""
        if scores.shape[2:] == self.new:
            return scores
        planes = scores.reshape(-1, *((1,) if scores.ndim == 3 else ()), *scores.shape[2:])  # (k * n, y, x)
        if self.across is not None and self.thick is not None:
            lines = np.moveaxis(planes, self.thick, 0).astype(np.float32, copy=False)
            planes = np.moveaxis(np.tensordot(self.across, lines, 1), 0, self.thick)
        rows, columns = self.new if len(self.new) == 2 else (1, *self.new)
        resized = resize_planes(planes, (rows, columns), order=self.order, precision="float32")
        return resized.reshape(*scores.shape[:2], *self.new)


class _Whole:
    """Higher orders: the whole is gathered and resampled at once."""

    def __init__(self, source: _Planes, trace: CaseTrace, orders: ResamplingPlan) -> None:
        self.resampled = resample_image(
            source.between(0, trace.resampled_shape[0]),
            trace.cropped_shape,
            spacing=trace.resampled_spacing,
            new_spacing=trace.cropped_spacing,
            order=orders.probabilities_order,
            order_z=orders.order_z,
            force_separate_z=orders.force_separate_z,
        )

    def planes(self, start: int, stop: int) -> np.ndarray:
        """Planes (k, n, ...) of the cropped grid."""
        return self.resampled[:, start:stop]


def _axis_weights(old: int, new: int, orders: ResamplingPlan, *, is_thick: bool) -> np.ndarray:
    """Weights (new, old), float32, of old planes in new ones along an axis."""
    if is_thick and orders.order_z == 0:
        return np.asarray(np.eye(old, dtype=np.float32)[nearest_planes(old, new)])
    order = orders.order_z if is_thick else orders.probabilities_order
    return np.asarray(interpolation_matrix(old, new, order), dtype=np.float32)


def _mix(weights: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """New planes (k, n, ...) as sums of old ones (k, m, ...) with weights (n, m)."""
    if np.array_equal(weights, np.eye(len(weights))):
        return scores
    lines = scores.reshape(*scores.shape[:2], -1).astype(np.float32, copy=False)
    mixed: np.ndarray = np.matmul(weights, lines)
    return mixed.reshape(len(scores), len(weights), *scores.shape[2:])


def _stored_axes(slab: np.ndarray, trace: CaseTrace) -> np.ndarray:
    """View of a slab (k, ...) that was worked on with the axes of the stored image."""
    inverse = np.argsort(trace.transpose)
    turned = slab.transpose(0, *(1 + int(axis) for axis in inverse))
    return np.asarray(Reorientation.between(trace.geometry.orientation, trace.orientation_code).invert(turned))
