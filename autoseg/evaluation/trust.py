"""How far a single prediction can be trusted: its likely Dice, and what is odd about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cc3d
import numpy as np

from autoseg.arrays import slabs
from autoseg.labels import LabelScheme, Target
from autoseg.slab_components import count_components

_MARGIN = 1.5  # volumes this factor beyond the training cases' are odd
_USUAL = 0.95  # share of training cases that makes a label's absence odd
_BEST_KNOWN = 0.9  # quantile of the cross-validation's errors that a prediction interval reaches to


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRange:
    """What a label or region was like in the references of the training cases.

    Args:
        name: Of the label or region.
        values: Its label values.
        smallest: Millilitres in the case with the least of it, of those that have it.
        largest: Likewise the most.
        most_components: Connected components in the case with the most of them.
        presence: Share of cases that have it.
    """

    name: str
    values: tuple[int, ...]
    smallest: float
    largest: float
    most_components: int
    presence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustModel:
    """trust.json: what the cross-validation says about single predictions.

    Args:
        intercept: Of the regression from expected to true Dice.
        slope: Likewise.
        error: Half width of the interval that held 90 % of the true Dice values in the cross-validation.
        look_below: Cases with a smaller predicted Dice should be looked at.
        correlation: Between predicted and true Dice in the cross-validation, each case predicted by a regression
            without its fold; None for fewer than three cases.
        num_cases: Cases behind the regression.
        labels: What labels were like in the training cases.
    """

    schema_version: int = 1
    intercept: float
    slope: float
    error: float
    look_below: float
    correlation: float | None
    num_cases: int
    labels: tuple[LabelRange, ...]

    def predicted_dice(self, expected: float) -> float:
        """Likely mean Dice of a case whose probabilities expect some Dice."""
        return float(min(1.0, max(0.0, self.intercept + self.slope * expected)))


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFacts:
    """A label or region in one prediction.

    Args:
        name: Of the label or region.
        millilitres: Its volume.
        components: Its connected components.
    """

    name: str
    millilitres: float
    components: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseQuality:
    """What can be said of a prediction without its reference.

    Args:
        case: Name of the case.
        seconds: How long it took; None where nobody measured.
        predicted_dice: Likely mean Dice; None without a fitted model.
        interval: Where it lies in 90 % of cases.
        flags: What is odd, one sentence each; a case with flags should be looked at.
        labels: Volumes and components.
    """

    schema_version: int = 1
    case: str
    seconds: float | None = None
    predicted_dice: float | None = None
    interval: tuple[float, float] | None = None
    flags: tuple[str, ...] = ()
    labels: tuple[LabelFacts, ...] = ()


@dataclass(slots=True, kw_only=True)
class ExpectedOverlap:
    """Sums over the voxels of a case, from which its expected Dice follows; filled slab by slab.

    Args:
        labels: What the outputs mean.
        sums: Target -> probability inside what was given to it, voxels given to it, probability everywhere.
    """

    labels: LabelScheme
    sums: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, probabilities: np.ndarray) -> None:
        """Count a slab of probabilities (k, ...)."""
        decided = self.labels.segmentation(probabilities)
        offset = 0 if self.labels.has_regions else 1
        for channel, target in enumerate(self.labels.targets, start=offset):
            mask, p = target.mask(decided), probabilities[channel]
            inside = float(p[mask].sum(dtype=np.float64))
            part = np.asarray([inside, np.count_nonzero(mask), float(p.sum(dtype=np.float64))])
            self.sums[target.name] = self.sums.get(target.name, 0) + part

    @property
    def dice(self) -> float | None:
        """Mean over targets of 2 E[TP] / (voxels + E[reference]); None where nothing was given to any.

        With calibrated probabilities this is about the Dice to expect (Li et al., MICCAI 2022, use the same sums).
        """
        scores = [2 * inside / (voxels + mass) for inside, voxels, mass in self.sums.values() if voxels]
        absent = sum(not voxels and mass > 1 for _, voxels, mass in self.sums.values())
        return float(np.sum(scores) / (len(scores) + absent)) if scores else None


def label_ranges(facts: Sequence[Sequence[LabelFacts]], targets: Sequence[Target]) -> tuple[LabelRange, ...]:
    """What labels were like, from the facts of all training cases' references."""
    ranges = []
    for position, target in enumerate(targets):
        present = [case[position] for case in facts if case[position].millilitres > 0]
        ranges.append(
            LabelRange(
                name=target.name,
                values=target.values,
                smallest=min((f.millilitres for f in present), default=0.0),
                largest=max((f.millilitres for f in present), default=0.0),
                most_components=max((f.components for f in present), default=0),
                presence=len(present) / max(1, len(facts)),
            )
        )
    return tuple(ranges)


