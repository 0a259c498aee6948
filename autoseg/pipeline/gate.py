"""Whether an image is of the kind that the models have seen: its grid and intensities against the fingerprint."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoseg.errors import MissingArtifactError
from autoseg.fingerprint import CaseFingerprint, Fingerprint
from autoseg.geometry import Geometry, Reorientation
from autoseg.image import Image
from autoseg.plan import Plan
from autoseg.progress import Progress
from autoseg.workspace import Workspace

_UNUSUAL = 2.0  # times outside of what training had: worth a warning
_FOREIGN = 5.0  # times outside: other units, another kind of image
_SAMPLES = 200_000  # voxels that are looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What is unusual about an image.

    Args:
        warnings: It is predicted, and these sentences are recorded.
        refusals: It is not predicted unless the user insists.
    """

    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InputGate:
    """Compares images with the training cases.

    Args:
        plan: Names the orientation and how channels are normalized.
        fingerprint: What was measured on the training cases.
    """

    plan: Plan
    fingerprint: Fingerprint

    def examine(self, image: Image) -> Findings:
        """Everything unusual about an image."""
        warnings, refusals = list[str](), list[str]()
        grid = self._turned(image.geometry)
        for sentence, is_foreign in (*self._grid(grid), *self._intensities(image)):
            (refusals if is_foreign else warnings).append(sentence)
        if not image.geometry.has_right_angles:
            warnings.append("its axes do not stand at right angles to each other")
        trained = self.fingerprint.orientation
        if self.plan.orientation is None and sorted(grid.orientation) != sorted(trained):
            warnings.append(f"its axes point to {grid.orientation}, those of the training images to {trained}")
        return Findings(warnings=tuple(warnings), refusals=tuple(refusals))

    def unusual_grid(self, geometry: Geometry) -> tuple[str, ...]:
        """What is unusual about a grid alone, from a header."""
        return tuple(sentence for sentence, _ in self._grid(self._turned(geometry)))

    def _grid(self, grid: Geometry) -> list[tuple[str, bool]]:
        return [*self._spacing(grid), *self._extent(grid)]

    def _turned(self, geometry: Geometry) -> Geometry:
        stored, worked = geometry.orientation, self.plan.orientation
        if worked is None or len(worked) != len(stored):
            return geometry
        return Reorientation.between(stored, worked).apply_to_geometry(geometry)

    def _spacing(self, grid: Geometry) -> list[tuple[str, bool]]:
        spacings = np.array([case.spacing for case in self.fingerprint.cases])
        return _outside("spacing", grid.spacing, spacings, "mm")

    def _extent(self, grid: Geometry) -> list[tuple[str, bool]]:
        extents = np.array([_extent(case) for case in self.fingerprint.cases])
        # A small or a large field of view is a matter of taste, never another kind of image.
        return [(sentence, False) for sentence, _ in _outside("field of view", grid.extent, extents, "mm")]

    def _intensities(self, image: Image) -> list[tuple[str, bool]]:
        found = []
        for number, channel in enumerate(image.array):
            name = self.plan.channels[number] if number < len(self.plan.channels) else str(number)
            values = channel.reshape(-1)
            values = values[:: max(1, values.size // _SAMPLES)]
            low, high = float(values.min()), float(values.max())
            if low == high and float(channel.min()) == float(channel.max()):
                found.append((f"every voxel of {name} has the intensity {low:g}", True))
            elif self._is_absolute(number):
                found.extend(self._absolute_intensities(number, name, values))
        return found

    def _is_absolute(self, channel: int) -> bool:
        """Whether the numbers of a channel mean the same in every image, as Hounsfield units do."""
        schemes = {c.normalization[channel].scheme for c in self.plan.configurations if channel < len(c.normalization)}
        return schemes == {"ct"} and channel < len(self.fingerprint.intensities)

    def _absolute_intensities(self, channel: int, name: str, values: np.ndarray) -> list[tuple[str, bool]]:
        known = self.fingerprint.intensities[channel]
        low, high = known.percentile_00_5, known.percentile_99_5
        share = float(np.mean((values >= low) & (values <= high)))
        where = f"{name} has intensities from {values.min():g} to {values.max():g}"
        if share == 0:
            return [(f"{where}, none of them like the training foreground's, {low:g} to {high:g}", True)]
        if share < 0.001:
            return [(f"{where}, hardly any like the training foreground's, {low:g} to {high:g}", False)]
        return []


def input_gate(workspace: Workspace, plan: Plan, progress: Progress) -> InputGate | None:
    """The gate of a workspace; None, said once, where nothing was measured (imported models)."""
    try:
        fingerprint = workspace.load_fingerprint()
    except MissingArtifactError:
        progress.message("the workspace has no fingerprint.json: images are not compared with the training images")
        return None
    return InputGate(plan=plan, fingerprint=fingerprint) if fingerprint.cases else None


def _extent(case: CaseFingerprint) -> list[float]:
    return [n * s for n, s in zip(case.shape, case.spacing, strict=True)]


def _outside(what: str, found: tuple[float, ...], known: np.ndarray, unit: str) -> list[tuple[str, bool]]:
    """Sentences on values that lie outside of those of the training cases, and whether they are of another kind."""
    if known.shape[1] != len(found):
        return []
    sentences = []
    low, high = known.min(axis=0), known.max(axis=0)
    factors = [max(a / v, v / b, 1.0) for v, a, b in zip(found, low, high, strict=True)]
    worst = max(factors)
    if worst > _UNUSUAL:
        values = " x ".join(f"{v:.4g}" for v in found)
        ranges = " x ".join(f"{a:.4g} to {b:.4g}" for a, b in zip(low, high, strict=True))
        sentences.append((f"its {what} is {values} {unit}, the training images' {ranges}", worst > _FOREIGN))
    return sentences
