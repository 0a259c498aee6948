"""One case from its stored grid to the grid a network works on; ``restoring`` is the way back.

Turn to the plan's orientation, transpose, crop, normalize, resample. Normalization comes before resampling,
so that its statistics are those of the voxels that were measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.arrays import IN_MEMORY, Room, let_go, slabs
from autoseg.errors import DatasetError, PlanError
from autoseg.geometry import BoundingBox, Geometry, Reorientation
from autoseg.image import Image, Segmentation
from autoseg.memory import in_gigabytes, memory_state
from autoseg.plan import Configuration, NormalizationPlan, Plan, ResamplingPlan
from autoseg.preprocessing.crop import OUTSIDE, crop_to_nonzero, nonzero_box
from autoseg.preprocessing.foreground import foreground_positions
from autoseg.preprocessing.normalization import normalize
from autoseg.preprocessing.resampling import resample_image, resample_segmentation, resampled_shape

_UNKNOWN_MEMORY = 1 << 42  # bytes; more than any machine has
_LARGEST_LABEL = int(np.iinfo(np.int16).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseTrace:
    """What was done to a case, so that it can be undone. Shapes, spacings and the box have transposed axes.

    Args:
        geometry: Grid of the stored image.
        orientation_code: Orientation that was worked in, before transposing.
        transpose: Axis i is axis ``transpose[i]`` of the turned image.
        original_shape: Voxels before cropping.
        box: What cropping kept.
        cropped_shape: Voxels after cropping.
        cropped_spacing: Millimetres per voxel before resampling.
        resampled_shape: Voxels after resampling.
        resampled_spacing: Millimetres per voxel asked for.
    """

    geometry: Geometry
    orientation_code: str
    transpose: tuple[int, ...]
    original_shape: tuple[int, ...]
    box: BoundingBox
    cropped_shape: tuple[int, ...]
    cropped_spacing: tuple[float, ...]
    resampled_shape: tuple[int, ...]
    resampled_spacing: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreprocessedCase:
    """A case as a network sees it.

    Args:
        id: Case id.
        image: (c, z, y, x) or (c, y, x), float32.
        segmentation: (z, y, x) or (y, x), int16, -1 where there is neither intensity nor label; None at prediction.
        foreground: int32 voxel positions (n, ndim) per target; with an ignore label one more, of annotated voxels;
            empty without a segmentation.
        trace: How to get back.
    """

    id: str
    image: np.ndarray
    segmentation: np.ndarray | None
    foreground: tuple[np.ndarray, ...]
    trace: CaseTrace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NormalizedCase:
    """A case on its own voxels, turned, transposed, cropped and normalized; axes are transposed.

    Args:
        id: Case id.
        image: (c, z, y, x) or (c, y, x), float32.
        segmentation: int16 on the same voxels; None at prediction.
        geometry: Grid of the stored image.
        orientation_code: Orientation that is worked in, before transposing.
        original_shape: Voxels before cropping.
        box: What cropping kept.
        spacing: Millimetres per voxel.
    """

    id: str
    image: np.ndarray
    segmentation: np.ndarray | None
    geometry: Geometry
    orientation_code: str
    original_shape: tuple[int, ...]
    box: BoundingBox
    spacing: tuple[float, ...]


def preprocess_case(
    case_id: str,
    image: Image,
    segmentation: Segmentation | None,
    plan: Plan,
    configuration: Configuration,
    *,
    room: Room = IN_MEMORY,
) -> PreprocessedCase:
    """Prepare a case for one configuration, with the arrays that nnU-Net's preprocessor gives.

    Args:
        case_id: For messages.
        image: As read; not modified.
        segmentation: Labels on the same grid, or None at prediction.
        plan: Orientation, transposition and labels.
        configuration: Spacing, normalization and interpolation orders.
        room: Where large arrays lie.

    Raises:
        DatasetError: When the image does not fit the plan or the segmentation does not fit the image.
        PlanError: When the plan contradicts itself.
    """
    normalized = normalize_case(case_id, image, segmentation, plan, configuration.normalization, room=room)
    return resample_case(normalized, plan, configuration, room=room)


def normalize_case(
    case_id: str,
    image: Image,
    segmentation: Segmentation | None,
    plan: Plan,
    normalization: Sequence[NormalizationPlan],
    *,
    cache: Path | None = None,
    room: Room = IN_MEMORY,
) -> NormalizedCase:
    """The first half of :func:`preprocess_case`, which configurations with the same normalization share.

    Args:
        case_id: For messages.
        image: As read; not modified.
        segmentation: Labels on the same grid, or None at prediction.
        plan: Orientation, transposition and labels.
        normalization: One entry per channel.
        cache: Folder for what takes minutes; see :func:`~autoseg.preprocessing.normalization.normalize`.
        room: Where large arrays lie.

    Raises:
        DatasetError: When the image does not fit the plan or the segmentation does not fit the image.
        PlanError: When the plan contradicts itself.
    """
    _check_inputs(case_id, image, segmentation, plan)
    stored, worked = image.geometry.orientation, plan.orientation or image.geometry.orientation
    channels = _align(image.array, stored, worked, plan.transpose)
    labels = None if segmentation is None else _align(segmentation.array, stored, worked, plan.transpose)
    turned = Reorientation.between(stored, worked).apply_to_geometry(image.geometry)
    normalized, cropped_labels, box = _crop_and_normalize(case_id, channels, labels, normalization, cache, room)
    return NormalizedCase(
        id=case_id,
        image=normalized,
        segmentation=cropped_labels,
        geometry=image.geometry,
        orientation_code=worked,
        original_shape=channels.shape[1:],
        box=box,
        spacing=tuple(turned.spacing[axis] for axis in plan.transpose),
    )


def resample_case(
    case: NormalizedCase, plan: Plan, configuration: Configuration, *, room: Room = IN_MEMORY
) -> PreprocessedCase:
    """The second half of :func:`preprocess_case`: bring a case to the spacing of a configuration.

    Args:
        case: Cropped and normalized; not modified, but shared where nothing is to be resampled.
        plan: Transposition and labels.
        configuration: Spacing and interpolation orders.
        room: Where large arrays lie.

    Raises:
        PlanError: When it would have more voxels than this machine has memory for.
    """
    wanted = target_spacing(case.spacing, configuration)
    shape = resampled_shape(case.box.shape, spacing=case.spacing, new_spacing=wanted)
    _refuse_giants(case, shape, configuration, room)
    trace = CaseTrace(
        geometry=case.geometry,
        orientation_code=case.orientation_code,
        transpose=plan.transpose,
        original_shape=case.original_shape,
        box=case.box,
        cropped_shape=case.box.shape,
        cropped_spacing=case.spacing,
        resampled_shape=shape,
        resampled_spacing=wanted,
    )
    resampled = _resample_image(case.image, trace, configuration.resampling, room)
    if case.segmentation is None:
        return PreprocessedCase(id=case.id, image=resampled, segmentation=None, foreground=(), trace=trace)
    resampled_labels = _resample_segmentation(case.segmentation, trace, configuration.resampling, room)
    foreground = foreground_positions(resampled_labels, plan.labels)
    return PreprocessedCase(
        id=case.id, image=resampled, segmentation=resampled_labels, foreground=foreground, trace=trace
    )


def _refuse_giants(case: NormalizedCase, shape: Sequence[int], configuration: Configuration, room: Room) -> None:
    """A slip in plan.json, such as metres for millimetres, is told before memory runs out."""
    need = math.prod(shape) * case.image.itemsize * len(case.image)
    most = memory_state().total if room == IN_MEMORY else None
    if need > (most or _UNKNOWN_MEMORY) and need > case.image.nbytes:
        raise PlanError(
            f"case {case.id} would have {'x'.join(map(str, shape))} voxels in {configuration.name}, "
            f"{in_gigabytes(need)}; is its spacing of {configuration.spacing} mm in plan.json right?"
        )


def target_spacing(spacing: Sequence[float], configuration: Configuration) -> tuple[float, ...]:
    """Voxel size that a case is brought to; a 2D configuration leaves the distance between slices alone.

    Args:
        spacing: Of the case, transposed, mm.
        configuration: What asks for a spacing.
    """
    missing = len(spacing) - len(configuration.spacing)
    return (*spacing[:missing], *configuration.spacing)


def _align(array: np.ndarray, stored: str, worked: str, transpose: Sequence[int]) -> np.ndarray:
    """View of an array on the stored grid, leading axes kept, with the spatial axes that are worked in."""
    lead = array.ndim - len(transpose)
    turned = Reorientation.between(stored, worked).apply(array)
    return turned.transpose(*range(lead), *(lead + axis for axis in transpose))


def _crop_and_normalize(
    case_id: str,
    channels: np.ndarray,
    labels: np.ndarray | None,
    plans: Sequence[NormalizationPlan],
    cache: Path | None,
    room: Room,
) -> tuple[np.ndarray, np.ndarray | None, BoundingBox]:
    if labels is None and not any(plan.use_mask for plan in plans):
        # Only the box is asked for; holes in the mask do not change it, and finding them takes memory and time.
        box = nonzero_box(channels)
        cropped, outside = channels[(slice(None), *box.slices)], np.broadcast_to(np.False_, box.shape)
        cropped_labels = None
    else:
        cropped, marked, box = crop_to_nonzero(channels, labels, room)
        outside = _equal(marked, OUTSIDE, room)
        cropped_labels = None if labels is None else marked
    try:
        return normalize(cropped, plans, outside, cache=cache, room=room), cropped_labels, box
    except DatasetError as error:
        raise DatasetError(f"case {case_id}: {error}") from None


def _equal(array: np.ndarray, value: int, room: Room) -> np.ndarray:
    found = room.empty(array.shape, bool)
    for part in slabs(array.shape):
        np.equal(array[part], value, out=found[part])
        let_go(array, found)
    return found


def _resample_image(array: np.ndarray, trace: CaseTrace, orders: ResamplingPlan, room: Room) -> np.ndarray:
    return resample_image(
        array,
        trace.resampled_shape,
        spacing=trace.cropped_spacing,
        new_spacing=trace.resampled_spacing,
        order=orders.image_order,
        order_z=orders.order_z,
        force_separate_z=orders.force_separate_z,
        room=room,
    )


def _resample_segmentation(array: np.ndarray, trace: CaseTrace, orders: ResamplingPlan, room: Room) -> np.ndarray:
    return resample_segmentation(
        array,
        trace.resampled_shape,
        spacing=trace.cropped_spacing,
        new_spacing=trace.resampled_spacing,
        order=orders.segmentation_order,
        order_z=orders.order_z,
        force_separate_z=orders.force_separate_z,
        room=room,
    )


def _check_inputs(case_id: str, image: Image, segmentation: Segmentation | None, plan: Plan) -> None:
    ndim = image.geometry.ndim
    if ndim != len(plan.transpose):
        raise DatasetError(f"case {case_id} has {ndim} spatial axes, the plan was made for {len(plan.transpose)}")
    if len(image.array) != len(plan.channels):
        raise DatasetError(
            f"case {case_id} has {len(image.array)} channel(s), the plan expects {len(plan.channels)}: "
            f"{', '.join(plan.channels)}"
        )
    if segmentation is None:
        return
    if segmentation.geometry.shape != image.geometry.shape:
        raise DatasetError(
            f"case {case_id}: the label has shape {segmentation.geometry.shape}, the image {image.geometry.shape}"
        )
    highest = max(plan.labels.values[-1], plan.labels.ignore_value or 0)
    if highest > _LARGEST_LABEL:
        raise DatasetError(f"label value {highest} is too large, {_LARGEST_LABEL} is the largest that can be stored")
