"""Optional steps around normalization: bias-field correction, matching of histograms, local contrast.

Each is a value in the plan of a channel, so that training and prediction do the same. A correction and a matching come
before the normalization, because they make intensities of different images mean the same; local contrast comes after
it, so that a window of Hounsfield units has already been chosen.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np

from autoseg.atomic import atomic_path
from autoseg.plan import BiasFieldPlan, ContrastPlan, HistogramPlan
from autoseg.preprocessing.resampling import resample_image

NUM_LANDMARKS = 257
"""Intensities that describe a histogram, at evenly spaced shares of the voxels, smallest and largest included."""

_SMALLEST_EDGE = 24  # voxels of a plane that a shrunk image keeps: fewer and the field has nothing to hold on to
_KEPT_FIELDS = 8  # the same image is often wanted by several configurations one after the other


def correct_bias_field(channel: np.ndarray, plan: BiasFieldPlan, *, cache: Path | None = None) -> None:
    """Divide by the smooth field that a coil lays over a magnetic resonance image, in place; zeros stay zero.

    N4 (Tustison et al., "N4ITK: Improved N3 Bias Correction", IEEE TMI 2010) as in SimpleITK, estimated on planes that
    are shrunk, which changes little and is many times faster. The first axis, often one of thick slices, is not shrunk.

    Args:
        channel: (z, y, x) or (y, x), float32, contiguous.
        plan: Strength of the estimate.
        cache: Folder in which fields are kept; None keeps the last few in memory only.
    """
    if not (channel > 0).any():
        return
    small = _log_field(channel, plan, cache)
    unit = (1.0,) * channel.ndim
    field = resample_image(small[None], channel.shape, spacing=unit, new_spacing=unit, order=1)[0]
    channel /= np.exp(field)  # not in place: where nothing was shrunk, this is the array that is kept


def landmarks_of(channel: np.ndarray) -> tuple[float, ...]:
    """Intensities of the voxels that are not zero at ``NUM_LANDMARKS`` evenly spaced shares of them.

    Args:
        channel: Any shape; empty where there is nothing but zeros.
    """
    values = channel[channel != 0]
    if not values.size:
        return ()
    return tuple(float(v) for v in np.quantile(values, np.linspace(0, 1, NUM_LANDMARKS)))


def match_histogram(channel: np.ndarray, plan: HistogramPlan) -> None:
    """Give the voxels that are not zero the distribution of a reference, in place; their order is kept.

    Args:
        channel: (z, y, x) or (y, x), float32.
        plan: Landmarks of the reference.
    """
    own = np.asarray(landmarks_of(channel))
    if not own.size:
        return
    reference = np.interp(np.linspace(0, 1, len(own)), np.linspace(0, 1, len(plan.landmarks)), plan.landmarks)
    own, first = np.unique(own, return_index=True)  # of a value that many voxels share, the middle share counts
    last = np.append(first[1:], len(reference)) - 1
    inside = channel != 0
    channel[inside] = np.interp(channel[inside], own, reference[(first + last) // 2])


def equalize_contrast(channel: np.ndarray, plan: ContrastPlan, empty: np.ndarray) -> None:
    """Spread the intensities within each neighbourhood, in place; the range of the channel stays.

    Contrast-limited adaptive histogram equalization (Zuiderveld, Graphics Gems IV, 1994) as in scikit-image. Empty
    voxels keep their value.

    Args:
        channel: (z, y, x) or (y, x), float32.
        plan: How much, and how large a neighbourhood.
        empty: Boolean, same shape: voxels around the body that hold no intensity.
    """
    from skimage import exposure

    low, high = float(channel.min()), float(channel.max())
    if not high > low:
        return
    kernel = [max(1, round(n * plan.neighbourhood)) for n in channel.shape]
    equal = exposure.equalize_adapthist((channel - low) / (high - low), kernel_size=kernel, clip_limit=plan.clip_limit)
    np.copyto(channel, low + (high - low) * equal.astype(np.float32), where=~empty)


def _log_field(channel: np.ndarray, plan: BiasFieldPlan, cache: Path | None) -> np.ndarray:
    """Logarithm of the field on the shrunk grid, float32; looked up by what the image holds."""
    key = hashlib.blake2b(np.ascontiguousarray(channel).data, digest_size=20)
    key.update(repr((channel.shape, plan)).encode())
    name = key.hexdigest()
    field = _RECENT.get(name)
    path = None if cache is None else cache / f"{name}.npy"
    if field is None and path is not None and path.is_file():
        field = np.load(path, allow_pickle=False)
    if field is None:
        field = _estimate(channel, plan)
        if path is not None:
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, field)
    _RECENT.put(name, field)
    return field


def _estimate(channel: np.ndarray, plan: BiasFieldPlan) -> np.ndarray:
    import SimpleITK as sitk

    shape = _shrunk_shape(channel.shape, plan.shrink)
    unit = (1.0,) * channel.ndim
    small = resample_image(channel[None], shape, spacing=unit, new_spacing=unit, order=1)[0]
    positive = (channel > 0).astype(np.float32)
    inside = resample_image(positive[None], shape, spacing=unit, new_spacing=unit, order=1)[0] > 0.5
    picture = sitk.GetImageFromArray(np.maximum(small, 0))
    looked_at = sitk.GetImageFromArray(inside.astype(np.uint8))
    mask = sitk.OtsuThreshold(picture, 0, 1) if plan.mask == "otsu" else looked_at
    estimator = sitk.N4BiasFieldCorrectionImageFilter()
    estimator.SetNumberOfThreads(1)  # several add up in any order, and the result would change from run to run
    estimator.SetMaximumNumberOfIterations(list(plan.iterations))
    estimator.SetConvergenceThreshold(plan.threshold)
    # A B-spline of order 3 over four control points spans a thin stack as well as a thick one.
    estimator.Execute(sitk.Cast(picture, sitk.sitkFloat32), mask)
    return np.asarray(sitk.GetArrayFromImage(estimator.GetLogBiasFieldAsImage(picture)), dtype=np.float32)


def _shrunk_shape(shape: tuple[int, ...], shrink: int) -> tuple[int, ...]:
    planes = tuple(min(n, max(_SMALLEST_EDGE, -(-n // shrink))) for n in shape[-2:])
    return (*shape[:-2], *planes)


class _RecentFields:
    """The last few fields of this process: a pure memory of results, which are small."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._fields: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()  # prediction prepares images in threads

    def get(self, name: str) -> np.ndarray | None:
        with self._lock:
            return self._fields.get(name)

    def put(self, name: str, field: np.ndarray) -> None:
        with self._lock:
            self._fields[name] = field
            while len(self._fields) > self._size:
                self._fields.popitem(last=False)


_RECENT = _RecentFields(_KEPT_FIELDS)
