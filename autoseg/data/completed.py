"""Sparse annotation completed by a model: what it is sure of takes the place of what nobody annotated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autoseg.atomic import atomic_path
from autoseg.data.sampling import PatchSource
from autoseg.geometry import BoundingBox
from autoseg.labels import LabelScheme
from autoseg.preprocessing.foreground import foreground_positions
from autoseg.preprocessing.previous_stage import read_previous, write_previous
from autoseg.preprocessing.store import CaseStore


def complete_segmentation(
    segmentation: np.ndarray,
    probabilities: np.ndarray,
    labels: LabelScheme,
    *,
    confidence: float,
    annotated: float = 1.0,
) -> np.ndarray:
    """Fill in what a case's annotation leaves open; what is annotated stays.

    Ignored voxels take the predicted label where the model is sure. Where only a share of the foreground was
    annotated, as many background voxels as are missing become foreground, the most probable ones: the threshold is
    the one at which the sizes match.

    Args:
        segmentation: Label values (...) int16; not modified.
        probabilities: (k, ...) of a model.
        labels: What they mean.
        confidence: Least probability of a label, or distance of every region's from one half, to be trusted.
        annotated: Share of the foreground that was annotated.

    Returns:
        New label values (...) int16; still ignored where the model is not sure.
    """
    completed = np.array(segmentation, dtype=np.int16)
    if labels.ignore_value is not None:
        sure = (segmentation == labels.ignore_value) & (_certainty(probabilities, labels) >= confidence)
        completed[sure] = labels.segmentation(probabilities)[sure]
    if annotated < 1:
        known = int(np.isin(segmentation, labels.foreground_values).sum())
        missing = round(known / annotated) - known
        candidates = np.flatnonzero(segmentation == 0)
        chances, values = _foreground(probabilities, labels)
        order = np.argsort(-chances.reshape(-1)[candidates], kind="stable")[:missing]
        chosen = candidates[order]
        completed.reshape(-1)[chosen] = values.reshape(-1)[chosen]
    return completed


def _certainty(probabilities: np.ndarray, labels: LabelScheme) -> np.ndarray:
    """Probability of the decision in every voxel; with regions that of the least certain one."""
    if labels.has_regions:
        return np.asarray(np.maximum(probabilities, 1 - probabilities).min(axis=0))
    return np.asarray(probabilities.max(axis=0))


def _foreground(probabilities: np.ndarray, labels: LabelScheme) -> tuple[np.ndarray, np.ndarray]:
    """Probability that a voxel is foreground, and the label that it then most probably has."""
    if labels.has_regions:
        decided = labels.segmentation(probabilities).astype(np.int16)
        likeliest = np.asarray(labels.region_order, dtype=np.int16)[probabilities.argmax(axis=0)]
        return probabilities.max(axis=0), np.where(decided > 0, decided, likeliest)
    by_channel = np.asarray([target.values[0] for target in labels.targets], dtype=np.int16)
    return 1 - probabilities[0], by_channel[probabilities[1:].argmax(axis=0)]


def write_completed(
    folder: Path, case_id: str, segmentation: np.ndarray, labels: LabelScheme, *, patch_size: Sequence[int]
) -> tuple[Path, Path]:
    """Store a completed segmentation and the positions of its foreground.

    Args:
        folder: Created.
        case_id: Name of the files.
        segmentation: Label values (...) on the preprocessed grid.
        labels: What is segmented.
        patch_size: Voxels that are read at once.

    Returns:
        Both files, the segmentation first.
    """
    path, positions_path = folder / f"{case_id}.b2nd", folder / f"{case_id}.npz"
    write_previous(path, segmentation, patch_size=patch_size)
    with atomic_path(positions_path) as temporary, temporary.open("wb") as file:
        np.savez(file, *foreground_positions(segmentation, labels))
    return path, positions_path


class CompletedCase:
    """A preprocessed case whose segmentation was completed.

    Args:
        source: The case.
        path: Its completed segmentation.
    """

    def __init__(self, source: PatchSource, path: Path) -> None:
        self._source = source
        self._path = path
        self._positions: tuple[np.ndarray, ...] | None = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of the image, channels first."""
        return self._source.image_shape

    @property
    def foreground(self) -> tuple[np.ndarray, ...]:
        """Positions of voxels per target in the completed segmentation."""
        if self._positions is None:
            with np.load(self._path.with_suffix(".npz"), allow_pickle=False) as stored:
                self._positions = tuple(stored[f"arr_{index}"] for index in range(len(stored.files)))
        return self._positions

    def read_image(self, box: BoundingBox) -> np.ndarray:
        """Intensities (c, ...) inside a box of the volume."""
        return self._source.read_image(box)

    def read_segmentation(self, box: BoundingBox) -> np.ndarray:
        """Completed label values (...) inside a box of the volume."""
        return read_previous(self._path, self.image_shape[1:], box)


class CompletedStore:
    """Preprocessed cases, some of them with a completed segmentation.

    Args:
        store: All cases.
        completed: Case id -> its completed segmentation.
    """

    def __init__(self, store: CaseStore, completed: Mapping[str, Path]) -> None:
        self._store = store
        self._completed = dict(completed)

    def open(self, case_id: str) -> PatchSource:
        """Open a case without reading it."""
        source = self._store.open(case_id)
        return CompletedCase(source, self._completed[case_id]) if case_id in self._completed else source
