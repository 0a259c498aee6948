"""Which patch of a case: pure functions of a shape, foreground positions and a random generator.

The rules are nnU-Net's, the distribution of patches included. Corners of forced patches have a lower limit and no
upper one there, so that patches around foreground near the far borders reach into the padding. That is kept: on small
images it is a random shift that the network sees in training, and results stay comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from autoseg.geometry import BoundingBox


class PatchSource(Protocol):
    """A preprocessed case of which parts can be read."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of the image, channels first."""

    @property
    def foreground(self) -> tuple[np.ndarray, ...]:
        """Positions (n, ndim) of voxels per target, and of annotated voxels last if an ignore label is declared."""

    def read_image(self, box: BoundingBox) -> np.ndarray:
        """Intensities (c, ...) inside a box of the volume."""

    def read_segmentation(self, box: BoundingBox) -> np.ndarray:
        """Label values (...) inside a box of the volume."""


def is_forced(index: int, *, batch_size: int, share: float) -> bool:
    """Whether a patch of a batch must hold foreground: the last ones do, as many as make up the share.

    Example:
        >>> [is_forced(i, batch_size=2, share=0.33) for i in range(2)]
        [False, True]
    """
    return index >= round(batch_size * (1 - share))


def corner_range(
    shape: Sequence[int], *, patch_size: Sequence[int], final_size: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First and last possible lower corner of a patch, per axis; negative corners lie in the padding.

    Patches may reach outside by the margin that the transforms cut away again, and by what the volume lacks.

    Args:
        shape: Voxels of the volume per axis.
        patch_size: Voxels of the patch that is read.
        final_size: Voxels of the patch that the network sees.
    """
    lower, upper = [], []
    for extent, patch, final in zip(shape, patch_size, final_size, strict=True):
        margin = max(patch - final, patch - extent)
        lower.append(-margin // 2)
        upper.append(extent + margin // 2 + margin % 2 - patch)
    return tuple(lower), tuple(upper)


def choose_voxel(
    generator: np.random.Generator,
    foreground: Sequence[np.ndarray],
    *,
    has_ignored: bool,
    forced: bool,
    target: int | None = None,
) -> np.ndarray | None:
    """Draw the voxel that a patch is to be centered on.

    A forced patch draws a target uniformly among those that occur, then one of its voxels. With an ignore label other
    patches draw an annotated voxel, as a patch without annotation teaches nothing.

    Args:
        generator: Source of randomness.
        foreground: Positions (n, ndim) per target, annotated voxels last if there is an ignore label.
        has_ignored: Whether an ignore label is declared.
        forced: Whether the patch must hold foreground.
        target: Index of the target that a forced patch must hold; None draws one.

    Returns:
        The position (ndim,), or None where any patch will do.
    """
    if not forced and not has_ignored:
        return None
    targets = [positions for positions in (foreground[:-1] if has_ignored else foreground) if len(positions)]
    if has_ignored and (not forced or not targets):
        targets = [foreground[-1]] if len(foreground[-1]) else []
    if not targets:
        return None
    if target is not None and len(foreground[target]):
        targets = [foreground[target]]
    positions = targets[generator.integers(len(targets))]
    return np.asarray(positions[generator.integers(len(positions))])


def choose_box(
    generator: np.random.Generator,
    source: PatchSource,
    *,
    patch_size: Sequence[int],
    final_size: Sequence[int],
    has_ignored: bool,
    forced: bool,
    target: int | None = None,
) -> BoundingBox:
    """Draw a patch of a case.

    Args:
        generator: Source of randomness.
        source: The case.
        patch_size: Voxels of the patch that is read. One axis less than the case means one slice along the first.
        final_size: Voxels of the patch that the network sees; as many axes.
        has_ignored: Whether an ignore label is declared.
        forced: Whether the patch must hold foreground.
        target: Index of the target that a forced patch must hold; None draws one of those in the case.

    Returns:
        A box with as many axes as the case; it may reach outside the volume.
    """
    shape = source.image_shape[1:]
    flat = (1,) * (len(shape) - len(patch_size))
    patch = (*flat, *patch_size)
    lower, upper = corner_range(shape, patch_size=patch, final_size=(*flat, *final_size))
    # Positions are only asked for when needed: the source may have to read them.
    foreground = source.foreground if forced or has_ignored else ()
    voxel = choose_voxel(generator, foreground, has_ignored=has_ignored, forced=forced, target=target)
    if voxel is None:
        corner = tuple(int(generator.integers(a, b + 1)) for a, b in zip(lower, upper, strict=True))
    else:
        corner = tuple(max(a, int(v) - p // 2) for a, v, p in zip(lower, voxel, patch, strict=True))
    return BoundingBox(start=corner, stop=tuple(c + p for c, p in zip(corner, patch, strict=True)))


def box_around(
    voxel: np.ndarray, shape: Sequence[int], *, patch_size: Sequence[int], final_size: Sequence[int]
) -> BoundingBox:
    """The patch around a voxel, moved so that what the network sees of it stays inside the volume where it fits.

    Args:
        voxel: Position (ndim,).
        shape: Voxels of the volume per axis.
        patch_size: Voxels of the patch that is read.
        final_size: Voxels of its middle that the network sees.
    """
    corner = []
    for position, extent, patch, final in zip(voxel, shape, patch_size, final_size, strict=True):
        first = min(max(int(position) - final // 2, 0), extent - final) if extent >= final else (extent - final) // 2
        corner.append(first - (patch - final) // 2)
    return BoundingBox(start=tuple(corner), stop=tuple(c + p for c, p in zip(corner, patch_size, strict=True)))


def read_patch(source: PatchSource, box: BoundingBox) -> tuple[np.ndarray, np.ndarray]:
    """Read a box that may reach outside the volume.

    Args:
        source: The case.
        box: As many axes as the case.

    Returns:
        New arrays: the image (c, ...) float32, zero outside, and the segmentation (...) int16, -1 outside.
    """
    image = np.zeros((source.image_shape[0], *box.shape), dtype=np.float32)
    inside, index = _part_inside(box, source.image_shape[1:])
    if min(inside.shape) > 0:
        image[(slice(None), *index)] = source.read_image(inside)
    return image, read_labels(source, box)


def place_slice(patch_size: Sequence[int], axis: int | None) -> tuple[int, ...]:
    """A patch of a slice as a patch of the volume, one voxel thick along an axis; None leaves it as it is.

    Example:
        >>> place_slice((64, 48), 1)
        (64, 1, 48)
    """
    return tuple(patch_size) if axis is None else (*patch_size[:axis], 1, *patch_size[axis:])


def read_stack(source: PatchSource, box: BoundingBox, *, axis: int, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Read a slice with its neighbors; beyond the volume's border the last slice is repeated.

    Args:
        source: A volume.
        box: The slice, one voxel thick along ``axis``; elsewhere it may reach outside.
        axis: Across which slices are cut.
        context: Slices of the stack, an odd number.

    Returns:
        The image (c, context, rows, columns) and the segmentation (context, rows, columns), as :func:`read_patch`.
    """
    last = source.image_shape[1 + axis] - 1
    first = box.start[axis] - context // 2
    beside = [min(max(first + i, 0), last) for i in range(context)]
    start, stop = list(box.start), list(box.stop)
    start[axis], stop[axis] = beside[0], beside[-1] + 1
    image, segmentation = read_patch(source, BoundingBox(start=tuple(start), stop=tuple(stop)))
    chosen = [place - beside[0] for place in beside]
    stacked = np.moveaxis(image.take(chosen, axis=1 + axis), 1 + axis, 1)
    return np.ascontiguousarray(stacked), np.ascontiguousarray(np.moveaxis(segmentation.take(chosen, axis), axis, 0))


def read_labels(source: PatchSource, box: BoundingBox) -> np.ndarray:
    """Read the segmentation (...) int16 of a box that may reach outside the volume, where it is -1."""
    segmentation = np.full(box.shape, -1, dtype=np.int16)
    inside, index = _part_inside(box, source.image_shape[1:])
    if min(inside.shape) > 0:
        segmentation[index] = source.read_segmentation(inside)
    return segmentation


def _part_inside(box: BoundingBox, shape: Sequence[int]) -> tuple[BoundingBox, tuple[slice, ...]]:
    """The part of a box that lies inside a volume, and where that part lies in the box."""
    start = [min(max(a, 0), n) for a, n in zip(box.start, shape, strict=True)]
    stop = [max(min(b, n), a) for b, n, a in zip(box.stop, shape, start, strict=True)]
    index = tuple(slice(a - c, b - c) for a, b, c in zip(start, stop, box.start, strict=True))
    return BoundingBox(start=tuple(start), stop=tuple(stop)), index
