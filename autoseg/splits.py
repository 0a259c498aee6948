"""Cross-validation folds: seeded and equal to nnU-Net's, by groups, domains and strata, or taken from the dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from autoseg.codec import read_plain, write_json
from autoseg.dataset import Case
from autoseg.errors import ArtifactError, DatasetError, SettingsError

_SEED = 12345  # nnU-Net's

FoldName = int | Literal["all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Case ids to train on and case ids held out."""

    train: tuple[str, ...]
    val: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """How the cases of a dataset are split into folds.

    Args:
        num_folds: Folds wanted.
        split_by: "group" keeps the cases of a group together, "domain" holds out one domain per fold; None keeps
            groups together where there are any.
        stratify: Give every fold its share of each domain, or of the cases that have each label; None does neither.
    """

    num_folds: int = 5
    split_by: Literal["group", "domain"] | None = None
    stratify: Literal["domain", "labels"] | None = None

    def __post_init__(self) -> None:
        if self.num_folds < 2:
            raise ValueError(f"at least two folds are needed, got {self.num_folds}")
        if self.split_by == "domain" and self.stratify is not None:
            raise ValueError("folds that hold out a domain each cannot be stratified")


def make_splits(case_ids: Sequence[str], *, num_folds: int = 5) -> tuple[Fold, ...]:
    """Shuffle cases into folds exactly as nnU-Net does (scikit-learn's KFold with seed 12345 over sorted ids).

    Args:
        case_ids: At least two ids.
        num_folds: Folds wanted; fewer cases give as many folds as there are cases.

    Raises:
        DatasetError: With fewer than two cases, nothing can be held out.
    """
    ids = np.sort(np.asarray(list(case_ids)))
    if len(ids) < 2:
        raise DatasetError(f"cross-validation needs at least two labelled cases, found {len(ids)}")
    order = np.arange(len(ids))
    np.random.RandomState(_SEED).shuffle(order)
    folds = []
    for held_out in np.array_split(order, min(num_folds, len(ids))):
        mask = np.zeros(len(ids), dtype=bool)
        mask[held_out] = True
        folds.append(Fold(train=tuple(map(str, ids[~mask])), val=tuple(map(str, ids[mask]))))
    return tuple(folds)


