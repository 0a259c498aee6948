"""Which configuration, or which two together, predicts best in cross-validation, and what to clean up afterwards.

The search is nnU-Net's (Isensee et al., Nature Methods 2021): single configurations and pairs, then largest components.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import blosc2
import numpy as np

from autoseg.errors import DatasetError, SettingsError
from autoseg.evaluation.folder import IMAGE_ENDINGS, commonest_ending, declared_labels, files_by_case
from autoseg.evaluation.report import CaseScore, Evaluation, score_case, summarize
from autoseg.image import Segmentation, read_segmentation
from autoseg.inference.ensemble import average_probabilities
from autoseg.inference.export import PROBABILITIES_ENDING, read_probabilities
from autoseg.labels import LabelScheme
from autoseg.postprocessing.steps import PostprocessingStep, apply_postprocessing

Rule = Literal["nested", "nnunet"]
Steps = tuple[PostprocessingStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Cross-validation of one configuration: every case predicted by a model that did not train on it.

    Args:
        name: Name of the configuration.
        segmentations: Case -> its segmentation.
        probabilities: Case -> its probabilities; without them the candidate competes alone only.
        folds: Case -> the fold that held it out.
    """

    name: str
    segmentations: Mapping[str, Path]
    probabilities: Mapping[str, Path] = field(default_factory=dict)
    folds: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_folder(cls, name: str, folder: Path) -> Candidate:
        """Collect a cross-validation from folders fold0 (or fold_0), fold1, ..., each with or without validation/.

        Raises:
            DatasetError: When a case was held out twice or there is nothing.
        """
        segmentations: dict[str, Path] = {}
        probabilities: dict[str, Path] = {}
        folds: dict[str, str] = {}
        for fold_dir in sorted(p for p in folder.iterdir() if re.fullmatch(r"fold_?\d+", p.name)):
            held_out = fold_dir / "validation" if (fold_dir / "validation").is_dir() else fold_dir
            for case, path in files_by_case(held_out, (commonest_ending(held_out),)).items():
                if case in segmentations:
                    raise DatasetError(f"{name}: case {case} is held out twice, {segmentations[case]} and {path}")
                segmentations[case], folds[case] = path, fold_dir.name
            probabilities |= files_by_case(held_out, (PROBABILITIES_ENDING, ".npz"))
        if not segmentations:
            raise DatasetError(f"{folder} has no folders fold0, fold1, ... with segmentations")
        return cls(name=name, segmentations=segmentations, probabilities=probabilities, folds=folds)


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateScore:
    """How one candidate, or a pair, did before any postprocessing.

    Args:
        name: "2d", or "2d + 3d_fullres".
        members: Configurations whose probabilities were averaged.
        evaluation: Scores of every case.
    """

    name: str
    members: tuple[str, ...]
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
        candidates: Single configurations, then pairs, in the order they were tried.
        members: Configurations chosen.
        postprocessing: Operations chosen, in order.
        score_before: Mean Dice of the winner without postprocessing, over all cases.
        score_after: Likewise with postprocessing.
        nested_score: Mean Dice when each fold is scored with what was chosen without it; None under "nnunet", or
            where there are fewer than two folds.
        evaluation: Scores of the winner after postprocessing.
        reasons: One sentence per decision.
    """

    rule: Rule
    candidates: tuple[CandidateScore, ...]
    members: tuple[str, ...]
    postprocessing: Steps
    score_before: float | None
    score_after: float | None
    nested_score: float | None
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
) -> Selection:
    """Choose the best single configuration or pair, then the postprocessing that helps it.

    One case is in memory at a time, apart from compressed segmentations.

    Args:
        candidates: Cross-validations, or name -> folder as :meth:`Candidate.from_folder` reads it. The first of
            equally good ones wins.
        references: Case -> reference segmentation, or their folder.
        labels: What is scored; None reads the dataset.json beside a folder of references.
        rule: How the reported score is made; see :class:`Selection`.

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
    _check_candidates(candidates, references)
    table = _ScoreTable(references, labels)
    contenders, reasons = _contenders(candidates)
    choice = _choose(table, contenders, list(references))
    nested = None
    if rule == "nested":
        nested, reason = _nested_score(table, contenders, candidates, list(references))
        reasons.append(reason)
    return Selection(
        rule=rule,
        candidates=choice.scores,
        members=choice.winner.member_names,
        postprocessing=choice.steps,
        score_before=choice.before.mean["dice"],
        score_after=choice.after.mean["dice"],
        nested_score=nested,
        evaluation=choice.after,
        reasons=(*choice.reasons, *reasons),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Contender:
    """One candidate, or several whose probabilities are averaged."""

    members: tuple[Candidate, ...]

    @property
    def member_names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)

    @property
    def name(self) -> str:
        return " + ".join(self.member_names)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """Outcome of one search on some cases."""

    scores: tuple[CandidateScore, ...]
    winner: _Contender
    steps: Steps
    before: Evaluation
    after: Evaluation
    reasons: tuple[str, ...]


