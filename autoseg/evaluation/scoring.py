"""Measuring one case: everything that is asked for, of all targets, in one pass over the volume."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from scipy import ndimage

from autoseg.evaluation.lesions import LesionCounts, count_lesions
from autoseg.evaluation.measures import DICE_AND_IOU, Measuring, Metric
from autoseg.evaluation.metrics import JointCounts, OverlapCounts, position_lookup
from autoseg.evaluation.surface import (
    SurfaceDistances,
    border_voxels,
    surfel_distances,
    unweighted_percentile,
    voxel_distances,
)
from autoseg.evaluation.surfels import Surfels, surfels_of_part
from autoseg.labels import Target

_SLAB = 1 << 25  # voxels looked at together
_CARRIED = 2  # planes of the slab before: a border voxel has a plane on either side
Box = tuple[slice, ...]


class Volume(Protocol):
    """An array, in memory or not, that is read in parts: NumPy's, a memory map, Blosc2's."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        ...

    def __getitem__(self, part: slice, /) -> np.ndarray:
        """Planes along the first axis."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaseMeasures:
    """What was measured in one case.

    Args:
        counts: Overlap per target, in their order.
        values: Per target, metric name -> value, None where it is undefined.
        joint: Voxels by what reference and prediction say, for confusion matrices.
    """

    counts: tuple[OverlapCounts, ...]
    values: tuple[dict[str, float | None], ...]
    joint: JointCounts


def measure_case(
    reference: Volume,
    prediction: Volume,
    targets: Sequence[Target],
    *,
    spacing: Sequence[float],
    measuring: Measuring = DICE_AND_IOU,
    ignore_value: int | None = None,
    slab_voxels: int = _SLAB,
) -> CaseMeasures:
    """Measure all targets of a case.

    Planes are read once, in slabs; what is kept is the surface of each target. Lesions need whole masks: for them the
    boxes around the targets are read again.

    Args:
        reference: Label values (z, y, x) or (y, x).
        prediction: Label values, same shape.
        targets: Labels, or regions that unite several values and may overlap.
        spacing: Millimetres per array axis.
        measuring: What to measure.
        ignore_value: Voxels with this value in the reference belong to no mask.
        slab_voxels: About as many voxels are looked at together.

    Raises:
        ValueError: When the shapes differ.
    """
    if tuple(reference.shape) != tuple(prediction.shape):
        raise ValueError(f"reference {reference.shape} and prediction {prediction.shape} differ in shape")
    traces = [_Trace(target=target, ndim=len(spacing)) for target in targets]
    joint: JointCounts | None = None
    follows = any(measuring.needs(kind) for kind in ("surfels", "voxels", "lesions"))
    for slab in _slabs(reference, prediction, slab_voxels):
        new = slab.reference[slab.carried :], slab.prediction[slab.carried :]
        part = JointCounts.of(*new, targets, ignore_value=ignore_value)
        joint = part if joint is None else joint + part
        if follows:
            _follow(traces, slab, measuring, ignore_value)
    assert joint is not None  # a volume has a plane
    counts = joint.overlaps(targets)
    diagonal = math.hypot(*(n * s for n, s in zip(reference.shape, spacing, strict=True)))
    values = []
    for trace, count in zip(traces, counts, strict=True):
        facts = _Facts(
            counts=count,
            spacing=tuple(spacing),
            diagonal=diagonal,
            trace=trace,
            volumes=(reference, prediction),
            ignore_value=ignore_value,
        )
        values.append({metric.name: _value(metric, facts, measuring) for metric in measuring.metrics})
    return CaseMeasures(counts=counts, values=tuple(values), joint=joint)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Slab:
    """Planes of both volumes, the first ``carried`` of which belong to the slab before."""

    start: int
    carried: int
    reference: np.ndarray
    prediction: np.ndarray
    opens: bool
    closes: bool


@dataclass(slots=True, kw_only=True, eq=False)
class _Trace:
    """What is remembered of a target while slabs pass."""

    target: Target
    ndim: int
    surfels: tuple[list[Surfels], list[Surfels]] = field(default_factory=lambda: ([], []))
    borders: tuple[list[np.ndarray], list[np.ndarray]] = field(default_factory=lambda: ([], []))
    box: Box | None = None

    def surfel_distances(self, spacing: Sequence[float]) -> SurfaceDistances:
        reference, prediction = (Surfels.joined(parts, self.ndim) for parts in self.surfels)
        return surfel_distances(reference, prediction, spacing)

    def voxel_distances(self, spacing: Sequence[float]) -> SurfaceDistances:
        nothing = np.empty((0, self.ndim), np.int32)
        reference, prediction = (np.concatenate([nothing, *parts]) for parts in self.borders)
        return voxel_distances(reference, prediction, spacing)


def _slabs(reference: Volume, prediction: Volume, slab_voxels: int) -> Iterator[_Slab]:
    num_planes = reference.shape[0]
    thickness = max(1, slab_voxels // max(1, math.prod(reference.shape[1:])))
    kept: tuple[np.ndarray, np.ndarray] | None = None
    for start in range(0, num_planes, thickness):
        part = slice(start, min(start + thickness, num_planes))
        planes = np.asarray(reference[part]), np.asarray(prediction[part])
        carried = 0 if kept is None else len(kept[0])
        if kept is not None:
            planes = np.concatenate([kept[0], planes[0]]), np.concatenate([kept[1], planes[1]])
        yield _Slab(
            start=start - carried,
            carried=carried,
            reference=planes[0],
            prediction=planes[1],
            opens=start == 0,
            closes=part.stop == num_planes,
        )
        kept = planes[0][-_CARRIED:], planes[1][-_CARRIED:]


def _follow(traces: Sequence[_Trace], slab: _Slab, measuring: Measuring, ignore_value: int | None) -> None:
    """Add a slab to what is remembered of every target."""
    values = sorted({v for trace in traces for v in trace.target.values})
    lookup = position_lookup(values)
    boxes = [ndimage.find_objects(lookup(labels), len(values)) for labels in (slab.reference, slab.prediction)]
    place = {value: position for position, value in enumerate(values)}
    for trace in traces:
        found = [side[place[v]] for side in boxes for v in trace.target.values if side[place[v]] is not None]
        if not found:
            continue
        box = _hull(found)
        moved = (slice(box[0].start + slab.start, box[0].stop + slab.start), *box[1:])
        trace.box = moved if trace.box is None else _hull([trace.box, moved])
        part = _around(slab, box)
        sides = [trace.target.mask(part.reference), trace.target.mask(part.prediction)]
        if ignore_value is not None:
            sides[1] &= part.reference != ignore_value
        for side, mask in enumerate(sides):
            if measuring.needs("surfels"):
                trace.surfels[side].append(_surfels(mask, part, box))
            if measuring.needs("voxels"):
                trace.borders[side].append(_borders(mask, part, box))


def _around(slab: _Slab, box: Box) -> _Slab:
    """The part of a slab around a target, with two empty planes on either side as far as the slab reaches."""
    num_planes = len(slab.reference)
    first, last = max(box[0].start - 2, 0), min(box[0].stop + 2, num_planes)
    window = (slice(first, last), *box[1:])
    return _Slab(
        start=slab.start + first,
        carried=max(slab.carried - first, 0),
        reference=slab.reference[window],
        prediction=slab.prediction[window],
        opens=slab.opens and first == 0,
        closes=slab.closes and last == num_planes,
    )


def _surfels(mask: np.ndarray, slab: _Slab, box: Box) -> Surfels:
    first = max(slab.carried - 1, 0)  # a surfel lies between two planes
    offset = [slab.start + first, *(part.start for part in box[1:])]
    return surfels_of_part(mask[first:], offset, opens=slab.opens, closes=slab.closes)


def _borders(mask: np.ndarray, slab: _Slab, box: Box) -> np.ndarray:
    """Border voxels of the planes that have their neighbours now: not yet the last, and what was carried over."""
    first = 0 if slab.carried < _CARRIED else 1
    last = len(mask) if slab.closes else len(mask) - 1
    at = np.argwhere(border_voxels(mask)[first:last]).astype(np.int32)
    return at + np.asarray([slab.start + first, *(part.start for part in box[1:])], dtype=np.int32)


def _hull(boxes: Sequence[Box]) -> Box:
    return tuple(slice(min(p.start for p in parts), max(p.stop for p in parts)) for parts in zip(*boxes, strict=True))


@dataclass(slots=True, kw_only=True, eq=False)
class _Facts:
    """What the metrics of one target are made of; made when first asked for."""

    counts: OverlapCounts
    spacing: tuple[float, ...]
    diagonal: float
    trace: _Trace
    volumes: tuple[Volume, Volume]
    ignore_value: int | None
    _distances: dict[str, SurfaceDistances] = field(default_factory=dict)
    _lesions: dict[float, LesionCounts] = field(default_factory=dict)

    def distances(self, kind: str) -> SurfaceDistances:
        if kind not in self._distances:
            measure = self.trace.surfel_distances if kind == "surfels" else self.trace.voxel_distances
            self._distances[kind] = measure(self.spacing)
        return self._distances[kind]

    def lesions(self, min_iou: float) -> LesionCounts:
        if min_iou not in self._lesions:
            self._lesions[min_iou] = count_lesions(*self._masks(), min_iou=min_iou)
        return self._lesions[min_iou]

    def _masks(self) -> tuple[np.ndarray, np.ndarray]:
        box = self.trace.box
        if box is None:
            nothing = np.zeros((1,) * len(self.spacing), dtype=bool)
            return nothing, nothing
        first, second = (np.asarray(volume[box[0]])[(slice(None), *box[1:])] for volume in self.volumes)
        predicted = self.trace.target.mask(second)
        if self.ignore_value is not None:
            predicted &= first != self.ignore_value
        return self.trace.target.mask(first), predicted


def _value(metric: Metric, facts: _Facts, measuring: Measuring) -> float | None:
    counts = facts.counts
    if metric.kind == "volume":
        return _volume(metric, facts)
    if metric.family == "lesions_reference":
        lesions = facts.lesions(0.0)
        return float(lesions.found + lesions.missed)
    if metric.family == "lesions_prediction":
        lesions = facts.lesions(0.0)
        return float(lesions.right + lesions.false)
    if metric.family != "specificity" and not counts.num_reference and not counts.num_predicted:
        return measuring.value_of_nothing(metric, facts.diagonal)
    value = _defined_value(metric, facts)
    if math.isnan(value):
        return None
    return facts.diagonal if math.isinf(value) else value


def _volume(metric: Metric, facts: _Facts) -> float:
    millilitres = math.prod(facts.spacing) / 1000
    reference, predicted = facts.counts.num_reference * millilitres, facts.counts.num_predicted * millilitres
    return {
        "volume_reference": reference,
        "volume_prediction": predicted,
        "volume_difference": predicted - reference,
    }[metric.family]


def _defined_value(metric: Metric, facts: _Facts) -> float:
    """Value where at least one of reference and prediction has the target."""
    if metric.kind == "overlap":
        return float(getattr(facts.counts, "dice" if metric.family == "f1" else metric.family))
    if metric.kind == "lesions":
        return float(getattr(facts.lesions(metric.parameter or 0.0), metric.family.removeprefix("lesion_")))
    distances = facts.distances(metric.kind)
    match metric.family:
        case "nsd":
            return distances.surface_dice(metric.parameter or 0.0)
        case "hd" | "hd_voxels":
            return distances.hausdorff()
        case "hd95":
            return distances.hausdorff(95)
        case "hd95_voxels":
            return unweighted_percentile(distances, 95)
        case _:
            return distances.average()
