"""Finding what nnU-Net trained: one model folder, a dataset's results, or a zip that nnU-Net exported."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from autoseg.codec import read_plain
from autoseg.errors import ArtifactError, MissingArtifactError
from autoseg.interop.archive import extract
from autoseg.splits import FoldName

_FOLD = re.compile(r"fold_(\d{1,4}|all)")
_WANTED = re.compile(
    r"plans\.json|dataset\.json|postprocessing\.json|inference_information\.json|checkpoint_(final|best|latest)\.pth"
)
_INFORMATION = "inference_information.json"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelFolder:
    """Folds of one configuration, plans and trainer.

    Args:
        root: Its folder, usually <trainer>__<plans>__<configuration>.
        plans: Parsed plans.json.
        dataset: Parsed dataset.json.
        folds: Fold -> its folder, numbers in order, "all" last.
    """

    root: Path
    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]
    folds: Mapping[FoldName, Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenModels:
    """What nnU-Net's find_best_configuration chose.

    Args:
        names: Model folders that predict together.
        folds: Folds they were compared with.
    """

    names: tuple[str, ...]
    folds: tuple[FoldName, ...]


@contextmanager
def open_models(source: Path) -> Iterator[tuple[ModelFolder, ...]]:
    """Find the models in a folder or a zip; what a zip holds is unpacked for the time of the block.

    Args:
        source: A model folder, a folder with model folders in it or one level deeper, or a zip of them.

    Raises:
        MissingArtifactError: When there is no model in it.
        ArtifactError: When it is a zip that cannot be trusted, or the models belong to different datasets.
    """
    if source.is_dir():
        yield _find_models(source, source)
        return
    with TemporaryDirectory(prefix="autoseg-") as unpacked:
        extract(source, Path(unpacked), is_wanted=lambda name: bool(_WANTED.fullmatch(PurePosixPath(name).name)))
        yield _find_models(Path(unpacked), source)


def read_choice(models: Sequence[ModelFolder]) -> ChosenModels | None:
    """Which of the models nnU-Net found best, where its note of that lies beside them.

    Returns:
        None when there is no such note, or it is not in the form of nnU-Net's.
    """
    path = models[0].root.parent / _INFORMATION
    if not path.is_file():
        return None
    try:
        table = read_plain(path)
        best = table["best_model_or_ensemble"]["selected_model_or_models"]
        names = tuple(f"{m['trainer']}__{m['plans_identifier']}__{m['configuration']}" for m in best)
        folds: tuple[FoldName, ...] = tuple("all" if fold == "all" else int(fold) for fold in table["folds"])
    except (ArtifactError, KeyError, TypeError, ValueError):
        return None
    return ChosenModels(names=names, folds=folds) if names and folds else None


def read_postprocessing(choice: ChosenModels, models: Sequence[ModelFolder]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """nnU-Net's operations on the segmentations of the chosen models: name of the function and labels it unites.

    Returns:
        Empty when nothing is recorded.

    Raises:
        ArtifactError: When the record is not in nnU-Net's form.
    """
    parent = models[0].root.parent
    folds = "_".join(map(str, choice.folds))
    if len(choice.names) == 1:
        path = parent / choice.names[0] / f"crossval_results_folds_{folds}" / "postprocessing.json"
    else:
        path = parent / "ensembles" / "___".join(("ensemble", *choice.names, folds)) / "postprocessing.json"
    if not path.is_file():
        return ()
    table = read_plain(path)
    try:
        operations = zip(table["postprocessing_fns"], table["postprocessing_kwargs"], strict=True)
        return tuple((str(name), _values(options["labels_or_regions"])) for name, options in operations)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path.name} of {path.parent.name} is not in nnU-Net's form: {error!r}") from None


def _values(given: object) -> tuple[int, ...]:
    """Labels in a label, a region, or a list of either: their union is meant in each case."""
    if isinstance(given, list):
        return tuple(sorted({value for entry in given for value in _values(entry)}))
    if not isinstance(given, int) or isinstance(given, bool):
        raise TypeError(f"{given!r} is no label")
    return (given,)


def _find_models(folder: Path, source: Path) -> tuple[ModelFolder, ...]:
    """The models of one dataset, at the first level of folders that has any."""
    levels = ([folder], *(sorted(folder.glob(pattern)) for pattern in ("*", "*/*", "*/*/*")))
    paths = next((found for level in levels if (found := [path for path in level if _is_model(path)])), [])
    if not paths:
        raise MissingArtifactError(
            f"{source} holds no model of nnU-Net v2: no folder with plans.json, dataset.json and fold_0, fold_1, ... "
            "with a checkpoint"
        )
    if len(parents := sorted({path.parent.name for path in paths})) > 1:
        raise ArtifactError(f"{source} holds models of several datasets; name one of {', '.join(parents)}")
    return tuple(_read_model(path) for path in paths)


def _is_model(path: Path) -> bool:
    return (path / "plans.json").is_file() and (path / "dataset.json").is_file() and bool(_folds(path))


def _read_model(path: Path) -> ModelFolder:
    tables = [read_plain(path / name) for name in ("plans.json", "dataset.json")]
    for name, table in zip(("plans.json", "dataset.json"), tables, strict=True):
        if not isinstance(table, dict):
            raise ArtifactError(f"{path / name} must hold an object, found {type(table).__name__}")
    return ModelFolder(root=path, plans=tables[0], dataset=tables[1], folds=_folds(path))


def _folds(path: Path) -> dict[FoldName, Path]:
    """Folders of folds that hold a checkpoint."""
    found: dict[FoldName, Path] = {}
    for folder in path.glob("fold_*"):
        match = _FOLD.fullmatch(folder.name)
        if match and any(folder.glob("checkpoint_*.pth")):
            found["all" if match[1] == "all" else int(match[1])] = folder
    return {fold: found[fold] for fold in sorted(found, key=lambda fold: float("inf") if fold == "all" else fold)}