def label_facts(
    segmentation: np.ndarray, spacing: Sequence[float], targets: Sequence[Target]
) -> tuple[LabelFacts, ...]:
    """Volume and components of every target.

    Args:
        segmentation: Label values (z, y, x) or (y, x).
        spacing: Millimetres per axis.
        targets: Labels or regions.
    """
    found = []
    for target in targets:
        planes = slabs(segmentation.shape)
        voxels = sum(int(np.count_nonzero(target.mask(segmentation[part]))) for part in planes)
        components = _count_components(segmentation, target) if voxels else 0
        found.append(
            LabelFacts(name=target.name, millilitres=voxels * math.prod(spacing) / 1000, components=components)
        )
    return tuple(found)


def _count_components(segmentation: np.ndarray, target: Target) -> int:
    def label(mask: np.ndarray) -> tuple[np.ndarray, int]:
        # As integers: for booleans cc3d takes another way, which labels background wrongly (4.1.1).
        numbered = cc3d.connected_components(
            np.ascontiguousarray(mask, dtype=np.uint8), connectivity=26 if mask.ndim == 3 else 8
        )
        return numbered, int(numbered.max())

    depth, *plane = segmentation.shape
    return count_components(depth, lambda part: target.mask(segmentation[part]), tuple(plane), label)


def fit_trust(
    expected: Mapping[str, float | None],
    true: Mapping[str, float | None],
    folds: Mapping[str, str],
    ranges: tuple[LabelRange, ...],
) -> TrustModel:
    """Fit the regression from expected to true Dice on a cross-validation.

    Args:
        expected: Case -> expected Dice.
        true: Case -> its Dice against the reference, mean over labels.
        folds: Case -> its fold.
        ranges: What labels were like.
    """
    cases = [case for case in expected if expected[case] is not None and true.get(case) is not None]
    x = np.asarray([expected[case] for case in cases], dtype=float)
    y = np.asarray([true[case] for case in cases], dtype=float)
    names = np.asarray([folds.get(case, "") for case in cases])
    intercept, slope = _line(x, y)
    held_out = np.full(len(cases), np.nan)
    for name in set(names):
        inside = names == name
        others = _line(x[~inside], y[~inside])
        held_out[inside] = np.clip(others[0] + others[1] * x[inside], 0, 1)
    errors = np.abs(held_out - y)
    spread = np.std(held_out) > 0 and np.std(y) > 0 if len(cases) > 2 else False
    median = float(np.median(y)) if len(y) else 0.0
    deviation = float(np.median(np.abs(y - median))) * 1.4826 if len(y) else 0.0
    return TrustModel(
        intercept=intercept,
        slope=slope,
        error=float(np.quantile(errors, _BEST_KNOWN)) if len(errors) else 1.0,
        look_below=max(0.0, median - 2 * deviation),
        correlation=float(np.corrcoef(held_out, y)[0, 1]) if spread else None,
        num_cases=len(cases),
        labels=ranges,
    )


def judge(
    case: str,
    facts: tuple[LabelFacts, ...],
    expected: float | None,
    model: TrustModel | None,
    *,
    seconds: float | None = None,
) -> CaseQuality:
    """Say what is odd about a prediction.

    Args:
        case: Name of the case.
        facts: Volumes and components of the prediction, in the order of the model's labels.
        expected: Dice that its probabilities expect; None where nothing was found.
        model: From the cross-validation; None checks only whether anything was found.
        seconds: How long the prediction took.
    """
    flags = []
    if not any(fact.millilitres > 0 for fact in facts):
        flags.append("nothing was found")
    if model is None:
        return CaseQuality(case=case, seconds=seconds, flags=tuple(flags), labels=facts)
    for fact, known in zip(facts, model.labels, strict=True):
        flags += _oddities(fact, known)
    predicted = model.predicted_dice(expected or 0.0) if model.num_cases > 2 else None
    interval = None
    if predicted is not None:
        interval = max(0.0, predicted - model.error), min(1.0, predicted + model.error)
        if predicted < model.look_below:
            flags.append(f"a Dice of {predicted:.2f} is expected, less than in nearly all training cases")
    return CaseQuality(
        case=case, seconds=seconds, predicted_dice=predicted, interval=interval, flags=tuple(flags), labels=facts
    )


def _oddities(fact: LabelFacts, known: LabelRange) -> list[str]:
    if fact.millilitres == 0:
        if known.presence < _USUAL:
            return []
        return [f"no {known.name}, which {known.presence:.0%} of the training cases have"]
    flags = []
    size = f"{known.name}: {fact.millilitres:.3g} ml; the training cases have"
    if fact.millilitres > known.largest * _MARGIN:
        flags.append(f"{size} at most {known.largest:.3g} ml")
    elif fact.millilitres < known.smallest / _MARGIN:
        flags.append(f"{size} at least {known.smallest:.3g} ml")
    if fact.components > max(known.most_components * 2, known.most_components + 2):
        flags.append(
            f"{known.name} in {fact.components} pieces; the training cases have at most {known.most_components}"
        )
    return flags


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least squares; with nothing to learn from, the expectation is believed as it is."""
    if len(x) < 3 or np.std(x) < 1e-6:
        return (float(np.mean(y) - np.mean(x)) if len(x) else 0.0), 1.0
    slope, intercept = np.polyfit(x, y, 1)
    return float(intercept), float(slope)
