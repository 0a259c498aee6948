"""One way in for every dataset format; whatever it was, a :class:`Dataset` comes out, its files known to be there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoseg.dataset.case import Case, Dataset
from autoseg.dataset.decathlon import is_decathlon, load_decathlon
from autoseg.dataset.nnunet import find_cases, load_nnunet
from autoseg.dataset.patterns import IMAGE_ENDINGS, cases_by_patterns, load_patterns
from autoseg.dataset.source import DatasetSource
from autoseg.dataset.table import load_table
from autoseg.errors import DatasetError
from autoseg.image import is_series


def load_dataset(source: Path | DatasetSource) -> Dataset:
    """Load a dataset in any of the formats that autoseg knows.

    Args:
        source: A folder with dataset.json, or what was said about a dataset without one.

    Raises:
        DatasetError: When something is missing or contradictory; no image is read.
    """
    given = DatasetSource(root=source) if isinstance(source, Path) else source
    if not given.root.is_dir():
        raise DatasetError(f"{given.root} is not a folder")
    if given.table is not None:
        dataset = load_table(given, given.table)
    elif given.images:
        dataset = load_patterns(given)
    else:
        path = given.root / "dataset.json"
        if not path.is_file():
            raise DatasetError(
                f"{given.root} has no dataset.json; is it a dataset in nnU-Net's raw format? "
                "Other files are described with --images and --labels, or with --table"
            )
        table = _read_table(path)
        load = load_decathlon if is_decathlon(table) else load_nnunet
        dataset = load(given.root, table, given.label_map)
    if given.view is not None:
        dataset = of_view(dataset, given.view)
    _check_files(dataset)
    return dataset


def of_view(dataset: Dataset, view: str) -> Dataset:
    """The cases of one view alone.

    Raises:
        DatasetError: When no training case has it; names the views that there are.
    """
    training = tuple(case for case in dataset.training if case.view == view)
    if not training:
        known = sorted({case.view for case in dataset.training if case.view is not None})
        raise DatasetError(f"no training case has the view {view}; there are {', '.join(known) or 'no views at all'}")
    test = tuple(case for case in dataset.test if case.view == view)
    return replace(dataset, training=training, test=test, declared_count=len(training))


def remembered(source: DatasetSource, dataset: Dataset) -> DatasetSource:
    """The source with all that was found while it was loaded, so that it need not be looked for again."""
    if source.is_declared:
        return replace(source, root=source.root.resolve())
    return replace(
        source,
        root=source.root.resolve(),
        table=source.table and source.table.resolve(),
        channel_names=dataset.channels,
        label_values=source.label_values or {target.name: target.values[0] for target in dataset.labels.targets},
    )


def find_input(source: DatasetSource | None, folder: Path, ending: str, *, num_channels: int) -> tuple[Case, ...]:
    """Cases in a folder of images to predict, named as the images of the dataset are.

    Args:
        source: How the dataset was given; None where there is none.
        folder: Folder to look in.
        ending: File ending of the dataset, with the dot.
        num_channels: Channels that the models expect.

    Raises:
        DatasetError: When the folder holds no image.
    """
    if source is not None and source.images and folder.is_dir():
        names = [Path(pattern).name for pattern in source.images]
        if all("{case}" in name for name in names) and len(set(names)) == len(names):
            found = cases_by_patterns(folder, names)
            if found:
                return tuple(Case(id=case, images=images) for case, images in sorted(found.items()))
    if source is not None and not source.is_declared and folder.is_dir():
        # The ending is that of the labels; images may have another one.
        names = [path.name.lower() for path in folder.iterdir() if path.is_file()]
        ending = next((e for e in (ending, *IMAGE_ENDINGS) if any(name.endswith(e) for name in names)), ending)
    return find_cases(folder, ending, num_channels=num_channels)


def _read_table(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(table, dict):
        raise DatasetError(f"{path} must hold an object, found {type(table).__name__}")
    return table


def _check_files(dataset: Dataset) -> None:
    """Refuse missing files now: hours later they would stop a run half-way."""
    for case in (*dataset.training, *dataset.test):
        if "/" in case.id or "\\" in case.id or case.id in (".", "..", "") or any(c < " " for c in case.id):
            raise DatasetError(f"{dataset.root}: case id {case.id!r} cannot be a file name")
        for path in case.images:
            if not path.is_file() and not is_series(path):
                raise DatasetError(f"{path}, an image of case {case.id}, is no file ({dataset.declared_in})")
    for case in dataset.training:
        if case.label is None or not (case.label.is_file() or is_series(case.label)):
            raise DatasetError(f"case {case.id} has no label: {case.label} is no file ({dataset.declared_in})")
    for cases in (dataset.training, dataset.test):
        ids = [case.id for case in cases]
        if len(set(ids)) != len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise DatasetError(f"{dataset.root}: case {twice} is there twice")
        _check_channels(cases, len(dataset.channels), dataset.declared_in)


def _check_channels(cases: Iterable[Case], num_channels: int, declared_in: str) -> None:
    for case in cases:
        if len(case.images) not in (1, num_channels):
            raise DatasetError(
                f"case {case.id} has {len(case.images)} image file(s), {', '.join(p.name for p in case.images)}; "
                f"{declared_in} declares {num_channels} channel(s)"
            )
