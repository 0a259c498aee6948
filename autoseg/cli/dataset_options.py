"""Options that describe a dataset, shared by the commands that read one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from autoseg.dataset import DatasetSource
from autoseg.errors import DatasetError, SettingsError

Dataset = Annotated[
    Path | None,
    typer.Argument(help="Folder with a dataset.json, nnU-Net's or the Decathlon's; default: the one named by -C."),
]
Images = Annotated[
    list[str] | None,
    typer.Option("--images", metavar="PATTERN", help="Images, such as 'imgs/{case}_ct.nii.gz'; one per channel."),
]
Labels = Annotated[
    str | None, typer.Option("--labels", metavar="PATTERN", help="Segmentations, such as 'segs/{case}.nii.gz'.")
]
Table = Annotated[
    Path | None,
    typer.Option(
        "--table",
        help="CSV file: columns case, image, label; also group, domain, phase, view, split, weight, ...",
    ),
]
ChannelNames = Annotated[
    list[str] | None,
    typer.Option("--channel-name", help="Name of a channel, for --images and --table; CT decides the normalization."),
]
LabelValues = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="NAME=VALUE", help="A label, for --images and --table; default: all that occur."),
]
LabelMap = Annotated[
    Path | None, typer.Option("--label-map", help='JSON file {"value in the files": label, ...}, for dataset.json.')
]


def dataset_source(
    root: Path,
    *,
    images: Sequence[str] | None,
    labels: str | None,
    table: Path | None,
    channel_names: Sequence[str] | None,
    label_values: Sequence[str] | None,
    label_map: Path | None,
) -> DatasetSource:
    """Put the options together.

    Raises:
        AutosegError: When one is malformed, or they contradict each other.
    """
    named = dict(_named_value(text) for text in label_values or ())
    return DatasetSource(
        root=root,
        images=tuple(images or ()),
        labels=labels,
        table=table,
        channel_names=tuple(channel_names or ()),
        label_values=named,
        label_map={} if label_map is None else read_label_map(label_map),
    )


def read_label_map(path: Path) -> dict[str, int]:
    """Read a label map.

    Raises:
        DatasetError: When it is no table of integers.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(table, dict) or not table or not all(isinstance(v, int) for v in table.values()):
        raise DatasetError(f'{path} must hold {{"value in the files": label, ...}}, found {table!r}')
    return table


def _named_value(text: str) -> tuple[str, int]:
    name, equals, value = text.rpartition("=")
    if not equals or not name or not value.isdecimal() or int(value) == 0:
        raise SettingsError(f"--label {text}: give a name and a value above zero, for instance liver=1")
    return name, int(value)
