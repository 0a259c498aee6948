"""Cases and datasets as values, whatever format they were found in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autoseg.errors import DatasetError
from autoseg.labels import LabelScheme


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Files of one patient or specimen.

    Args:
        id: Name of the case, unique in the dataset.
        images: One file per channel, or one file with all channels; a folder is a DICOM series.
        label: Its reference segmentation, where there is one.
        group: Cases of one group never fall on both sides of a split.
        domain: Where it was acquired, for folds and reports.
        phase: Point in time, such as "ED" in cardiac images, for reports.
        view: Direction of view, for reports.
        frame: Which point in time of 4D files is meant, from 0; None takes 4D files as channels.
        annotated: Share of its foreground that was annotated; the rest is wrongly background.
        weight: How often it is drawn in training, in proportion to the others, where that is asked for.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    group: str | None = None
    domain: str | None = None
    phase: str | None = None
    view: str | None = None
    frame: int | None = None
    annotated: float = 1.0
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset as declared.

    Args:
        root: Its folder.
        name: Folder name.
        channels: Declared channel names in order; a name chooses the normalization.
        labels: Declared labels.
        file_ending: Ending of labels and predictions, with the dot; of images too where nothing else is said.
        declared_count: Number of training cases that dataset.json states (nnU-Net plans with it).
        training: Labelled cases, ordered by id.
        test: Cases without label that wait for a prediction, ordered by id.
        declared_in: What declares channels and labels, for messages.
    """

    root: Path
    name: str
    channels: tuple[str, ...]
    labels: LabelScheme
    file_ending: str
    declared_count: int
    training: tuple[Case, ...]
    test: tuple[Case, ...]
    declared_in: str = "dataset.json"


def named_path(folder: Path, name: str, *, declared_in: str | Path) -> Path:
    """The absolute path of a file that a dataset names.

    Args:
        folder: What relative names begin at.
        name: As it is written.
        declared_in: Where, for the message.

    Raises:
        DatasetError: When there can be no such file.
    """
    try:
        return (folder / name).resolve()
    except (ValueError, OSError, RuntimeError) as error:  # a zero byte, a name too long, a link to itself
        raise DatasetError(f"{declared_in}: {name!r} cannot be the path of a file: {error}") from None
