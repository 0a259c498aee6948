"""From probabilities to files: segmentations, and probabilities themselves for ensembles."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import blosc2
import numpy as np

from autoseg.atomic import atomic_path
from autoseg.errors import ArtifactError, MissingArtifactError
from autoseg.geometry import Geometry
from autoseg.image import Segmentation
from autoseg.labels import LabelScheme

PROBABILITIES_ENDING = ".probabilities.b2nd"
SLAB_VALUES = 1 << 24
"""Scores that travel together from the network to the labels; a single plane of many classes may hold more."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """Probabilities of one case, in slabs along one axis of its grid. Nothing is computed before they are read.

    Args:
        case_id: Name of the case.
        geometry: Grid of the image that was predicted.
        slabs: Indices along ``axis`` and float32 probabilities (k, ...) of that part, without gaps and overlaps, in
            the order in which they are made, which may run backwards; can be read once.
        axis: Axis of the grid along which slabs follow each other.
    """

    case_id: str
    geometry: Geometry
    slabs: Iterator[tuple[slice, np.ndarray]]
    axis: int = 0

    @classmethod
    def from_array(cls, case_id: str, geometry: Geometry, probabilities: np.ndarray) -> Prediction:
        """Cut probabilities (k, ...) into slabs; views, not copies.

        Raises:
            ValueError: When they do not lie on the grid.
        """
        if probabilities.shape[1:] != geometry.shape:
            raise ValueError(f"probabilities {probabilities.shape} do not fit a grid of {geometry.shape}")
        parts = slab_slices(probabilities.shape)
        return cls(case_id=case_id, geometry=geometry, slabs=((part, probabilities[:, part]) for part in parts))

    def index(self, part: slice) -> tuple[slice, ...]:
        """Index of a slab in an array on the grid."""
        return (slice(None),) * self.axis + (part,)

    def to_array(self) -> np.ndarray:
        """All probabilities (k, ...) at once, float32; for images whose scores fit in memory."""
        whole: np.ndarray | None = None
        for part, slab in self.slabs:
            if whole is None:
                whole = np.empty((len(slab), *self.geometry.shape), dtype=np.float32)
            whole[(slice(None), *self.index(part))] = slab
        assert whole is not None  # a grid has a plane
        return whole


def slab_thickness(num_outputs: int, shape: Sequence[int], axis: int = 0) -> int:
    """Planes along an axis of a grid that travel together."""
    per_plane = num_outputs * (math.prod(shape) // shape[axis])
    return max(1, SLAB_VALUES // per_plane)


def slab_slices(shape: tuple[int, ...]) -> list[slice]:
    """Slabs of an array (k, n, ...) along its second axis; equal shapes give equal slabs."""
    thickness = slab_thickness(shape[0], shape[1:])
    return [slice(start, min(start + thickness, shape[1])) for start in range(0, shape[1], thickness)]


def decide_labels(
    prediction: Prediction, labels: LabelScheme, *, probabilities_path: Path | None = None
) -> Segmentation:
    """Turn probabilities into label values, slab by slab.

    Args:
        prediction: Consumed.
        labels: What the channels mean.
        probabilities_path: Also store the probabilities there, as :func:`write_probabilities` does.
    """
    array: np.ndarray | None = None

    def decided() -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
        nonlocal array
        for part, slab in prediction.slabs:
            values = labels.segmentation(slab)
            if array is None:
                array = np.empty(prediction.geometry.shape, dtype=values.dtype)
            array[prediction.index(part)] = values
            yield prediction.index(part), slab

    if probabilities_path is None:
        for _ in decided():
            pass
    else:
        _write_slabs(probabilities_path, (labels.num_outputs, *prediction.geometry.shape), decided())
    assert array is not None  # a grid has a plane
    return Segmentation(array=array, geometry=prediction.geometry)


def write_probabilities(path: Path, probabilities: np.ndarray) -> None:
    """Store probabilities (k, ...) as compressed float16; atomically."""
    parts = slab_slices(probabilities.shape)
    _write_slabs(path, probabilities.shape, (((part,), probabilities[:, part]) for part in parts))


def read_probabilities(path: Path) -> np.ndarray:
    """Read probabilities.

    Args:
        path: A ``.b2nd`` that autoseg wrote, or an ``.npz`` with an array ``probabilities`` as nnU-Net writes it.

    Returns:
        float32 (k, ...).

    Raises:
        MissingArtifactError: When there is no such file.
        ArtifactError: When it is damaged or holds something else.
    """
    if not path.is_file():
        raise MissingArtifactError(f"{path} does not exist")
    try:
        array = _read_npz(path) if path.suffix == ".npz" else blosc2.open(str(path), mode="r")[:]
    except (OSError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path} cannot be read as probabilities: {error}") from None
    if not isinstance(array, np.ndarray) or array.ndim < 3 or not np.issubdtype(array.dtype, np.floating):
        raise ArtifactError(f"{path} holds no probabilities of the form (outputs, axes...)")
    return array.astype(np.float32, copy=False)


def stored_prediction(case_id: str, path: Path, geometry: Geometry) -> Prediction:
    """Stored probabilities as a prediction; autoseg's own are read slab by slab.

    Args:
        case_id: Name of the case.
        path: As for :func:`read_probabilities`.
        geometry: Grid of the image that was predicted.

    Raises:
        MissingArtifactError: When there is no such file.
        ArtifactError: When it is damaged, holds something else, or lies on another grid.
    """
    if path.suffix == ".npz":
        array = read_probabilities(path)
    elif not path.is_file():
        raise MissingArtifactError(f"{path} does not exist")
    else:
        try:
            array = blosc2.open(str(path), mode="r")
        except (OSError, RuntimeError, ValueError) as error:
            raise ArtifactError(f"{path} cannot be read as probabilities: {error}") from None
    if tuple(array.shape[1:]) != geometry.shape:
        raise ArtifactError(f"{path} holds probabilities of {array.shape}, which do not fit a grid of {geometry.shape}")

    def slabs() -> Iterator[tuple[slice, np.ndarray]]:
        for part in slab_slices(array.shape):
            try:
                yield part, np.asarray(array[:, part], dtype=np.float32)
            except (OSError, RuntimeError, ValueError) as error:
                raise ArtifactError(f"{path} cannot be read as probabilities: {error}") from None

    return Prediction(case_id=case_id, geometry=geometry, slabs=slabs())


def _read_npz(path: Path) -> np.ndarray:
    with np.load(path) as archive:
        return np.asarray(archive["probabilities"])


def _write_slabs(path: Path, shape: tuple[int, ...], slabs: Iterator[tuple[tuple[slice, ...], np.ndarray]]) -> None:
    # One output and one plane per chunk at least: neither writing nor reading ever needs the whole.
    compression = {"codec": blosc2.Codec.ZSTD, "clevel": 3, "filters": [blosc2.Filter.BITSHUFFLE]}
    with atomic_path(path) as temporary:
        array = blosc2.empty(shape, dtype=np.float16, urlpath=str(temporary), mode="w", cparams=compression)
        for part, slab in slabs:
            array[(slice(None), *part)] = np.ascontiguousarray(slab, dtype=np.float16)
