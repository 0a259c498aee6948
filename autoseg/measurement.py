"""Measuring a dataset: each case once, by itself, then all of them merged into the fingerprint.

Intensities are drawn from each case's foreground as nnU-Net draws them, so that statistics agree. A draw is kept as
values and how often each was hit; the lists that nnU-Net joins (100 million numbers per channel) never exist.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoseg.arrays import let_go, slabs
from autoseg.check import Problem, VoxelJob, read_and_check
from autoseg.dataset import Case
from autoseg.dataset.kept import KEPT_CASES
from autoseg.errors import DatasetError
from autoseg.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics
from autoseg.geometry import Reorientation
from autoseg.image import Image, Segmentation
from autoseg.labels import LabelScheme
from autoseg.preprocessing.crop import nonzero_box

_DRAWS_PER_DATASET = 10**8
_SEED = 1234  # nnU-Net's, once per case
_DRAWS_AT_ONCE = 2**18
_LARGEST_TABLE = 2**16  # entries that are worth counting in a table with room for numbers that are too large


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntensitySample:
    """Intensities drawn with replacement from the foreground of one channel of one case.

    Args:
        values: Distinct intensities, ascending, float32.
        counts: How often each was drawn, uint32.
    """

    values: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaseMeasurement:
    """What one case contributes to the fingerprint.

    Args:
        case: Its grid.
        samples: One entry per channel; without values where the case has no foreground.
        relative_size: Voxels after cropping / voxels stored.
    """

    case: CaseFingerprint
    samples: tuple[IntensitySample, ...]
    relative_size: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeasuredFile:
    """A case that was read.

    Args:
        measurement: What it contributes; None when it cannot be used.
        problems: What was found in its voxels.
    """

    measurement: CaseMeasurement | None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureJob:
    """One case to measure.

    Args:
        case: Its files.
        labels: What its label may hold.
        num_samples: Intensities to draw per channel; see :func:`samples_per_case`.
        orientation: Orientation to turn the case to; None takes axes as stored.
        num_channels: Channels that the dataset declares; None accepts any number.
        declared_in: What declares them, for messages.
        kept_bytes: What all cases may take that this process keeps in memory, because it will be asked for them again.
    """

    case: Case
    labels: LabelScheme
    num_samples: int
    orientation: str | None
    num_channels: int | None = None
    declared_in: str = "dataset.json"
    kept_bytes: int = 0


def samples_per_case(num_cases: int) -> int:
    """Intensities to draw from each case, so that all cases together give nnU-Net's 100 million."""
    return max(1, _DRAWS_PER_DATASET // num_cases)


def measure_file(job: MeasureJob) -> MeasuredFile:
    """Read a case, check its voxels and, where nothing keeps it from being used, measure it.

    Raises:
        DatasetError: When the case has no label.
    """
    if job.case.label is None:
        raise DatasetError(f"case {job.case.id} has no label; only labelled cases are measured")
    checked = read_and_check(
        VoxelJob(case=job.case, labels=job.labels, num_channels=job.num_channels, declared_in=job.declared_in)
    )
    if not checked.is_usable or checked.image is None or checked.segmentation is None:
        return MeasuredFile(measurement=None, problems=checked.problems)
    measured = measure_case(
        job.case.id, checked.image, checked.segmentation, num_samples=job.num_samples, orientation=job.orientation
    )
    measured = replace(measured, case=replace(measured.case, labels=checked.values))
    if job.kept_bytes:
        KEPT_CASES.keep(job.case, checked.image, checked.segmentation, limit=job.kept_bytes)
    return MeasuredFile(measurement=measured, problems=checked.problems)


def measure_case(
    case_id: str, image: Image, segmentation: Segmentation, *, num_samples: int, orientation: str | None
) -> CaseMeasurement:
    """Measure grid and foreground intensities of a case.

    Args:
        case_id: Its id.
        image: As read; not modified.
        segmentation: Labels on the same grid.
        num_samples: Intensities to draw per channel.
        orientation: Orientation to turn the case to; None takes axes as stored.
    """
    stored = image.geometry.orientation
    turn = Reorientation.between(stored, orientation or stored)
    channels, labels = turn.apply(image.array), turn.apply(segmentation.array)
    grid = turn.apply_to_geometry(image.geometry)
    # Holes in the nonzero mask change neither its box nor the foreground, so they are not looked for.
    box = nonzero_box(channels)
    foreground = _foreground(channels[(slice(None), *box.slices)], labels[box.slices])
    generator = np.random.RandomState(_SEED)
    return CaseMeasurement(
        case=CaseFingerprint(
            id=case_id, spacing=grid.spacing, shape=grid.shape, cropped_shape=box.shape, orientation=stored
        ),
        samples=tuple(_draw(generator, values, num_samples) for values in foreground),
        relative_size=math.prod(box.shape) / math.prod(grid.shape),
    )


def _foreground(channels: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Intensities of labelled voxels, per channel, gathered slab by slab."""
    found: list[list[np.ndarray]] = [[] for _ in channels]
    for part in slabs(labels.shape):
        mask = labels[part] > 0
        for values, channel in zip(found, channels, strict=True):
            values.append(channel[part][mask])
        let_go(channels, labels)
    return [np.concatenate(values) for values in found]


def merge(measurements: Sequence[CaseMeasurement], *, orientation: str | None = None) -> Fingerprint:
    """Unite the measurements of all training cases.

    Args:
        measurements: At least one; their order becomes the order of the cases.
        orientation: What the cases were turned to; None takes that of most cases.

    Raises:
        DatasetError: When the cases differ in their number of channels.
    """
    numbers = {len(m.samples): m.case.id for m in measurements}
    if len(numbers) > 1:
        listing = ", ".join(f"{case} has {number}" for number, case in numbers.items())
        raise DatasetError(f"cases differ in their number of channels: {listing}")
    codes = [m.case.orientation for m in measurements]
    channels = zip(*(m.samples for m in measurements), strict=True)
    return Fingerprint(
        cases=tuple(m.case for m in measurements),
        intensities=tuple(s for s in map(_statistics, channels) if s is not None),
        median_relative_size=float(np.median([m.relative_size for m in measurements])),
        orientation=orientation or max(codes, key=codes.count),
    )


def _draw(generator: np.random.RandomState, foreground: np.ndarray, num_samples: int) -> IntensitySample:
    """Draw with replacement as ``generator.choice(foreground, num_samples)`` would, and count what was drawn."""
    if not foreground.size:
        return IntensitySample(values=np.empty(0, np.float32), counts=np.empty(0, np.uint32))
    if foreground.dtype.itemsize <= 2 and foreground.size >= _LARGEST_TABLE:
        return _draw_narrow(generator, foreground, num_samples)
    hits = _hits(generator, foreground.size, num_samples)
    drawn_voxels = np.flatnonzero(hits)
    values, group = np.unique(foreground[drawn_voxels], return_inverse=True)
    counts = np.bincount(group, weights=hits[drawn_voxels], minlength=len(values))
    return IntensitySample(values=values.astype(np.float32, copy=False), counts=counts.astype(np.uint32))


def _draw_narrow(generator: np.random.RandomState, foreground: np.ndarray, num_samples: int) -> IntensitySample:
    """The same for integers of at most 16 bits: intensities are counted, not voxels, of which there are more."""
    lowest = int(np.iinfo(foreground.dtype).min)
    counts = np.zeros(1 << 8 * foreground.dtype.itemsize, dtype=np.int64)
    for start in range(0, num_samples, _DRAWS_AT_ONCE):
        drawn = generator.randint(0, foreground.size, min(_DRAWS_AT_ONCE, num_samples - start))
        counts += np.bincount(foreground[drawn].astype(np.int64) - lowest, minlength=len(counts))
    hit = np.flatnonzero(counts)
    return IntensitySample(values=(hit + lowest).astype(np.float32), counts=counts[hit].astype(np.uint32))


def _hits(generator: np.random.RandomState, size: int, num_samples: int) -> np.ndarray:
    """How often each number below ``size`` occurs in ``generator.randint(0, size, num_samples)``; int64.

    NumPy draws 32 bits, keeps as many as ``size`` needs, and draws again where they exceed it. To count, nothing need
    be thrown away: as many words as numbers are missing are drawn, all are counted, and only those that fit are taken
    as numbers. That costs two thirds of the time, and never takes a word too many from the generator.
    """
    mask = (1 << (size - 1).bit_length()) - 1
    if mask >= _LARGEST_TABLE or mask == 0:
        return _hits_of_many(generator, size, num_samples)
    hits = np.zeros(mask + 1, dtype=np.int64)
    left = num_samples
    while left > 0:
        words = np.frombuffer(generator.bytes(4 * min(left, _DRAWS_AT_ONCE)), dtype="<u4")
        counts = np.bincount(words & np.uint32(mask), minlength=mask + 1)
        hits += counts
        left -= int(counts[:size].sum())
    return hits[:size]


def _hits_of_many(generator: np.random.RandomState, size: int, num_samples: int) -> np.ndarray:
    """The same where a table of the next power of two would be large."""
    hits = np.zeros(size, dtype=np.int64)
    left, step = num_samples, max(_DRAWS_AT_ONCE, size)
    while left > 0:
        drawn = generator.randint(0, size, min(step, left))
        hits += np.bincount(drawn, minlength=size)
        left -= len(drawn)
    return hits


def _statistics(samples: Sequence[IntensitySample]) -> IntensityStatistics | None:
    """Statistics of one channel over all cases; None where no case has foreground."""
    drawn = [sample for sample in samples if sample.counts.size]
    if not drawn:
        return None
    total = sum(int(sample.counts.sum()) for sample in drawn)
    # Products of float32 values and counts, summed in double precision; the second pass avoids cancellation.
    mean = sum(float(sample.values.astype(np.float64) @ sample.counts) for sample in drawn) / total
    squares = sum(float(np.square(sample.values.astype(np.float64) - mean) @ sample.counts) for sample in drawn)
    low, median, high = _percentiles(drawn, (0.5, 50.0, 99.5))
    return IntensityStatistics(
        mean=mean,
        median=median,
        std=math.sqrt(squares / total),
        min=min(float(sample.values[0]) for sample in drawn),
        max=max(float(sample.values[-1]) for sample in drawn),
        percentile_00_5=low,
        percentile_99_5=high,
    )


def _percentiles(samples: Sequence[IntensitySample], percents: Sequence[float]) -> list[float]:
    """Linearly interpolated percentiles of the union of all draws, as ``np.percentile`` defines them."""
    total = sum(int(sample.counts.sum()) for sample in samples)
    positions = [percent / 100 * (total - 1) for percent in percents]
    ranks = sorted({int(r) for p in positions for r in (math.floor(p), math.ceil(p))})
    value_at = dict(zip(ranks, _order_statistics(samples, np.asarray(ranks)), strict=True))
    below = [value_at[math.floor(p)] for p in positions]
    above = [value_at[math.ceil(p)] for p in positions]
    return [a + (b - a) * (p - math.floor(p)) for a, b, p in zip(below, above, positions, strict=True)]


def _order_statistics(samples: Sequence[IntensitySample], ranks: np.ndarray) -> list[float]:
    """Values at the given places (from 0) of all draws put in order, without putting them in order.

    A coarse histogram tells in which of 65 536 intervals each place lies; only the values in those are sorted.
    """
    coarse = [_coarse_interval(sample.values) for sample in samples]
    histogram = np.zeros(2**16, dtype=np.int64)
    for intervals, sample in zip(coarse, samples, strict=True):
        np.add.at(histogram, intervals, sample.counts)
    ends = np.cumsum(histogram)
    hit = np.searchsorted(ends, ranks, side="right")
    is_hit = np.zeros(2**16, dtype=bool)
    is_hit[hit] = True
    values = np.concatenate([sample.values[is_hit[i]] for i, sample in zip(coarse, samples, strict=True)])
    counts = np.concatenate([sample.counts[is_hit[i]] for i, sample in zip(coarse, samples, strict=True)])
    order = np.argsort(values, kind="stable")
    values, last = values[order], np.cumsum(counts[order])
    # Places within the sorted part: less the draws that lie in intervals below and were left out.
    skipped = np.cumsum(np.where(is_hit, 0, histogram))[hit]
    return [float(v) for v in values[np.searchsorted(last, ranks - skipped, side="right")]]


def _coarse_interval(values: np.ndarray) -> np.ndarray:
    """Upper 16 bits of float32 values, arranged so that they ascend with the values."""
    bits = values.view(np.uint32)
    ascending = np.where(bits >> 31 == 1, ~bits, bits | np.uint32(2**31))
    return ascending >> np.uint32(16)
