"""Which folds a workspace has: made once, never changed under models that were trained on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from autoseg.codec import digest
from autoseg.dataset import Dataset
from autoseg.errors import ArtifactError, DatasetError, MissingArtifactError, SettingsError
from autoseg.progress import Progress
from autoseg.receipt import complete, origin
from autoseg.splits import Fold, SplitRule, crossing_groups, read_splits, split_cases, write_splits
from autoseg.workspace import Workspace

_RECEIPT = "splits"  # splits.json is a list, as nnU-Net's, and has no room for a digest


def load_folds(workspace: Workspace) -> tuple[Fold, ...]:
    """Read splits.json.

    Raises:
        MissingArtifactError: When there is none.
        ArtifactError: When it was altered since it was written: a case that a model was trained on might be among
            those that the model is judged by.
    """
    if not workspace.splits_path.is_file():
        raise MissingArtifactError(f"{workspace.splits_path} does not exist. Make it: autoseg plan-and-preprocess")
    folds = read_splits(workspace.splits_path)
    if not _are_as_written(folds, workspace):
        raise ArtifactError(
            f"{workspace.splits_path} is not as autoseg wrote it. Take your edits over, or have it made again: "
            f"autoseg plan-and-preprocess -w {workspace.root}"
        )
    return folds


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

    def make() -> tuple[Fold, ...]:
        return own or split_cases(dataset.training, rule, labels=labels)

    known = _trusted(space, make, progress)
    if known is not None and own is None and asked is None and (kept := _keep(dataset, space, known, progress)):
        return kept
    folds = make()
    if known is not None and folds != known and _is_trained(space):
        raise SettingsError(
            f"the folds of {given if own else dataset.root} differ from {space.splits_path}, on which models were "
            "trained. Use another workspace (-w), or remove the results"
        )
    if folds != known:
        _write(folds, space)
    return folds


def _trusted(space: Workspace, make: Callable[[], tuple[Fold, ...]], progress: Progress) -> tuple[Fold, ...] | None:
    """The folds that are there. Edits are taken over before anything was trained; afterwards they are undone.

    Returns:
        None where there are none, or where they are damaged and nothing was trained.

    Raises:
        SettingsError: When models were trained on other folds, and those cannot be made again.
    """
    known, problem = None, f"{space.splits_path} is gone"
    if space.splits_path.is_file():
        try:
            known, problem = read_splits(space.splits_path), f"{space.splits_path} was edited since autoseg wrote it"
        except (ArtifactError, DatasetError) as error:
            problem = str(error)
    written = origin(space.root, _RECEIPT)
    if known is None and written is None and not space.splits_path.is_file():
        return None  # there were none
    if known is not None and _are_as_written(known, space):
        if written is None:  # made by an earlier version, or by hand
            _vouch(known, space)
        return known
    if not _is_trained(space):
        if known is not None:
            progress.message(f"{problem}; the edits stay where they can")
            _vouch(known, space)
        elif space.splits_path.is_file():
            progress.message(f"folds are made anew: {problem}")
        return known
    folds = make()
    if written != _digest(folds):
        raise SettingsError(
            f"{problem}, and models were trained on what it held. Put it back as it was, use another workspace (-w), "
            "or remove the results"
        )
    progress.message(f"{problem}, and models were trained on what it held: it is made again as it was")
    _write(folds, space)
    return folds


def _are_as_written(folds: Sequence[Fold], space: Workspace) -> bool:
    """Whether folds are those that were written; so are all where nobody noted it, as in earlier versions."""
    return origin(space.root, _RECEIPT) in (None, _digest(folds))


def _write(folds: Sequence[Fold], space: Workspace) -> None:
    write_splits(folds, space.splits_path)
    _vouch(folds, space)


def _vouch(folds: Sequence[Fold], space: Workspace) -> None:
    complete(space.root, _RECEIPT, made_from=_digest(folds), files=[space.splits_path])


def _digest(folds: Sequence[Fold]) -> str:
    return digest([[sorted(fold.train), sorted(fold.val)] for fold in folds])


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
