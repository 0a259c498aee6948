"""Which models predict together, and how their probabilities become one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from autoseg.errors import SettingsError
from autoseg.inference.export import Prediction
from autoseg.postprocessing.steps import PostprocessingStep
from autoseg.splits import FoldName

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Models of one configuration.

    Args:
        configuration: Name of the configuration.
        folds: Folds whose logits are averaged.
        checkpoint: Which of a fold's checkpoints predicts.
        temperature: What its logits are divided by to make probabilities mean what they say; 1 leaves them.
        weight: Share of this member's probabilities in the mean, relative to the other members.
    """

    configuration: str
    folds: tuple[FoldName, ...]
    checkpoint: Literal["final", "best"] = "final"
    weight: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.folds:
            raise ValueError(f"{self.configuration} is a member without a fold")
        if not self.weight > 0:
            raise ValueError(f"weight must be positive, got {self.weight}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")

    def describe(self) -> str:
        """Configuration and folds in words, e.g. "3d_fullres (folds 0, 1)"."""
        return f"{self.configuration} (fold{'s' if len(self.folds) > 1 else ''} {', '.join(map(str, self.folds))})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """ensemble.json: what predicts, and why.

    Args:
        members: Configurations whose probabilities are averaged.
        postprocessing: Operations on the segmentation, in order.
        selection: "cross-validation" chose among complete cross-validations, "incomplete" takes what is trained,
            "given" was named by the user.
        scores: Candidate -> its mean Dice in the cross-validation; None where it is undefined.
        reasons: Why these members and operations, one sentence each.
        scores_digest: Digest of the cross-validation scores that were compared; others make it outdated.
        metrics: What the selection maximized: the mean of these.
        promised: Score to expect on new cases of the same kind: of each fold with what was chosen without it.
        promised_interval: 95 % confidence interval of it.
    """

    schema_version: int = SCHEMA_VERSION
    members: tuple[Member, ...]
    postprocessing: tuple[PostprocessingStep, ...] = ()
    selection: Literal["cross-validation", "incomplete", "given"]
    scores: dict[str, float | None] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    scores_digest: str = ""
    metrics: tuple[str, ...] = ("dice",)
    promised: float | None = None
    promised_interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("an ensemble needs at least one member")


def average_probabilities(parts: Iterable[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Weighted mean of probabilities, one part in memory at a time.

    Args:
        parts: float32 (k, ...) each, equal in shape; not modified.
        weights: One positive number per part.

    Returns:
        float32 (k, ...).

    Raises:
        SettingsError: When shapes or lengths disagree.
    """
    total: np.ndarray | None = None
    for part, weight in zip(parts, weights, strict=True):
        weighted = part.astype(np.float32) if weight == 1 else part * np.float32(weight)
        if total is None:
            total = weighted
        elif total.shape != part.shape:
            raise SettingsError(f"probabilities of shape {total.shape} and {part.shape} cannot be averaged")
        else:
            total += weighted
    if total is None:
        raise SettingsError("there is nothing to average")
    total /= np.float32(sum(weights))
    return total


def combine(predictions: Sequence[Prediction], weights: Sequence[float]) -> Prediction:
    """Weighted mean of several configurations' predictions of one case, slab by slab.

    Args:
        predictions: On one grid and cut into equal slabs; consumed when the result is read.
        weights: One positive number per prediction.
    """

    def mean_slabs() -> Iterator[tuple[slice, np.ndarray]]:
        # Here the probabilities of every member lie side by side, for what looks at their disagreement.
        for slabs in zip(*(p.slabs for p in predictions), strict=True):
            part = slabs[0][0]
            if any(other != part for other, _ in slabs):
                raise SettingsError(f"predictions of {first.case_id} are cut into different slabs")
            yield part, average_probabilities((slab for _, slab in slabs), weights)

    first = predictions[0]
    if any(other.axis != first.axis for other in predictions):
        raise SettingsError(f"predictions of {first.case_id} are cut into slabs along different axes")
    return Prediction(case_id=first.case_id, geometry=first.geometry, slabs=mean_slabs(), axis=first.axis)


def mean_slabs(streams: Sequence[Iterator[np.ndarray]]) -> Iterator[np.ndarray]:
    """Mean of arrays that come in slabs (k, n, ...) along the second axis, which each cuts in its own way."""
    waiting = [next(stream, None) for stream in streams]
    while True:
        slabs = [slab for slab in waiting if slab is not None]
        if len(slabs) < len(streams):
            assert not slabs  # all have as many planes
            return
        count = min(slab.shape[1] for slab in slabs)
        total = slabs[0][:, :count]
        for slab in slabs[1:]:
            total += slab[:, :count]
        if len(streams) > 1:
            total /= len(streams)
        yield total
        waiting = [
            slab[:, count:] if slab.shape[1] > count else next(stream, None)
            for slab, stream in zip(slabs, streams, strict=True)
        ]
