"""The search itself, on scores alone: which contender, which postprocessing, and how far the result can be believed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.errors import SettingsError
from autoseg.evaluation.intervals import paired_p_value
from autoseg.evaluation.selection.candidates import Candidate, Contender, can_be_averaged
from autoseg.evaluation.selection.table import ScoreSource, overall, per_case, per_target
from autoseg.labels import Target
from autoseg.postprocessing.steps import POSTPROCESSING, PostprocessingStep, Steps

_SIGNIFICANT = 0.05
_FEW = 4  # candidates, all of whose sets are tried: fifteen contenders
_LEAST_GAIN = 1e-4  # what postprocessing must add to be worth a step


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRule:
    """How the search goes about.

    Args:
        max_votes: Members of an ensemble, each counted as often as its weight; 2 tries pairs only.
        prefers_cheaper: Whether a cheaper contender wins that does not differ from the best.
        margin: Largest loss of a cheaper contender that still counts as no difference.
        operations: Postprocessing that is tried for every label.
        fixed_steps: Postprocessing that the user decided; nothing is tried then.
        is_nnunets: Search for postprocessing as nnU-Net does.
    """

    max_votes: int = 5
    prefers_cheaper: bool = True
    margin: float = 0.005
    operations: tuple[str, ...] = ("keep_largest", "fill_holes", "remove_small")
    fixed_steps: Steps | None = None
    is_nnunets: bool = False

    def __post_init__(self) -> None:
        for name in self.operations:
            POSTPROCESSING.get(name)
        if self.max_votes < 1 or self.margin < 0:
            raise SettingsError(f"an ensemble has at least one member, found {self.max_votes}; a margin is positive")


NNUNETS_RULE = SearchRule(max_votes=2, prefers_cheaper=False, operations=("keep_largest",), is_nnunets=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tried:
    """A contender and its score.

    Args:
        contender: Who.
        score: What is to be maximized.
        p_value: That it differs from the best by chance, case by case; 1 for the best.
    """

    contender: Contender
    score: float
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Postprocessing that was tried.

    Args:
        step: What.
        label: The target whose score decides; None for all together.
        before: Its score without.
        after: Its score with it.
        is_kept: Whether it stays.
    """

    step: PostprocessingStep
    label: str | None
    before: float
    after: float
    is_kept: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choice:
    """Outcome of one search on some cases.

    Args:
        tried: Contenders in the order in which they were tried.
        winner: The one that was taken.
        best: The one with the highest score.
        steps: Postprocessing that was kept.
        trials: Postprocessing that was tried.
        reasons: One sentence per decision.
    """

    tried: tuple[Tried, ...]
    winner: Contender
    best: Contender
    steps: Steps
    trials: tuple[Trial, ...]
    reasons: tuple[str, ...]


def choose(
    source: ScoreSource,
    candidates: Sequence[Candidate],
    cases: Sequence[str],
    rule: SearchRule,
    *,
    is_reported: bool = True,
) -> Choice:
    """Search the best contender on some cases, then its postprocessing on the same cases.

    Singles, pairs and, of few candidates, larger ensembles are tried first. Then the best ensemble is given one more
    vote of each candidate as long as that helps (Caruana et al., ICML 2004): any size and weight can come out.

    Args:
        source: Scores.
        candidates: What competes.
        cases: Those that are looked at.
        rule: How the search goes about.
        is_reported: Whether somebody will read p-values and reasons; where cheaper ones may win they are made anyway.
    """
    tests = is_reported or rule.prefers_cheaper
    contenders = contenders_of(candidates, rule)
    scores = {contender.name: source.scores(contender, (), cases) for contender in contenders}

    def score_of(contender: Contender) -> float:
        return overall(scores[contender.name])

    # max() keeps the first of equals
    averageable = [candidate for candidate in candidates if can_be_averaged(candidate)]
    leader = max((c for c in contenders if len(c.members) > 1), key=score_of, default=None)
    while leader is not None and sum(leader.weights) < rule.max_votes:
        more = (leader.with_more(member) for member in averageable)
        grown = [c for c in more if c.name not in scores and math.gcd(*c.weights) == 1]
        for contender in grown:
            scores[contender.name] = source.scores(contender, (), cases)
            contenders.append(contender)
        following = max(grown, key=score_of, default=leader)
        leader = following if score_of(following) > score_of(leader) else None
    best = max(contenders, key=score_of)
    p_values = {name: _p_value(scores[best.name], table) for name, table in scores.items()} if tests else {}
    winner = _cheapest_equal(contenders, scores, best, p_values, rule) if rule.prefers_cheaper else best
    reasons = _reasons_for(contenders, scores, best, winner, p_values) if tests else []
    steps, trials, decisions = search_postprocessing(source, winner, cases, rule)
    tried = (Tried(contender=c, score=overall(scores[c.name]), p_value=p_values.get(c.name, 1.0)) for c in contenders)
    return Choice(
        tried=tuple(tried),
        winner=winner,
        best=best,
        steps=steps,
        trials=tuple(trials),
        reasons=(*reasons, *decisions),
    )


