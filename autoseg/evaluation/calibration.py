"""Probabilities that mean what they say: one temperature per configuration, fitted on its cross-validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar

from autoseg.labels import LabelScheme

_SMALLEST = 1e-6  # of a probability, before its logarithm
_BOUNDS = (0.2, 10.0)


def with_temperature(probabilities: np.ndarray, temperature: float, labels: LabelScheme) -> np.ndarray:
    """Probabilities whose logits are divided by a temperature; which label is the likeliest does not change.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017.

    Args:
        probabilities: float32 (k, ...), softmax over labels or one sigmoid per region; not modified.
        temperature: Above 1 makes them less sure; 1 changes nothing.
        labels: Decides between the two.
    """
    if temperature == 1:
        return probabilities
    power = np.float32(1 / temperature)
    raised = np.maximum(probabilities, np.float32(_SMALLEST)) ** power
    if labels.has_regions:
        return np.asarray(raised / (raised + np.maximum(1 - probabilities, np.float32(_SMALLEST)) ** power))
    return np.asarray(raised / raised.sum(axis=0, keepdims=True))


def fit_temperature(samples: Sequence[tuple[np.ndarray, np.ndarray]], labels: LabelScheme) -> float:
    """Temperature with the smallest cross-entropy.

    Args:
        samples: Per case, probabilities (k, n) of some voxels and their label values in the reference (n,).
        labels: What the outputs mean.

    Returns:
        1 where there is nothing to fit.
    """
    pairs = [(p, truth_of(values, labels)) for p, values in samples if p.shape[1]]
    if not pairs:
        return 1.0
    probabilities = np.concatenate([p for p, _ in pairs], axis=1).astype(np.float32)
    truth = np.concatenate([t for _, t in pairs], axis=1)

    def loss(log_temperature: float) -> float:
        calibrated = with_temperature(probabilities, float(np.exp(log_temperature)), labels)
        return cross_entropy(calibrated, truth, labels)

    found = minimize_scalar(loss, bounds=tuple(np.log(_BOUNDS)), method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def cross_entropy(probabilities: np.ndarray, truth: np.ndarray, labels: LabelScheme) -> float:
    """Mean negative log-likelihood of a boolean truth (k, n), in nats per voxel."""
    likely = np.log(np.maximum(probabilities, _SMALLEST))
    if labels.has_regions:
        unlikely = np.log(np.maximum(1 - probabilities, _SMALLEST))
        return float(-np.where(truth, likely, unlikely).sum(axis=0).mean())
    return float(-(likely * truth).sum(axis=0).mean())


def calibration_error(probabilities: np.ndarray, truth: np.ndarray, *, bins: int = 15) -> float:
    """Expected calibration error over all outputs: mean distance of confidence and frequency in equal bins."""
    confidence, is_true = probabilities.ravel(), truth.ravel()
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    numbers = np.bincount(index, minlength=bins)
    gaps = np.bincount(index, confidence, bins) - np.bincount(index, is_true, bins)
    return float(np.abs(gaps).sum() / max(1, numbers.sum()))


def truth_of(values: np.ndarray, labels: LabelScheme) -> np.ndarray:
    """Which output is right for reference labels (n,): boolean (k, n)."""
    members = [np.isin(values, target.values) for target in labels.targets]
    if labels.has_regions:
        return np.stack(members)
    return np.stack([~np.any(members, axis=0), *members])


def sample_voxels(
    probabilities: np.ndarray, reference: np.ndarray, labels: LabelScheme, *, most: int = 4000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw voxels of a case near anything that is foreground by reference or prediction.

    The certain background far away would drown what calibration is about.

    Args:
        probabilities: float32 (k, ...).
        reference: Label values (...).
        labels: What the outputs mean.
        most: Voxels to draw.
        seed: Of the drawing.

    Returns:
        Probabilities (k, n) and reference labels (n,); ignored voxels are left out.
    """
    foreground = probabilities if labels.has_regions else probabilities[1:]
    is_near = (foreground.max(axis=0) > 0.01) | (reference > 0)
    if labels.ignore_value is not None:
        is_near &= reference != labels.ignore_value
    candidates = np.flatnonzero(is_near)
    if len(candidates) > most:
        candidates = np.random.default_rng(seed).choice(candidates, most, replace=False)
    return probabilities.reshape(len(probabilities), -1)[:, candidates], reference.ravel()[candidates]
