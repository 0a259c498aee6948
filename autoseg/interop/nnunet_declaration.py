"""The dataset.json that goes with what is exported to nnU-Net."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoseg.codec import read_plain
from autoseg.labels import LabelScheme, Target


def folder_name(name: str) -> str:
    """The name that nnU-Net asks for, DatasetNNN_Name."""
    return name if re.fullmatch(r"Dataset\d{3}_.+", name) else f"Dataset001_{name}"


def consecutive(labels: LabelScheme) -> dict[int, int]:
    """New values for labels that are not 0, 1, 2, ..., which nnU-Net insists on; empty where they are."""
    values = [0, *(value for value in labels.values if value != 0)]
    if labels.ignore_value is not None:
        values.append(labels.ignore_value)
    new = {value: rank for rank, value in enumerate(values)}
    new |= {alias: new[value] for alias, value in labels.aliases}
    return {} if all(value == rank for value, rank in new.items()) else new


def with_values(labels: LabelScheme, new: Mapping[int, int]) -> LabelScheme:
    """The labels with other values.

    Args:
        labels: As they are.
        new: Value -> new value, where they differ.
    """
    return replace(
        labels,
        targets=tuple(Target(name=t.name, values=tuple(new.get(v, v) for v in t.values)) for t in labels.targets),
        region_order=tuple(new.get(v, v) for v in labels.region_order),
        ignore_value=None if labels.ignore_value is None else new.get(labels.ignore_value, labels.ignore_value),
        aliases=() if new else labels.aliases,
    )


def nnunet_declaration(root: Path) -> dict[str, Any]:
    """A dataset's own dataset.json where it is in nnU-Net's form, else nothing.

    Args:
        root: Folder of the dataset.
    """
    path = root / "dataset.json"
    table = read_plain(path) if path.is_file() else {}
    return dict(table) if isinstance(table, dict) and {"file_ending", "labels"} <= set(table) else {}


def declaration(
    table: dict[str, Any], labels: LabelScheme, *, channels: Sequence[str], num_training: int, file_ending: str
) -> dict[str, Any]:
    """dataset.json: the dataset's own, or one with the exported values.

    Args:
        table: The dataset's own; empty where there is none.
        labels: As they are exported.
        channels: Names of the channels.
        num_training: Training cases.
        file_ending: Ending of the images.
    """
    if table and LabelScheme.from_declaration({**table, "label_map": None}, where="dataset.json") == labels:
        return table
    values = {t.name: t.values[0] if len(t.values) == 1 else list(t.values) for t in labels.targets}
    made: dict[str, Any] = {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": {"background": 0, **values},
        "numTraining": num_training,
        "file_ending": file_ending,
    }
    if labels.ignore_value is not None:
        made["labels"]["ignore"] = labels.ignore_value
    if labels.has_regions:
        made["regions_class_order"] = list(labels.region_order)
    kept = {key: value for key, value in table.items() if key not in ("label_map", "modality")}
    return {**kept, **made}
