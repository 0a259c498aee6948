"""Which folds a workspace has: made once, never changed under models that were trained on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoseg.dataset import Dataset
from autoseg.errors import SettingsError
from autoseg.progress import Progress
from autoseg.splits import Fold, SplitRule, crossing_groups, read_splits, split_cases, write_splits
from autoseg.workspace import Workspace


def settle_folds(
    dataset: Dataset,
    space: Workspace,
    asked: SplitRule | None,
    labels: Mapping[str, Sequence[int]],
    progress: Progress,
) -> tuple[Fold, ...]:
    """Take the dataset's own folds, keep those of the workspace while they fit, or make new ones.

    Args:
        dataset: Its training cases, and perhaps a splits_final.json.
        space: Where splits.json lies.
        asked: What the present command asks for; None goes on with what was asked for before.
        labels: Case id -> labels that occur in it.
        progress: Told what is left out, or made anew.

    Raises:
        SettingsError: When other folds are wanted than those that models were trained on, or two ways to make them
            contradict each other.
        DatasetError: When the cases cannot be split that way.
    """
    given = dataset.root / "splits_final.json"
    if given.is_file() and asked is not None:
        raise SettingsError(f"{given} has folds already; remove it, or leave out --folds, --split-by and --stratify")
    rule = asked or space.split_rule
    own = read_splits(given, [case.id for case in dataset.training]) if given.is_file() else None
    if space.splits_path.is_file():
        known = read_splits(space.splits_path)
        if own is None and asked is None and (kept := _keep(dataset, space, known, progress)):
            return kept
        folds = own or split_cases(dataset.training, rule, labels=labels)
        if folds == known:
            return folds
        if _is_trained(space):
            raise SettingsError(
                f"the folds of {given if own else dataset.root} differ from {space.splits_path}, on which models were "
                "trained. Use another workspace (-w), or remove the results"
            )
    else:
        folds = own or split_cases(dataset.training, rule, labels=labels)
    write_splits(folds, space.splits_path)
    return folds


def _keep(dataset: Dataset, space: Workspace, known: tuple[Fold, ...], progress: Progress) -> tuple[Fold, ...] | None:
    """The workspace's folds, unless cases or groups changed and nothing was trained on them."""
    ids = {case.id for case in dataset.training}
    in_folds = {case for fold in known for case in (*fold.train, *fold.val)}
    changes = []
    if added := sorted(ids - in_folds):
        changes.append(f"{len(added)} case(s) are in no fold: {_listing(added)}")
    if lost := sorted(in_folds - ids):
        changes.append(f"{len(lost)} case(s) of the folds are not in the dataset any more: {_listing(lost)}")
    if crossing := crossing_groups(known, dataset.training):
        changes.append(f"{len(crossing)} group(s) are trained on and held out: {_listing(crossing)}")
    if not changes:
        return known
    if not _is_trained(space):
        progress.message(f"folds are made anew: {'; '.join(changes)}")
        return None
    progress.message(
        f"warning: {'; '.join(changes)}. The folds stay as they are, because models were trained on them; "
        "for new ones use another workspace (-w)"
    )
    return known


def _is_trained(space: Workspace) -> bool:
    return any(space.root.glob("results/*/fold*/checkpoint_*.pt"))


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if names[10:] else "")
