"""Cross-validation folds: seeded, equal to nnU-Net's, or taken from the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from autoseg.codec import read_plain, write_json
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