def contenders_of(candidates: Sequence[Candidate], rule: SearchRule) -> list[Contender]:
    """Singles, then unordered pairs of those that have probabilities, then larger sets as long as they are few."""
    found = [Contender.of(candidate) for candidate in candidates]
    averageable = [candidate for candidate in candidates if can_be_averaged(candidate)]
    for size in range(2, min(rule.max_votes, len(averageable)) + 1):
        if size == 2 or len(averageable) <= _FEW:
            found += [Contender.of(*members) for members in itertools.combinations(averageable, size)]
    return found


def search_postprocessing(
    source: ScoreSource, winner: Contender, cases: Sequence[str], rule: SearchRule
) -> tuple[Steps, list[Trial], list[str]]:
    """Try operations on the whole foreground, then on each label or region: each is kept only if it helps."""
    if rule.fixed_steps is not None:
        named = [step.describe(source.labels) for step in rule.fixed_steps]
        return (
            rule.fixed_steps,
            [],
            [f"{text}, as you asked." for text in named] or ["No postprocessing, as you asked."],
        )
    search = _PostprocessingSearch(source, winner, cases, rule)
    names = list(rule.operations)
    if not can_be_averaged_all(winner):
        names = [name for name in names if POSTPROCESSING.get(name).on == "segmentation"]
    # Operations on probabilities come first, because they are applied first.
    for name in (name for name in names if POSTPROCESSING.get(name).on == "probabilities"):
        search.try_on_targets(name)
    if "keep_largest" in names:
        search.try_on_foreground("keep_largest")
    for name in (name for name in names if POSTPROCESSING.get(name).on == "segmentation"):
        # With one target the foreground was that target, and with nnU-Net's rule nothing more is tried.
        if name != "keep_largest" or len(source.labels.targets) > 1:
            search.try_on_targets(name)
    return search.steps, search.trials, search.decisions


def can_be_averaged_all(contender: Contender) -> bool:
    """Whether the probabilities of all members are there."""
    return all(can_be_averaged(member) for member in contender.members)


class _PostprocessingSearch:
    """Steps that were kept so far, and how good they are."""

    def __init__(self, source: ScoreSource, winner: Contender, cases: Sequence[str], rule: SearchRule) -> None:
        self.steps: Steps = ()
        self.trials: list[Trial] = []
        self.decisions: list[str] = []
        self._source, self._winner, self._cases, self._rule = source, winner, cases, rule
        self._current = self._scores(())

    def try_on_foreground(self, name: str) -> None:
        """Keep it if the mean rises and no target loses."""
        step = PostprocessingStep(name=name, values=self._source.labels.foreground_values)
        trial = self._scores((*self.steps, step))
        before, after = per_target(self._current), per_target(trial)
        targets = self._source.labels.targets
        worse = [t.name for t, a, b in zip(targets, before, after, strict=True) if b < a]
        gains = self._gain(overall(self._current), overall(trial)) and not worse
        self._record(step, None, overall(self._current), overall(trial), gains=gains, harmed=worse)
        if gains:
            self.steps, self._current = (*self.steps, step), trial

    def try_on_targets(self, name: str) -> None:
        """Keep it, with its best parameters, for every target whose own score rises."""
        targets: Sequence[Target] = self._source.labels.targets
        if not POSTPROCESSING.get(name).per_label:
            targets = [Target(name="foreground", values=self._source.labels.foreground_values)]
        for position, target in enumerate(targets):
            self._try_on_target(name, position if POSTPROCESSING.get(name).per_label else None, target)

    def _try_on_target(self, name: str, position: int | None, target: Target) -> None:
        def score(table: np.ndarray) -> float:
            return overall(table) if position is None else float(per_target(table)[position])

        trials = POSTPROCESSING.get(name).trials
        parameters = [dict(zip(trials, values, strict=True)) for values in itertools.product(*trials.values())]
        best: tuple[float, PostprocessingStep, np.ndarray] | None = None
        for given in parameters:
            step = PostprocessingStep(name=name, values=target.values, parameters=given)
            table = self._scores((*self.steps, step))
            after = score(table)
            if best is None or after > best[0]:
                best = after, step, table
            if len(parameters) > 1:
                self.trials.append(
                    Trial(step=step, label=target.name, before=score(self._current), after=after, is_kept=False)
                )
        assert best is not None  # there is always the trial without parameters
        after, step, table = best
        gains = self._gain(score(self._current), after)
        if not self._rule.is_nnunets:  # nnU-Net looks at the label's own score only
            gains = gains and overall(table) >= overall(self._current)
        self._record(step, target.name, score(self._current), after, gains=gains)
        if gains:
            self.steps, self._current = (*self.steps, step), table

    def _gain(self, before: float, after: float) -> bool:
        least = 0.0 if self._rule.is_nnunets else _LEAST_GAIN
        return bool(np.isfinite(before) and np.isfinite(after) and after > before + least)

    def _scores(self, steps: Steps) -> np.ndarray:
        return self._source.scores(self._winner, steps, self._cases)

    def _record(
        self,
        step: PostprocessingStep,
        label: str | None,
        before: float,
        after: float,
        *,
        gains: bool,
        harmed: Sequence[str] = (),
    ) -> None:
        self.trials.append(Trial(step=step, label=label, before=before, after=after, is_kept=gains))
        says = step.describe(self._source.labels)
        change = f"{in_words(before)} -> {in_words(after)}"
        if gains:
            self.decisions.append(f"{says}: {change}.")
        elif self._rule.is_nnunets or np.isfinite(before):
            harm = f", and {harmed[0]} loses" if harmed else ""
            self.decisions.append(f"Not kept: {says[0].lower()}{says[1:]} ({change}{harm}).")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NestedOutcome:
    """What the search comes to on cases that it did not see.

    Args:
        scores: float64 (cases, targets) of every case, by what was chosen without its fold.
        choices: Fold -> what was chosen without it.
    """

    scores: np.ndarray
    choices: Mapping[str, Choice]