class _ScoreTable:
    """Scores per contender, postprocessing and case, each computed once: folds of the nested rule share nearly all."""

    def __init__(self, references: Mapping[str, Path], labels: LabelScheme) -> None:
        self.labels = labels
        self._references = {case: _Packed(read_segmentation(path)) for case, path in references.items()}
        self._segmentations: dict[tuple[str, Steps, str], _Packed] = {}
        self._scores: dict[tuple[str, Steps, str], tuple[CaseScore, ...]] = {}

    def evaluation(self, contender: _Contender, steps: Steps, cases: Iterable[str]) -> Evaluation:
        """Scores of some cases after some postprocessing."""
        return summarize(row for case in cases for row in self.rows(contender, steps, case))

    def rows(self, contender: _Contender, steps: Steps, case: str) -> tuple[CaseScore, ...]:
        """Scores of one case."""
        key = (contender.name, steps, case)
        if key not in self._scores:
            prediction = self._segmentation(contender, steps, case, keep=not steps)
            reference = self._references[case].unpack()
            self._scores[key] = score_case(case, reference.array, prediction.array, self.labels)
        return self._scores[key]

    def _segmentation(self, contender: _Contender, steps: Steps, case: str, *, keep: bool) -> Segmentation:
        """Segmentation of a case; kept, compressed, where later steps will start from it."""
        key = (contender.name, steps, case)
        if key in self._segmentations:
            return self._segmentations[key].unpack()
        if steps:
            source = self._segmentation(contender, steps[:-1], case, keep=True)
            segmentation = apply_postprocessing(steps[-1:], source)
        else:
            segmentation = self._predicted(contender, case)
        if keep:
            self._segmentations[key] = _Packed(segmentation)
        return segmentation

    def _predicted(self, contender: _Contender, case: str) -> Segmentation:
        reference = self._references[case]
        if len(contender.members) == 1:
            path = contender.members[0].segmentations[case]
            segmentation = read_segmentation(path)
            if segmentation.array.shape != reference.geometry.shape:
                found = segmentation.array.shape
                raise DatasetError(f"{path} has shape {found}, the reference {reference.geometry.shape}")
            return segmentation
        parts = (self._read(member.probabilities[case], reference) for member in contender.members)
        mean = average_probabilities(parts, [1.0] * len(contender.members))
        return Segmentation(array=self.labels.segmentation(mean), geometry=reference.geometry)

    def _read(self, path: Path, reference: _Packed) -> np.ndarray:
        probabilities = read_probabilities(path)
        expected = (self.labels.num_outputs, *reference.geometry.shape)
        if probabilities.size != np.prod(expected):  # nnU-Net gives 2D images an axis of length one
            raise DatasetError(f"{path} has shape {probabilities.shape}, expected {expected}")
        return probabilities.reshape(expected)


class _Packed:
    """A segmentation in memory at a fraction of its size."""

    def __init__(self, segmentation: Segmentation) -> None:
        self.geometry = segmentation.geometry
        self._array = blosc2.asarray(np.ascontiguousarray(segmentation.array))

    def unpack(self) -> Segmentation:
        return Segmentation(array=self._array[:], geometry=self.geometry)


def _check_candidates(candidates: Sequence[Candidate], references: Mapping[str, Path]) -> None:
    if not candidates or not references:
        raise SettingsError("selection needs at least one candidate and one reference")
    names = [candidate.name for candidate in candidates]
    if len(set(names)) != len(names):
        raise SettingsError(f"two candidates share a name: {', '.join(names)}")
    for candidate in candidates:
        if missing := sorted(set(references) - set(candidate.segmentations)):
            raise SettingsError(
                f"the cross-validation of {candidate.name} lacks {len(missing)} case(s): {', '.join(missing[:5])}"
            )


def _contenders(candidates: Sequence[Candidate]) -> tuple[list[_Contender], list[str]]:
    """Singles, then unordered pairs, and why a pair cannot compete."""
    contenders = [_Contender(members=(candidate,)) for candidate in candidates]
    reasons = []
    for pair in itertools.combinations(candidates, 2):
        lacking = [c.name for c in pair if set(c.segmentations) - set(c.probabilities)]
        contender = _Contender(members=pair)
        if lacking:
            reasons.append(f"{contender.name} was not tried: {lacking[0]} has no probabilities of all cases.")
        else:
            contenders.append(contender)
    return contenders, reasons


