"""Selection from files: candidates, references and a rule in; the choice, its scores and its reasons out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from autoseg.errors import SettingsError
from autoseg.evaluation.folder import IMAGE_ENDINGS, declared_labels, files_by_case
from autoseg.evaluation.intervals import Interval, bootstrap_means
from autoseg.evaluation.measures import parse_metrics
from autoseg.evaluation.report import Evaluation, with_spread
from autoseg.evaluation.selection.candidates import Candidate, can_be_averaged, check_candidates
from autoseg.evaluation.selection.search import NNUNETS_RULE, SearchRule, Trial, choose, in_words, nested
from autoseg.evaluation.selection.table import ScoreTable, overall
from autoseg.labels import LabelScheme
from autoseg.postprocessing.steps import Steps

Rule = Literal["nested", "nnunet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateScore:
    """How one candidate, or an ensemble, did before any postprocessing.

    Args:
        name: "2d", "2d + 3d_fullres" or "2d + 2 x 3d_fullres".
        members: Configurations whose probabilities were averaged.
        weights: How often each counted.
        cost: Networks per fold that have to run.
        score: What was maximized.
        p_value: That it differs from the best by chance, case by case.
        evaluation: Scores of every case.
    """

    name: str
    members: tuple[str, ...]
    weights: tuple[int, ...]
    cost: float
    score: float | None
    p_value: float
    evaluation: Evaluation

    @property
    def dice(self) -> float | None:
        """Mean foreground Dice; None where it is undefined."""
        return self.evaluation.mean["dice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What was chosen, and why.

    Args:
        rule: "nnunet" scores the choice on the cases it was made with; "nested" chooses again without each fold and
            scores that fold, so that ``score`` is not flattered by the search.
        metrics: What was maximized: the mean of these.
        candidates: Single configurations, pairs, then larger ensembles, in the order they were tried.
        members: Configurations chosen.
        weights: How often each counts.
        postprocessing: Operations chosen, in order.
        trials: Operations that were tried.
        score_before: Mean score of the winner without postprocessing, over all cases.
        score_after: Likewise with postprocessing.
        nested_score: Mean score when each fold is scored with what was chosen without it; None under "nnunet", or
            where there are fewer than two folds.
        nested_interval: 95 % confidence interval of ``nested_score``.
        nested_winners: Fold -> what was chosen without it.
        evaluation: Scores of the winner after postprocessing.
        reasons: One sentence per decision.
    """

    rule: Rule
    metrics: tuple[str, ...]
    candidates: tuple[CandidateScore, ...]
    members: tuple[str, ...]
    weights: tuple[int, ...]
    postprocessing: Steps
    trials: tuple[Trial, ...]
    score_before: float | None
    score_after: float | None
    nested_score: float | None
    nested_interval: Interval | None
    nested_winners: dict[str, str]
    evaluation: Evaluation
    reasons: tuple[str, ...]

    @property
    def score(self) -> float | None:
        """The score to report."""
        return self.score_after if self.nested_score is None else self.nested_score


