"""What is to be learned from: cases, channels and labels of a raw dataset, found on disk and not yet read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg.errors import DatasetError
from autoseg.labels import LabelScheme


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Files of one patient or specimen.

    Args:
        id: Name of the case, unique in the dataset.
        images: One file per channel, or one file with all channels.
        label: Its reference segmentation, where there is one.
        group: Cases of one group never fall on both sides of a split.
        domain: Where it was acquired, for reports.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    group: str | None = None
    domain: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset as declared.

    Args:
        root: Its folder.
        name: Folder name.
        channels: Declared channel names in order; a name chooses the normalization.
        labels: Declared labels.
        file_ending: Ending of images and labels, with the dot.
        declared_count: Number of training cases that dataset.json states (nnU-Net plans with it).
        training: Labelled cases, ordered by id.
        test: Cases of imagesTs, ordered by id.
    """

    root: Path
    name: str
    channels: tuple[str, ...]
    labels: LabelScheme
    file_ending: str
    declared_count: int
    training: tuple[Case, ...]
    test: tuple[Case, ...]


def load_dataset(root: Path) -> Dataset:
    """Load a dataset in nnU-Net v2's raw format.

    Args:
        root: Folder with dataset.json, imagesTr and labelsTr (or dataset.json's own ``dataset`` table).

    Raises:
        DatasetError: When something is missing or contradictory; no voxel is read.
    """
    path = root / "dataset.json"
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder")
    if not path.is_file():
        raise DatasetError(f"{root} has no dataset.json; is it a dataset in nnU-Net's raw format?")
    table = _read_table(path)
    channels = _channel_names(table, path)
    ending = table["file_ending"]
    if not isinstance(ending, str) or not ending.startswith("."):
        raise DatasetError(f"{path}: file_ending must start with a dot, found {ending!r}")
    order = tuple(_region_order(table, path))
    if "dataset" in table:
        training = _cases_from_table(table["dataset"], root, path)
    else:
        training = _cases_from_folders(root, ending)
    test_dir = root / "imagesTs"
    test = find_cases(test_dir, ending, num_channels=len(channels)) if test_dir.is_dir() else ()
    declared = table.get("numTraining", len(training))
    if not isinstance(declared, int) or declared < 1:
        raise DatasetError(f"{path}: numTraining must be a positive integer, found {declared!r}")
    dataset = Dataset(
        root=root.resolve(),
        name=root.resolve().name,
        channels=channels,
        labels=LabelScheme.from_table(table["labels"], order, where=str(path)),
        file_ending=ending,
        declared_count=declared,
        training=training,
        test=test,
    )
    _check_files(dataset)
    return dataset


def find_cases(folder: Path, ending: str, *, num_channels: int) -> tuple[Case, ...]:
    """Group the images of a folder into cases by nnU-Net's channel suffix ``_0000``.

    Files without a suffix are cases of their own when one file per case is enough (one channel).

    Args:
        folder: Folder to look in, not recursively.
        ending: File ending with the dot; other files are ignored.
        num_channels: Channels that the dataset declares.

    Raises:
        DatasetError: When the folder does not exist or holds no image with that ending.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder")
    suffixed = re.compile(rf"(?P<case>.+)_(?P<channel>\d{{4}}){re.escape(ending)}")
    names = sorted(p.name for p in folder.iterdir() if p.name.endswith(ending) and not p.name.startswith("."))
    found: dict[str, list[Path]] = {}
    for name in names:
        match = suffixed.fullmatch(name)
        if match:
            found.setdefault(match["case"], []).append(folder / name)
        elif num_channels == 1:
            found.setdefault(name.removesuffix(ending), []).append(folder / name)
        else:
            raise DatasetError(
                f"{folder / name} has no channel suffix; {num_channels} channels are expected as "
                f"{name.removesuffix(ending)}_0000{ending}, ..._0001{ending}, ..."
            )
    if not found:
        raise DatasetError(f"{folder} holds no image ending in {ending}")
    return tuple(Case(id=case, images=tuple(found[case])) for case in sorted(found))


def _read_table(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(table, dict):
        raise DatasetError(f"{path} must hold an object, found {type(table).__name__}")
    if "channel_names" not in table and "modality" in table:
        table["channel_names"] = table["modality"]
    for key in ("channel_names", "labels", "file_ending"):
        if key not in table:
            raise DatasetError(f"{path} lacks {key!r}; nnU-Net's raw format requires it")
    if not isinstance(table["labels"], dict):
        raise DatasetError(f"{path}: labels must map names to integers, found {table['labels']!r}")
    return table


def _region_order(table: Mapping[str, Any], path: Path) -> list[int]:
    order = table.get("regions_class_order") or []
    if not isinstance(order, list) or not all(isinstance(v, int) for v in order):
        raise DatasetError(f"{path}: regions_class_order must be a list of integers, found {order!r}")
    return order


def _channel_names(table: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    names = table["channel_names"]
    if not isinstance(names, dict) or sorted(names) != sorted(str(i) for i in range(len(names))) or not names:
        raise DatasetError(f'{path}: channel_names must be {{"0": name, "1": name, ...}}, found {names!r}')
    return tuple(str(names[str(i)]) for i in range(len(names)))


def _cases_from_folders(root: Path, ending: str) -> tuple[Case, ...]:
    images_dir, labels_dir = root / "imagesTr", root / "labelsTr"
    for folder in (images_dir, labels_dir):
        if not folder.is_dir():
            raise DatasetError(f"{root} has no folder {folder.name}")
    cases = find_cases(images_dir, ending, num_channels=1)
    return tuple(Case(id=c.id, images=c.images, label=labels_dir / f"{c.id}{ending}") for c in cases)


def _cases_from_table(entries: object, root: Path, path: Path) -> tuple[Case, ...]:
    if not isinstance(entries, dict) or not entries:
        raise DatasetError(f"{path}: dataset must map case ids to their images and label")
    cases = []
    for case_id, entry in entries.items():
        if not _is_case(entry):
            raise DatasetError(f'{path}: dataset.{case_id} must be {{"images": [...], "label": ...}}')
        images = tuple((root / p).resolve() for p in entry["images"])
        cases.append(Case(id=str(case_id), images=images, label=(root / entry["label"]).resolve()))
    return tuple(sorted(cases, key=lambda c: c.id))


def _is_case(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
        return False
    images = entry.get("images")
    return isinstance(images, list) and bool(images) and all(isinstance(p, str) for p in images)


def _check_files(dataset: Dataset) -> None:
    """Refuse missing files now: hours later they would stop a run half-way."""
    for case in dataset.training:
        if "/" in case.id or "\\" in case.id or case.id in (".", ".."):
            raise DatasetError(f"{dataset.root}: case id {case.id!r} cannot be a file name")
        for path in case.images:
            if not path.is_file():
                raise DatasetError(f"{path}, an image of case {case.id}, does not exist")
        if case.label is None or not case.label.is_file():
            raise DatasetError(f"case {case.id} has no label: {case.label} does not exist")
    _check_channels(dataset.training, len(dataset.channels))
    _check_channels(dataset.test, len(dataset.channels))


def _check_channels(cases: Iterable[Case], num_channels: int) -> None:
    for case in cases:
        if len(case.images) not in (1, num_channels):
            raise DatasetError(
                f"case {case.id} has {len(case.images)} image file(s), {', '.join(p.name for p in case.images)}; "
                f"dataset.json declares {num_channels} channel(s)"
            )
