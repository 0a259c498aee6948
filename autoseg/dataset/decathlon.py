"""The Medical Segmentation Decathlon's format: dataset.json with lists of files, 4D images holding the channels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoseg.dataset.case import Case, Dataset, named_path
from autoseg.errors import DatasetError
from autoseg.labels import LabelScheme

_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")


def is_decathlon(table: Mapping[str, Any]) -> bool:
    """Whether a dataset.json is the Decathlon's: it lists its training files."""
    return "file_ending" not in table and isinstance(table.get("training"), list)


def load_decathlon(root: Path, table: Mapping[str, Any], label_map: Mapping[str, int]) -> Dataset:
    """Load a dataset of the Decathlon as it is downloaded.

    Args:
        root: Folder with dataset.json; the paths in it are relative to the folder.
        table: Parsed dataset.json: modality, labels as ``{"0": "background", ...}``, training, test, numTraining.
        label_map: Value in the files -> value in the table; empty takes that of dataset.json, if there is one.

    Raises:
        DatasetError: When an entry is missing or has another form.
    """
    path = root / "dataset.json"
    training = tuple(sorted((_case(e, root, path) for e in table["training"]), key=lambda case: case.id))
    tests = table.get("test") or []
    if not training or not isinstance(tests, list):
        raise DatasetError(f"{path}: training and test must be lists of cases, training with at least one")
    test = tuple(sorted((_case(e, root, path, is_test=True) for e in tests), key=lambda case: case.id))
    declared = table.get("numTraining", len(training))
    if not isinstance(declared, int) or declared < 1:
        raise DatasetError(f"{path}: numTraining must be a positive integer, found {declared!r}")
    return Dataset(
        root=root.resolve(),
        name=root.resolve().name,
        channels=_channels(table.get("modality"), path),
        labels=LabelScheme.from_declaration(table, where=str(path), label_map=label_map),
        file_ending=_ending(training[0].images[0], path),
        declared_count=declared,
        training=training,
        test=test,
    )


def _channels(names: object, path: Path) -> tuple[str, ...]:
    if not isinstance(names, dict) or not names or sorted(names) != sorted(str(i) for i in range(len(names))):
        raise DatasetError(f'{path}: modality must be {{"0": name, "1": name, ...}}, found {names!r}')
    return tuple(str(names[str(index)]) for index in range(len(names)))


def _case(entry: object, root: Path, path: Path, *, is_test: bool = False) -> Case:
    if is_test and isinstance(entry, str):
        entry = {"image": entry}
    keys = ("image",) if is_test else ("image", "label")
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in keys):
        raise DatasetError(f'{path}: a training case must be {{"image": ..., "label": ...}}, found {entry!r}')
    image = named_path(root, entry["image"], declared_in=path)
    label = None if is_test else named_path(root, entry["label"], declared_in=path)
    return Case(id=image.name.removesuffix(_ending(image, path)), images=(image,), label=label)


def _ending(image: Path, path: Path) -> str:
    found = next((ending for ending in _ENDINGS if image.name.endswith(ending)), image.suffix)
    if not found:
        raise DatasetError(f"{path}: {image} has no file ending")
    return found
