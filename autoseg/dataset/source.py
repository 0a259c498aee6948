"""How a dataset was given on the command line: what a workspace remembers, so that it is loaded the same way again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from autoseg.errors import DatasetError


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSource:
    """Where the cases of a dataset are.

    Without patterns and table the folder's dataset.json says it, in nnU-Net's or in the Decathlon's form.

    Args:
        root: Folder that relative paths start from.
        images: One pattern with ``{case}`` per channel.
        labels: Pattern of the segmentations.
        table: CSV file with one row per case.
        channel_names: Names of the channels, for patterns and tables; empty takes what there is to find.
        label_values: Label name -> value, for patterns and tables; empty takes every value that occurs.
        label_map: Value in the files -> value in the table of labels; empty takes the values as they are.
        view: Only cases whose column ``view`` says this; None takes all.

    Raises:
        DatasetError: When the parts contradict each other.
    """

    root: Path
    images: tuple[str, ...] = ()
    labels: str | None = None
    table: Path | None = None
    channel_names: tuple[str, ...] = ()
    label_values: dict[str, int] = field(default_factory=dict)
    label_map: dict[str, int] = field(default_factory=dict)
    view: str | None = None

    def __post_init__(self) -> None:
        if self.table is not None and (self.images or self.labels):
            raise DatasetError("give --table, or --images with --labels, not both")
        if bool(self.images) != bool(self.labels):
            raise DatasetError("--images and --labels belong together: one pattern per channel, and one for labels")
        if (self.channel_names or self.label_values) and not (self.images or self.table):
            raise DatasetError("--channel-name and --label go with --images or --table; dataset.json has its own names")
        if self.view is not None and self.table is None:
            raise DatasetError(f"cases of the view {self.view} can only be told in the column view of a --table")

    @property
    def is_declared(self) -> bool:
        """Whether a dataset.json declares the dataset."""
        return not self.images and self.table is None
