"""What competes: the cross-validations of configurations, alone or with their probabilities averaged."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoseg.errors import DatasetError, SettingsError
from autoseg.evaluation.folder import commonest_ending, files_by_case
from autoseg.inference.export import PROBABILITIES_ENDING


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Cross-validation of one configuration: every case predicted by a model that did not train on it.

    Args:
        name: Name of the configuration.
        segmentations: Case -> its segmentation.
        probabilities: Case -> its probabilities; without them the candidate competes alone only.
        folds: Case -> the fold that held it out.
        temperature: What its logits are divided by before they are averaged with others'.
        cost: What predicting with it costs, in networks that have to run.
    """

    name: str
    segmentations: Mapping[str, Path]
    probabilities: Mapping[str, Path] = field(default_factory=dict)
    folds: Mapping[str, str] = field(default_factory=dict)
    temperature: float = 1.0
    cost: float = 1.0

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contender:
    """One candidate, or several whose probabilities are averaged.

    Args:
        members: Different candidates.
        weights: How often each one's probabilities count.
    """

    members: tuple[Candidate, ...]
    weights: tuple[int, ...]

    @classmethod
    def of(cls, *members: Candidate) -> Contender:
        """Members in the order in which they come first; one that comes several times counts as often."""
        counts = {member.name: sum(other.name == member.name for other in members) for member in members}
        return cls(members=tuple({member.name: member for member in members}.values()), weights=tuple(counts.values()))

    @property
    def member_names(self) -> tuple[str, ...]:
        """Names of the configurations."""
        return tuple(member.name for member in self.members)

    @property
    def name(self) -> str:
        """In words, e.g. "2d + 3d_fullres" or "2d + 2 x 3d_fullres"."""
        weighted = zip(self.member_names, self.weights, strict=True)
        return " + ".join(name if weight == 1 else f"{weight} x {name}" for name, weight in weighted)

    @property
    def cost(self) -> float:
        """Networks that have to run; weights cost nothing."""
        return sum(member.cost for member in self.members)

    def with_more(self, candidate: Candidate) -> Contender:
        """The same with one more vote for a candidate."""
        return Contender.of(
            *(m for m, weight in zip(self.members, self.weights, strict=True) for _ in range(weight)), candidate
        )


def check_candidates(candidates: Sequence[Candidate], references: Mapping[str, Path]) -> None:
    """Refuse candidates that cannot be compared.

    Raises:
        SettingsError: When there is none, two share a name, or one lacks cases.
    """
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


def can_be_averaged(candidate: Candidate) -> bool:
    """Whether the probabilities of all its cases are there."""
    return not set(candidate.segmentations) - set(candidate.probabilities)