def _choose(table: _ScoreTable, contenders: Sequence[_Contender], cases: Sequence[str]) -> _Choice:
    """Best contender on some cases, then its postprocessing on the same cases."""
    evaluations = [table.evaluation(contender, (), cases) for contender in contenders]
    # max() keeps the first of equals
    best = max(range(len(contenders)), key=lambda i: _ranked(evaluations[i].mean["dice"]))
    winner = contenders[best]
    scores = tuple(
        CandidateScore(name=c.name, members=c.member_names, evaluation=e)
        for c, e in zip(contenders, evaluations, strict=True)
    )
    others = sorted((s for s in scores if s.name != winner.name), key=lambda s: -_ranked(s.dice))
    reason = f"{winner.name} has the highest mean Dice in cross-validation, {_in_words(scores[best].dice)}"
    reason += f"; next is {others[0].name} with {_in_words(others[0].dice)}." if others else "; nothing else competes."
    steps, after, decisions = _search_postprocessing(table, winner, cases)
    return _Choice(
        scores=scores,
        winner=winner,
        steps=steps,
        before=evaluations[best],
        after=after,
        reasons=(reason, *decisions),
    )


def _search_postprocessing(
    table: _ScoreTable, winner: _Contender, cases: Sequence[str]
) -> tuple[Steps, Evaluation, list[str]]:
    """Largest component of the whole foreground, then of each label or region: each is kept if it helps."""
    steps: Steps = ()
    current = table.evaluation(winner, steps, cases)
    decisions = []
    joint = PostprocessingStep(name="keep_largest", values=table.labels.foreground_values)
    trial = table.evaluation(winner, (joint,), cases)
    worse = [name for name, means in trial.labels.items() if _rises(means["dice"], current.labels[name]["dice"])]
    if _rises(current.mean["dice"], trial.mean["dice"]) and not worse:
        decisions.append(f"Only the largest component of the foreground is kept: {_change(current, trial, None)}.")
        steps, current = (joint,), trial
    else:
        harm = f", and {worse[0]} loses" if worse else ""
        decisions.append(
            f"Components of the foreground all stay: keeping the largest gives {_change(current, trial, None)}{harm}."
        )
    for target in table.labels.targets if len(table.labels.targets) > 1 else ():
        single = PostprocessingStep(name="keep_largest", values=target.values)
        trial = table.evaluation(winner, (*steps, single), cases)
        change = _change(current, trial, target.name)
        if _rises(current.labels[target.name]["dice"], trial.labels[target.name]["dice"]):
            decisions.append(f"Only the largest component of {target.name} is kept: {change}.")
            steps, current = (*steps, single), trial
        else:
            decisions.append(f"Components of {target.name} all stay: keeping the largest gives {change}.")
    return steps, current, decisions


def _nested_score(
    table: _ScoreTable, contenders: Sequence[_Contender], candidates: Sequence[Candidate], cases: Sequence[str]
) -> tuple[float | None, str]:
    """Mean Dice when each fold is scored with what was chosen on the other folds, and a sentence about it."""
    folds = candidates[0].folds
    names = sorted({folds[case] for case in cases if case in folds})
    if len(names) < 2 or any(case not in folds for case in cases):
        return None, "The score is not nested: that takes at least two folds and the fold of every case."
    if any(dict(candidate.folds) != dict(folds) for candidate in candidates):
        return None, "The score is not nested: the configurations were trained on different folds."
    rows: list[CaseScore] = []
    chosen = []
    for name in names:
        choice = _choose(table, contenders, [case for case in cases if folds[case] != name])
        held_out = (case for case in cases if folds[case] == name)
        rows.extend(row for case in held_out for row in table.rows(choice.winner, choice.steps, case))
        chosen.append(choice.winner.name)
    score = summarize(rows).mean["dice"]
    agreeing = "the same winner each time" if len(set(chosen)) == 1 else f"winners {', '.join(chosen)}"
    return score, f"Chosen without each fold and scored on it, the mean Dice is {_in_words(score)}, with {agreeing}."


def _ranked(dice: float | None) -> float:
    return -1.0 if dice is None else dice


def _rises(before: float | None, after: float | None) -> bool:
    """Whether a score strictly increases; what is undefined never does."""
    return before is not None and after is not None and after > before


def _change(before: Evaluation, after: Evaluation, label: str | None) -> str:
    first, second = (e.mean["dice"] if label is None else e.labels[label]["dice"] for e in (before, after))
    return f"Dice {_in_words(first)} -> {_in_words(second)}"


def _in_words(dice: float | None) -> str:
    return "undefined" if dice is None else f"{dice:.4f}"
