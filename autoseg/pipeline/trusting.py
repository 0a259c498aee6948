"""What a cross-validation teaches about trust: temperatures before the selection, expected Dice and ranges after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from autoseg.evaluation.calibration import fit_temperature, sample_voxels
from autoseg.evaluation.selection import Candidate, Selection
from autoseg.evaluation.selection.candidates import Contender, can_be_averaged
from autoseg.evaluation.selection.table import averaged_probabilities, read_reference
from autoseg.evaluation.trust import ExpectedOverlap, TrustModel, fit_trust, label_facts, label_ranges
from autoseg.labels import LabelScheme
from autoseg.progress import Progress


def with_temperatures(
    candidates: Sequence[Candidate],
    references: Mapping[str, Path],
    labels: LabelScheme,
    progress: Progress,
    frames: Mapping[str, int | None],
) -> list[Candidate]:
    """Fit the temperature of every configuration on its held-out cases.

    Args:
        candidates: Cross-validations; those without probabilities stay as they are.
        references: Case -> reference segmentation.
        labels: What the outputs mean.
        progress: Told how far it is.
        frames: Case -> point in time of its files, where these hold several.
    """
    fitted = []
    for candidate in candidates:
        if not can_be_averaged(candidate):
            fitted.append(candidate)
            continue
        alone = Contender.of(replace(candidate, temperature=1.0))
        samples: list[tuple[np.ndarray, np.ndarray]] = []
        for number, case in enumerate(
            progress.track(references, total=len(references), description=f"calibrating {candidate.name}")
        ):
            reference = read_reference(references[case], labels, frames.get(case)).array
            probabilities = averaged_probabilities(alone, case, labels, reference.shape)
            samples.append(sample_voxels(probabilities, reference, labels, seed=number))
        fitted.append(replace(candidate, temperature=round(fit_temperature(samples, labels), 4)))
    return fitted


def fit_trust_model(
    selection: Selection,
    candidates: Sequence[Candidate],
    references: Mapping[str, Path],
    labels: LabelScheme,
    progress: Progress,
    frames: Mapping[str, int | None],
) -> TrustModel | None:
    """Fit what single predictions of the chosen ensemble can be judged by; None without probabilities.

    Args:
        selection: What was chosen, with the scores of its cases.
        candidates: The calibrated cross-validations.
        references: Case -> reference segmentation.
        labels: What the outputs mean.
        progress: Told how far it is.
        frames: Case -> point in time of its files, where these hold several.
    """
    by_name = {candidate.name: candidate for candidate in candidates}
    members = tuple(by_name[name] for name in selection.members)
    if not all(can_be_averaged(member) for member in members):
        return None
    chosen = Contender(members=members, weights=selection.weights)
    expected: dict[str, float | None] = {}
    facts = []
    for case in progress.track(references, total=len(references), description="learning what to expect"):
        reference = read_reference(references[case], labels, frames.get(case))
        overlap = ExpectedOverlap(labels=labels)
        overlap.add(averaged_probabilities(chosen, case, labels, reference.array.shape))
        expected[case] = overlap.dice
        facts.append(label_facts(reference.array, reference.geometry.spacing, labels.targets))
    scores: dict[str, list[float]] = {}
    for row in selection.evaluation.cases:
        if row.dice is not None:
            scores.setdefault(row.case, []).append(row.dice)
    true = {case: float(np.mean(values)) for case, values in scores.items()}
    return fit_trust(expected, true, members[0].folds, label_ranges(facts, labels.targets))