def split_cases(
    cases: Sequence[Case], rule: SplitRule | None = None, *, labels: Mapping[str, Sequence[int]] | None = None
) -> tuple[Fold, ...]:
    """Make folds as a rule asks for; where nothing is grouped and nothing asked for, nnU-Net's.

    Groups and strata are dealt out one by one, the rarest stratum first, to the fold that has least of it (iterative
    stratification, Sechidis et al. 2011), in an order that the seed shuffles and the ids alone decide.

    Args:
        cases: Training cases.
        rule: What was asked for; None keeps groups together where there are any.
        labels: Case id -> labels that occur in it, to stratify by.

    Raises:
        DatasetError: When the cases have no groups or domains to split by, or too few.
    """
    rule = rule or SplitRule()
    ordered = sorted(cases, key=lambda case: case.id)
    if rule.split_by == "domain":
        return _one_domain_each(ordered)
    if rule.split_by == "group" and not any(case.group for case in ordered):
        raise DatasetError("no case has a group to split by; name groups in the column group of --table")
    if rule.stratify == "domain" and not any(case.domain for case in ordered):
        raise DatasetError("no case has a domain to stratify by; name domains in the column domain of --table")
    if rule.stratify is None and not any(case.group for case in ordered):
        return make_splits([case.id for case in ordered], num_folds=rule.num_folds)
    units: dict[tuple[str, str], list[Case]] = {}
    for case in ordered:
        units.setdefault(("group", case.group) if case.group else ("case", case.id), []).append(case)
    if len(units) < 2:
        raise DatasetError(f"all {len(ordered)} cases belong to one group; nothing can be held out")
    held_out = _deal([_Unit.of(unit, rule, labels or {}) for unit in units.values()], min(rule.num_folds, len(units)))
    return _folds([case.id for case in ordered], held_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """Cases that stay together, and the strata that they count for."""

    cases: tuple[str, ...]
    strata: frozenset[str]

    @classmethod
    def of(cls, cases: Sequence[Case], rule: SplitRule, labels: Mapping[str, Sequence[int]]) -> _Unit:
        strata: set[str] = set()
        for case in cases:
            if rule.stratify == "domain":
                strata.add(str(case.domain))
            elif rule.stratify == "labels":
                strata.update(str(value) for value in labels.get(case.id, ()))
        return cls(cases=tuple(case.id for case in cases), strata=frozenset(strata))


def _deal(units: Sequence[_Unit], num_folds: int) -> list[set[str]]:
    """Held-out cases per fold."""
    order = np.arange(len(units))
    np.random.RandomState(_SEED).shuffle(order)
    # Large units first, while there is room to balance them; the shuffled order decides among equals.
    waiting = sorted((units[int(index)] for index in order), key=lambda unit: -len(unit.cases))
    held_out: list[set[str]] = [set() for _ in range(num_folds)]
    having: list[Counter[str]] = [Counter() for _ in range(num_folds)]
    while waiting:
        left = Counter(stratum for unit in waiting for stratum in unit.strata)
        rarest = min(left, key=lambda stratum: (left[stratum], stratum)) if left else None
        for unit in [u for u in waiting if rarest is None or rarest in u.strata]:
            fold = min(range(num_folds), key=lambda f: (having[f][rarest] if rarest else 0, len(held_out[f]), f))
            held_out[fold].update(unit.cases)
            having[fold].update(dict.fromkeys(unit.strata, len(unit.cases)))
            waiting.remove(unit)
    return held_out


def _one_domain_each(cases: Sequence[Case]) -> tuple[Fold, ...]:
    if missing := [case.id for case in cases if case.domain is None]:
        raise DatasetError(f"case {missing[0]} has no domain; name domains in the column domain of --table")
    domains = sorted({case.domain for case in cases if case.domain is not None})
    if len(domains) < 2:
        raise DatasetError(f"all cases are from {domains[0] if domains else 'nowhere'}; a second domain is needed")
    domain_of: dict[str, str | None] = {}
    for case in cases:
        if case.group and domain_of.setdefault(case.group, case.domain) != case.domain:
            raise DatasetError(f"group {case.group} has cases in several domains; they cannot be held apart")
    return _folds(
        [case.id for case in cases], [{case.id for case in cases if case.domain == domain} for domain in domains]
    )


def _folds(ids: Sequence[str], held_out: Sequence[set[str]]) -> tuple[Fold, ...]:
    if empty := [number for number, cases in enumerate(held_out) if not cases]:
        raise DatasetError(f"fold {empty[0]} holds nothing out: there are too few cases for {len(held_out)} folds")
    return tuple(
        Fold(train=tuple(i for i in ids if i not in cases), val=tuple(i for i in ids if i in cases))
        for cases in held_out
    )


def crossing_groups(folds: Sequence[Fold], cases: Sequence[Case]) -> list[str]:
    """Groups that some fold trains on and holds out."""
    group_of = {case.id: case.group for case in cases if case.group is not None}
    found: set[str] = set()
    for fold in folds:
        trained, held_out = ({group_of[c] for c in ids if c in group_of} for ids in (fold.train, fold.val))
        found |= trained & held_out
    return sorted(found)


def read_splits(path: Path, case_ids: Sequence[str] | None = None) -> tuple[Fold, ...]:
    """Read a list of {"train": [...], "val": [...]} and check it.

    Args:
        path: The file.
        case_ids: Training cases of the dataset; None does not ask whether the named cases are among them.

    Raises:
        ArtifactError: When the file has another form.
        DatasetError: When it names an unknown case, or a fold trains on a case that it holds out.
    """
    data = read_plain(path)
    if not isinstance(data, list) or not data:
        raise ArtifactError(f"{path} must hold a list of folds")
    known = None if case_ids is None else set(case_ids)
    folds = []
    for number, entry in enumerate(data):
        if not _is_fold(entry):
            raise ArtifactError(f'{path}: fold {number} must be {{"train": [...], "val": [...]}} with case ids')
        fold = Fold(train=tuple(sorted(entry["train"])), val=tuple(sorted(entry["val"])))
        if known is not None and (unknown := sorted((set(fold.train) | set(fold.val)) - known)):
            raise DatasetError(f"{path}: fold {number} names {unknown[0]}, which is not a training case")
        if both := sorted(set(fold.train) & set(fold.val)):
            raise DatasetError(f"{path}: fold {number} trains on {both[0]} and holds it out as well")
        if not fold.train or not fold.val:
            raise DatasetError(f"{path}: fold {number} has no cases to train on or none held out")
        folds.append(fold)
    return tuple(folds)


def _is_fold(entry: object) -> bool:
    if not isinstance(entry, dict) or set(entry) != {"train", "val"}:
        return False
    return all(isinstance(ids, list) and all(isinstance(i, str) for i in ids) for ids in entry.values())


def write_splits(folds: Sequence[Fold], path: Path) -> None:
    """Write folds in nnU-Net's form."""
    write_json(list(folds), path)


def parse_fold(text: str, *, num_folds: int) -> FoldName:
    """Understand "fold0", "0" or "all".

    Raises:
        SettingsError: When it is none of them or there is no such fold.
    """
    word = text.strip().lower()
    if word in ("all", "fold_all"):
        return "all"
    digits = word.removeprefix("fold").removeprefix("_")
    if not digits.isdecimal() or int(digits) >= num_folds:
        raise SettingsError(f"there is no fold {text!r}; choose fold0 to fold{num_folds - 1}, or all")
    return int(digits)


def fold_dir_name(fold: FoldName) -> str:
    """Folder of a fold below results/<configuration>: fold0, fold1, ..., fold_all."""
    return "fold_all" if fold == "all" else f"fold{fold}"
