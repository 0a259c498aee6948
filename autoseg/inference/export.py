"""From probabilities to files: segmentations, and probabilities themselves for ensembles."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
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
_SLAB = 1 << 24  # probabilities in a slab


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """Probabilities of one case, in slabs along the first axis of its grid.

    Args:
        case_id: Name of the case.
        geometry: Grid of the image that was predicted.
        slabs: Index along the first axis and float32 probabilities (k, n, ...) of that part, in order and without
            gaps; can be read once.
    """

    case_id: str
    geometry: Geometry
    slabs: Iterator[tuple[slice, np.ndarray]]

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


def slab_slices(shape: tuple[int, ...]) -> list[slice]:
    """Slabs of an array (k, n, ...) along its second axis; equal shapes give equal slabs."""
    per_plane = int(np.prod(shape)) // shape[1]
    thickness = max(1, _SLAB // per_plane)
    return [slice(start, min(start + thickness, shape[1])) for start in range(0, shape[1], thickness)]


def decide_labels(
    prediction: Prediction, labels: LabelScheme, *, probabilities_path: Path | None = None
) -> Segmentation:
    """Turn probabilities into label values.

    Args:
        prediction: Consumed.
        labels: What the channels mean.
        probabilities_path: Also store the probabilities there, as :func:`write_probabilities` does.
    """
    if probabilities_path is None:
        parts = [labels.segmentation(slab) for _, slab in prediction.slabs]
        return Segmentation(array=np.concatenate(parts), geometry=prediction.geometry)
    parts = []

    def observed() -> Iterator[tuple[slice, np.ndarray]]:
        for part, slab in prediction.slabs:
            parts.append(labels.segmentation(slab))
            yield part, slab

    _write_slabs(probabilities_path, (labels.num_outputs, *prediction.geometry.shape), observed())
    return Segmentation(array=np.concatenate(parts), geometry=prediction.geometry)


def write_probabilities(path: Path, probabilities: np.ndarray) -> None:
    """Store probabilities (k, ...) as compressed float16; atomically."""
    parts = slab_slices(probabilities.shape)
    _write_slabs(path, probabilities.shape, ((part, probabilities[:, part]) for part in parts))


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


def _read_npz(path: Path) -> np.ndarray:
    with np.load(path) as archive:
        return np.asarray(archive["probabilities"])


def _write_slabs(path: Path, shape: tuple[int, ...], slabs: Iterator[tuple[slice, np.ndarray]]) -> None:
    # One output and one plane per chunk at least: neither writing nor reading ever needs the whole.
    compression = {"codec": blosc2.Codec.ZSTD, "clevel": 3, "filters": [blosc2.Filter.BITSHUFFLE]}
    with atomic_path(path) as temporary:
        array = blosc2.empty(shape, dtype=np.float16, urlpath=str(temporary), mode="w", cparams=compression)
        for part, slab in slabs:
            array[:, part] = np.ascontiguousarray(slab, dtype=np.float16)