def nested(
    source: ScoreSource,
    candidates: Sequence[Candidate],
    cases: Sequence[str],
    folds: Mapping[str, str],
    rule: SearchRule,
) -> NestedOutcome:
    """Repeat the search without each fold, and score that fold with what came out (Varma and Simon 2006).

    Args:
        source: Scores.
        candidates: What competes.
        cases: All cases.
        folds: Case -> its fold.
        rule: How the search goes about.
    """
    scores: dict[str, np.ndarray] = {}
    choices = {}
    for name in sorted({folds[case] for case in cases}):
        others = [case for case in cases if folds[case] != name]
        choice = choose(source, candidates, others, rule, is_reported=False)
        held_out = [case for case in cases if folds[case] == name]
        scores |= dict(zip(held_out, source.scores(choice.winner, choice.steps, held_out), strict=True))
        choices[name] = choice
    return NestedOutcome(scores=np.asarray([scores[case] for case in cases]), choices=choices)


def in_words(score: float | None) -> str:
    """A score with four digits."""
    return "undefined" if score is None or not np.isfinite(score) else f"{abs(score):.4f}"


def _p_value(best: np.ndarray, other: np.ndarray) -> float:
    return paired_p_value(per_case(best) - per_case(other), resamples=2000)


def _cheapest_equal(
    contenders: Sequence[Contender],
    scores: Mapping[str, np.ndarray],
    best: Contender,
    p_values: Mapping[str, float],
    rule: SearchRule,
) -> Contender:
    """The cheapest contender that loses no more than the margin and does not differ by the paired test."""
    top = overall(scores[best.name])

    def is_equal(contender: Contender) -> bool:
        loss = top - overall(scores[contender.name])
        return loss <= rule.margin and p_values[contender.name] > _SIGNIFICANT

    cheaper = [c for c in contenders if c.cost < best.cost and is_equal(c)]
    return min(cheaper, key=lambda c: (c.cost, -overall(scores[c.name])), default=best)


def _reasons_for(
    contenders: Sequence[Contender],
    scores: Mapping[str, np.ndarray],
    best: Contender,
    winner: Contender,
    p_values: Mapping[str, float],
) -> list[str]:
    top = in_words(overall(scores[best.name]))
    others = sorted((c for c in contenders if c is not best), key=lambda c: -overall(scores[c.name]))
    reason = f"{best.name} has the best mean score in cross-validation, {top}"
    if others:
        second = others[0]
        score, p_value = in_words(overall(scores[second.name])), p_values[second.name]
        reason += f"; next is {second.name} with {score} (p = {p_value:.2g} for a difference by chance)."
    else:
        reason += "; nothing else competes."
    if winner is best:
        return [reason]
    return [
        reason,
        f"{winner.name} is taken all the same: it needs {winner.cost:g} network(s) per fold instead of {best.cost:g}, "
        f"and {in_words(overall(scores[winner.name]))} does not differ from {top} (p = {p_values[winner.name]:.2g}).",
    ]
