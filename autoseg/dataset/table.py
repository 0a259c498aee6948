"""Datasets described by a CSV file with one row per case."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autoseg.dataset.case import Case, Dataset, named_path
from autoseg.dataset.patterns import assemble
from autoseg.dataset.source import DatasetSource
from autoseg.errors import DatasetError

_TEST = ("test", "ts")
_TRAINING = ("train", "training", "tr", "")
_KNOWN = ("case", "image", "label", "group", "domain", "phase", "view", "split", "weight", "annotated", "frame")


def load_table(source: DatasetSource, path: Path) -> Dataset:
    """Load a dataset from a table with the columns case, image (or image_<channel> each) and label.

    Also known are group, domain, phase, view, weight, annotated, frame and split (train or test); rows without a
    label are cases to predict. ``frame`` picks a point in time of 4D files, from 0, such as end diastole. Paths are
    relative to the table's folder.

    Args:
        source: May name channels and labels.
        path: The table.

    Raises:
        DatasetError: When the table is malformed; names the line.
    """
    cases, image_columns = _read(path)
    named = tuple(name.removeprefix("image_") for name in image_columns) if image_columns != ["image"] else ()
    given = source if source.channel_names else replace(source, channel_names=named)
    return assemble(given, cases, declared_in=str(path))


def cases_to_predict(path: Path, *, num_channels: int) -> tuple[Case, ...]:
    """Every row of a table as a case whose segmentation is wanted; what it says about labels and splits is left aside.

    Args:
        path: A table as :func:`load_table` reads it.
        num_channels: Channels that the models expect.

    Raises:
        DatasetError: When the table is malformed or holds no case, or an image does not exist.
    """
    cases, _ = _read(path)
    if not cases:
        raise DatasetError(f"{path} holds no case")
    for case in cases:
        if len(case.images) not in (1, num_channels):
            raise DatasetError(f"{path}: case {case.id} has {len(case.images)} images; {num_channels} are expected")
        if missing := [image for image in case.images if not image.exists()]:
            raise DatasetError(f"{missing[0]}, an image of case {case.id}, does not exist")
    return tuple(replace(case, label=None) for case in cases)


def _read(path: Path) -> tuple[list[Case], list[str]]:
    """Cases by id, and the columns that name images."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as a table: {error}") from None
    image_columns = _image_columns(columns, path)
    cases, lines = list[Case](), dict[str, int]()
    for line, row in enumerate(rows, start=2):
        case = _case({key: (value or "").strip() for key, value in row.items() if key}, image_columns, path, line)
        if case.id in lines:
            raise DatasetError(f"{path}: case {case.id} stands in line {lines[case.id]} and in line {line}")
        lines[case.id] = line
        cases.append(case)
    return sorted(cases, key=lambda case: case.id), image_columns


def _image_columns(columns: Sequence[str], path: Path) -> list[str]:
    channels = [name for name in columns if name.startswith("image_")]
    found = ["image"] if "image" in columns else channels
    if "case" not in columns or not found or ("image" in columns and channels):
        raise DatasetError(
            f"{path} needs the columns case, image (or one image_<channel> per channel) and label; "
            f"found {', '.join(columns) or 'none'}"
        )
    if foreign := [name for name in columns if name not in _KNOWN and name not in channels]:
        raise DatasetError(f"{path}: the column {foreign[0]!r} means nothing; known are {', '.join(_KNOWN)}")
    return found


def _case(row: dict[str, str], image_columns: Sequence[str], path: Path, line: int) -> Case:
    if not row["case"] or any(not row[column] for column in image_columns):
        raise DatasetError(f"{path}, line {line}: case or image is empty")
    part = row.get("split", "").lower()
    if part not in (*_TEST, *_TRAINING):
        raise DatasetError(f"{path}, line {line}: split must be train or test, found {part!r}")
    label = row.get("label", "")
    if part in _TRAINING[:-1] and not label:
        raise DatasetError(f"{path}, line {line}: case {row['case']} is for training and has no label")
    where = f"{path}, line {line}"
    return Case(
        id=row["case"],
        images=tuple(named_path(path.parent, row[column], declared_in=where) for column in image_columns),
        label=named_path(path.parent, label, declared_in=where) if label and part not in _TEST else None,
        group=row.get("group") or None,
        domain=row.get("domain") or None,
        phase=row.get("phase") or None,
        view=row.get("view") or None,
        frame=_frame(row.get("frame", ""), path, line),
        annotated=_annotated(row.get("annotated", ""), path, line),
        weight=_weight(row.get("weight", ""), path, line),
    )


def _frame(text: str, path: Path, line: int) -> int | None:
    if text and not text.isdecimal():
        raise DatasetError(f"{path}, line {line}: frame must be a whole number from 0, found {text!r}")
    return int(text) if text else None


def _weight(text: str, path: Path, line: int) -> float:
    weight = _number(text)
    if not 0 <= weight < math.inf:
        raise DatasetError(f"{path}, line {line}: weight must be a number that is not negative, found {text!r}")
    return weight


def _annotated(text: str, path: Path, line: int) -> float:
    share = _number(text)
    if not 0 < share <= 1:
        raise DatasetError(f"{path}, line {line}: annotated must lie above 0 and not above 1, found {text!r}")
    return share


def _number(text: str) -> float:
    """A number, 1 where nothing is written, NaN where it is no number."""
    try:
        return float(text or 1)
    except ValueError:
        return math.nan
