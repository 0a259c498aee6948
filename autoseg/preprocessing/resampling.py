"""Changing the voxel size of images, network outputs and segmentations, with nnU-Net's results.

A much thicker axis is not interpolated: its planes are resized one by one and then repeated or dropped, because
between slices that lie far apart a spline invents anatomy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoseg.arrays import IN_MEMORY, Room, let_go, slabs
from autoseg.preprocessing.interpolation import Precision, nearest_planes, resize_depth, resize_planes
from autoseg.preprocessing.label_resampling import AxisTaps, resample_labels

_THICK_RATIO = 3.0  # nnU-Net's: above it the thickest axis is treated apart
_SINGLE_PRECISION_LIMIT = 64.0  # beyond this magnitude float32 splines would be off by more than 1e-5


def separate_axis(
    spacing: Sequence[float], new_spacing: Sequence[float], *, force_separate_z: bool | None = None
) -> int | None:
    """Decide which axis, if any, is too thick to be interpolated.

    Args:
        spacing: Present voxel size per axis, mm.
        new_spacing: Wanted voxel size per axis, mm.
        force_separate_z: True: the thickest present axis; False: none; None: where one of the two spacings has an
            axis more than three times as thick as its thinnest (the present one is asked first).

    Returns:
        The axis, or None, also where several axes are equally thick.
    """
    if force_separate_z is False:
        return None
    candidates = [spacing] if force_separate_z else [s for s in (spacing, new_spacing) if _is_thick(s)]
    if not candidates:
        return None
    thickest = [axis for axis, size in enumerate(candidates[0]) if max(candidates[0]) / size == 1]
    return thickest[0] if len(thickest) == 1 else None


def resampled_shape(shape: Sequence[int], *, spacing: Sequence[float], new_spacing: Sequence[float]) -> tuple[int, ...]:
    """Voxels per axis at another voxel size, half rounded to even as nnU-Net does; at least one.

    Example:
        >>> resampled_shape((20, 40, 40), spacing=(5.0, 1.0, 1.0), new_spacing=(2.5, 1.0, 2.0))
        (40, 40, 20)
    """
    return tuple(max(1, round(s / t * n)) for n, s, t in zip(shape, spacing, new_spacing, strict=True))


def resample_image(
    array: np.ndarray,
    shape: Sequence[int],
    *,
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    order: int,
    order_z: int = 0,
    force_separate_z: bool | None = None,
    room: Room = IN_MEMORY,
) -> np.ndarray:
    """Bring intensities or network outputs to another shape.

    As in nnU-Net, values never leave the range of the input: of the channel, or of the plane where an axis is
    treated apart.

    Args:
        array: (c, z, y, x) or (c, y, x), a floating-point type; not modified.
        shape: New spatial shape.
        spacing: Present voxel size per axis, mm. Only decides whether an axis is treated apart.
        new_spacing: Voxel size wanted, mm; used likewise.
        order: Spline order, 0 to 5.
        order_z: Spline order along an axis that is treated apart; 0 repeats the nearest plane.
        force_separate_z: See :func:`separate_axis`.
        room: Where the result, and what lies between, is held.

    Returns:
        (c, *shape) in the type of ``array``; the array itself where the shape stays.
    """
    if array.shape[1:] == tuple(shape):
        return array
    axis = _separate_axis(spacing, new_spacing, force_separate_z=force_separate_z)
    resampled = room.empty((len(array), *shape), array.dtype)
    for channel, out in zip(array, resampled, strict=True):
        if axis is None:
            _resample_volume(channel, out, order=order, room=room)
        elif channel.ndim == 2:
            _resample_by_planes(channel[None], out[None], order=order, order_z=order_z)
        else:
            turned, turned_out = np.moveaxis(channel, axis, 0), np.moveaxis(out, axis, 0)
            _resample_by_planes(turned, turned_out, order=order, order_z=order_z)
    return resampled


def resample_segmentation(
    array: np.ndarray,
    shape: Sequence[int],
    *,
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    order: int = 1,
    order_z: int = 0,
    force_separate_z: bool | None = None,
    room: Room = IN_MEMORY,
) -> np.ndarray:
    """Bring label values to another shape.

    Order 1 interpolates the indicator of every label and takes the label with the largest score. Exact ties go to
    the label of the nearest voxel where that is among the tied ones, else to the smallest: the rule of
    batchgenerators 0.25.4 and later.

    Args:
        array: (z, y, x) or (y, x), an integer type; not modified.
        shape: New shape.
        spacing: Present voxel size per axis, mm. Only decides whether an axis is treated apart.
        new_spacing: Voxel size wanted, mm; used likewise.
        order: 0 (nearest voxel) or 1.
        order_z: 0 or 1 along an axis that is treated apart; both give the label of the nearest plane.
        force_separate_z: See :func:`separate_axis`.
        room: Where the result, and what lies between, is held.

    Returns:
        Labels in the type of ``array``; the array itself where the shape stays.

    Raises:
        ValueError: For a higher order; indicators overshoot under higher splines and gain nothing.
    """
    if order not in (0, 1) or order_z not in (0, 1):
        raise ValueError(f"segmentations are resampled with order 0 or 1, got order {order} and order_z {order_z}")
    if array.shape == tuple(shape):
        return array
    axis = _separate_axis(spacing, new_spacing, force_separate_z=force_separate_z)
    taps = [AxisTaps.interpolating(old, new, order) for old, new in zip(array.shape, shape, strict=True)]
    if axis is not None and array.ndim == 3:
        taps[axis] = AxisTaps.selecting(nearest_planes(array.shape[axis], shape[axis]))
    if array.ndim == 2:
        plane = AxisTaps.selecting(np.zeros(1, dtype=np.int64))
        return np.asarray(resample_labels(array[None], (plane, taps[0], taps[1]))[0])
    return resample_labels(array, (taps[0], taps[1], taps[2]), room)


def _is_thick(spacing: Sequence[float]) -> bool:
    return max(spacing) / min(spacing) > _THICK_RATIO


def _separate_axis(
    spacing: Sequence[float], new_spacing: Sequence[float], *, force_separate_z: bool | None
) -> int | None:
    """The decision for 2D images, whose only plane is always resized as a plane, and for volumes."""
    if len(spacing) == 2:
        return 0
    return separate_axis(spacing, new_spacing, force_separate_z=force_separate_z)


def _precision(channel: np.ndarray, limits: tuple[float, float], order: int) -> Precision:
    """Type to compute in: float32 wherever its rounding cannot be seen."""
    if channel.dtype == np.float64:
        return "float64"
    large = order > 1 and max(-limits[0], limits[1]) > _SINGLE_PRECISION_LIMIT
    return "float64" if large else "float32"


def _resample_volume(channel: np.ndarray, out: np.ndarray, *, order: int, room: Room) -> None:
    """Interpolate all three axes of a channel (z, y, x) into ``out``."""
    low, high = float(channel.min()), float(channel.max())
    precision = _precision(channel, (low, high), order)
    plane_shape = (out.shape[1], out.shape[2])

    def clip(part: np.ndarray) -> np.ndarray:
        return np.asarray(np.clip(part, low, high, out=part))

    if len(out) < len(channel):
        thinned = room.empty((len(out), *channel.shape[1:]), precision)
        resize_depth(channel, thinned, order=order, precision=precision)
        _clip_into(resize_planes(thinned, plane_shape, order=order, precision=precision, room=room), out, low, high)
        return
    planes = resize_planes(channel, plane_shape, order=order, precision=precision, room=room)
    if len(out) == len(channel):
        _clip_into(planes, out, low, high)
    else:
        resize_depth(planes, out, order=order, precision=precision, finish=clip)


def _clip_into(planes: np.ndarray, out: np.ndarray, low: float, high: float) -> None:
    for part in slabs(out.shape):
        np.clip(planes[part], low, high, out=out[part], casting="same_kind")
        let_go(planes, out)


def _resample_by_planes(channel: np.ndarray, out: np.ndarray, *, order: int, order_z: int) -> None:
    """Resize each plane of a channel (z, y, x) by itself, then take planes along the first axis, into ``out``."""
    plane_shape = (out.shape[1], out.shape[2])
    chosen = nearest_planes(len(channel), len(out)) if order_z == 0 else np.arange(len(channel))
    resized = out if order_z == 0 else np.empty((len(channel), *plane_shape), dtype=channel.dtype)
    for index in np.unique(chosen):
        first, last = np.searchsorted(chosen, [index, index + 1])
        plane = channel[index]
        if plane.shape == plane_shape:
            resized[first:last] = plane
            continue
        limits = float(plane.min()), float(plane.max())
        precision = _precision(channel, limits, order)
        planes = resize_planes(plane[None], plane_shape, order=order, precision=precision)
        resized[first:last] = np.clip(planes, *limits)
    if order_z > 0:
        resize_depth(resized, out, order=order_z, precision="float64")
