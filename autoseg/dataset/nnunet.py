"""nnU-Net's raw format: dataset.json with imagesTr, labelsTr and imagesTs, or with a table of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoseg.dataset.case import Case, Dataset, named_path
from autoseg.errors import DatasetError
from autoseg.image import is_series, read_header
from autoseg.labels import LabelScheme


def load_nnunet(root: Path, table: dict[str, Any], label_map: Mapping[str, int]) -> Dataset:
    """Load a dataset in nnU-Net v2's raw format.

    Args:
        root: Folder with dataset.json, imagesTr and labelsTr (or dataset.json's own ``dataset`` table).
        table: Parsed dataset.json.
        label_map: Value in the files -> value in the table; empty takes that of dataset.json, if there is one.

    Raises:
        DatasetError: When something is missing or contradictory; no voxel is read.
    """
    path = root / "dataset.json"
    _check_table(table, path)
    channels = _channel_names(table, path)
    ending = table["file_ending"]
    if not isinstance(ending, str) or not ending.startswith("."):
        raise DatasetError(f"{path}: file_ending must start with a dot, found {ending!r}")
    if "dataset" in table:
        training = _cases_from_table(table["dataset"], root, path)
    else:
        training = _cases_from_folders(root, ending)
    test_dir = root / "imagesTs"
    test = find_cases(test_dir, ending, num_channels=len(channels)) if test_dir.is_dir() else ()
    declared = table.get("numTraining", len(training))
    if not isinstance(declared, int) or declared < 1:
        raise DatasetError(f"{path}: numTraining must be a positive integer, found {declared!r}")
    return Dataset(
        root=root.resolve(),
        name=root.resolve().name,
        channels=channels,
        labels=LabelScheme.from_declaration(table, where=str(path), label_map=label_map),
        file_ending=ending,
        declared_count=declared,
        training=training,
        test=test,
    )


def find_cases(folder: Path, ending: str, *, num_channels: int) -> tuple[Case, ...]:
    """Group the images of a folder into cases by nnU-Net's channel suffix ``_0000``.

    Files without a suffix are cases of their own when one file per case is enough: with one channel, or when the file
    itself has all of them. Where no file has the ending, folders that are DICOM series are cases.

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
        elif num_channels == 1 or _has_channels(folder / name, num_channels):
            found.setdefault(name.removesuffix(ending), []).append(folder / name)
        else:
            raise DatasetError(
                f"{folder / name} has no channel suffix; {num_channels} channels are expected as "
                f"{name.removesuffix(ending)}_0000{ending}, ..._0001{ending}, ..."
            )
    if not found:
        found = {path.name: [path] for path in sorted(folder.iterdir()) if is_series(path)}
    if not found:
        raise DatasetError(f"{folder} holds no image ending in {ending}")
    return tuple(Case(id=case, images=tuple(found[case])) for case in sorted(found))


def _check_table(table: dict[str, Any], path: Path) -> None:
    if "channel_names" not in table and "modality" in table:
        table["channel_names"] = table["modality"]
    for key in ("channel_names", "labels", "file_ending"):
        if key not in table:
            raise DatasetError(f"{path} lacks {key!r}; nnU-Net's raw format requires it")


def _has_channels(path: Path, num_channels: int) -> bool:
    """Whether one file holds all channels, as color pictures and the Decathlon's 4D files do."""
    try:
        return read_header(path).num_channels == num_channels
    except DatasetError:
        return False


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
        images = tuple(named_path(root, p, declared_in=path) for p in entry["images"])
        label = named_path(root, entry["label"], declared_in=path)
        cases.append(Case(id=str(case_id), images=images, label=label))
    return tuple(sorted(cases, key=lambda c: c.id))


def _is_case(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
        return False
    images = entry.get("images")
    return isinstance(images, list) and bool(images) and all(isinstance(p, str) for p in images)