def select(
    candidates: Sequence[Candidate] | Mapping[str, Path],
    references: Mapping[str, Path] | Path,
    labels: LabelScheme | None = None,
    rule: Rule = "nested",
    *,
    metric: str = "dice",
    search: SearchRule | None = None,
    images: Mapping[str, tuple[Path, ...]] | None = None,
    frames: Mapping[str, int | None] | None = None,
) -> Selection:
    """Choose the best configuration or ensemble, then the postprocessing that helps it.

    One case is in memory at a time, apart from compressed segmentations.

    Args:
        candidates: Cross-validations, or name -> folder as :meth:`Candidate.from_folder` reads it. The first of
            equally good ones wins.
        references: Case -> reference segmentation, or their folder.
        labels: What is scored; None reads the dataset.json beside a folder of references.
        rule: How the reported score is made; see :class:`Selection`. "nnunet" also searches as nnU-Net does.
        metric: What is maximized: metrics separated by commas, the mean of which counts.
        search: How far the search goes; None takes the rule's own.
        images: Case -> image files, for postprocessing that looks at intensities.
        frames: Case -> point in time of its files, where these hold several.

    Raises:
        SettingsError: When there is no candidate, two share a name, one lacks cases, or labels are unknown.
        DatasetError: When a file cannot be read or does not fit its reference.
        ArtifactError: When probabilities cannot be read.
    """
    if rule not in ("nested", "nnunet"):
        raise SettingsError(f"there is no selection rule {rule!r}; choose nested or nnunet")
    if isinstance(candidates, Mapping):
        candidates = [Candidate.from_folder(name, folder) for name, folder in candidates.items()]
    if isinstance(references, Path):
        declared, ending = declared_labels(references)
        labels = labels or declared
        references = files_by_case(references, (ending,) if ending else IMAGE_ENDINGS)
    if labels is None:
        raise SettingsError("selection needs the labels: give them, or a dataset.json beside the references")
    check_candidates(candidates, references)
    rule_of_search = search or (NNUNETS_RULE if rule == "nnunet" else SearchRule())
    metrics = parse_metrics(metric)
    table = ScoreTable(references, labels, metrics, images, frames)
    cases = list(references)
    choice = choose(table, candidates, cases, rule_of_search)
    estimate = _Estimate(reason="")
    if rule == "nested":
        estimate = _nested_estimate(table, candidates, cases, rule_of_search)
    after = table.evaluation(choice.winner, choice.steps, cases)
    scores = tuple(
        CandidateScore(
            name=tried.contender.name,
            members=tried.contender.member_names,
            weights=tried.contender.weights,
            cost=tried.contender.cost,
            score=_finite(tried.score),
            p_value=tried.p_value,
            evaluation=table.evaluation(tried.contender, (), cases),
        )
        for tried in choice.tried
    )
    return Selection(
        rule=rule,
        metrics=tuple(m.name for m in metrics),
        candidates=scores,
        members=choice.winner.member_names,
        weights=choice.winner.weights,
        postprocessing=choice.steps,
        trials=choice.trials,
        score_before=_finite(overall(table.scores(choice.winner, (), cases))),
        score_after=_finite(overall(table.scores(choice.winner, choice.steps, cases))),
        nested_score=estimate.score,
        nested_interval=estimate.interval,
        nested_winners=estimate.winners,
        evaluation=with_spread(after),
        reasons=(*choice.reasons, *_left_out(candidates), *filter(None, [estimate.reason])),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Estimate:
    """The nested score, or why there is none."""

    reason: str
    score: float | None = None
    interval: Interval | None = None
    winners: dict[str, str] = field(default_factory=dict)


def _nested_estimate(
    table: ScoreTable, candidates: Sequence[Candidate], cases: Sequence[str], rule: SearchRule
) -> _Estimate:
    """Score of each fold with what was chosen on the other folds."""
    folds = candidates[0].folds
    if any(case not in folds for case in cases) or len({folds[case] for case in cases}) < 2:
        return _Estimate(reason="The score is not nested: that takes at least two folds and the fold of every case.")
    if any(dict(candidate.folds) != dict(folds) for candidate in candidates):
        return _Estimate(reason="The score is not nested: the configurations were trained on different folds.")
    outcome = nested(table, candidates, cases, folds, rule)
    score = _finite(overall(outcome.scores))
    _, interval = bootstrap_means(outcome.scores)
    winners = {name: choice.winner.name for name, choice in outcome.choices.items()}
    agreeing = (
        "the same winner each time" if len(set(winners.values())) == 1 else f"winners {', '.join(winners.values())}"
    )
    spread = "" if interval is None else f" (95 % interval {in_words(interval[0])} to {in_words(interval[1])})"
    reason = (
        f"Chosen without each fold and scored on it, the mean score is {in_words(score)}{spread}, with {agreeing}: "
        "this is what to expect on new cases of the same kind."
    )
    return _Estimate(reason=reason, score=score, interval=interval, winners=winners)


def _left_out(candidates: Sequence[Candidate]) -> list[str]:
    """Why an ensemble was not tried."""
    lacking = [candidate.name for candidate in candidates if not can_be_averaged(candidate)]
    if not lacking or len(candidates) < 2:
        return []
    pairs = [
        f"{first.name} + {second.name}"
        for position, first in enumerate(candidates)
        for second in candidates[position + 1 :]
        if first.name in lacking or second.name in lacking
    ]
    return [f"{pair} was not tried: {lacking[0]} has no probabilities of all cases." for pair in pairs]


def _finite(score: float) -> float | None:
    return float(score) if np.isfinite(score) else None
