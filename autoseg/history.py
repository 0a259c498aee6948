"""The history of a training run: one row per epoch, in log.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from autoseg.atomic import atomic_path
from autoseg.errors import ArtifactError


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRow:
    """What one epoch came to.

    Args:
        epoch: Counted from zero.
        iterations: Optimizer steps since the beginning of the run.
        seconds: Wall time since the beginning of the run.
        learning_rate: At the epoch's last step.
        train_loss: Mean over the epoch's batches.
        val_loss: Mean over the validation batches.
        val_dice: Mean foreground Dice over all validation patches together.
        ema_dice: Exponential moving average of ``val_dice``.
        waiting: Share of the training time spent waiting for batches.
    """

    epoch: int
    iterations: int
    seconds: float
    learning_rate: float
    train_loss: float
    val_loss: float
    val_dice: float
    ema_dice: float
    waiting: float


def write_rows(rows: Sequence[EpochRow], path: Path) -> None:
    """Write the whole history as CSV with a header line, in full precision; atomically."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [f.name for f in fields(EpochRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    with atomic_path(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def read_rows(path: Path) -> tuple[EpochRow, ...]:
    """Read what :func:`write_rows` wrote.

    Raises:
        ArtifactError: When the file is not such a table.
    """
    columns = [f.name for f in fields(EpochRow)]
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
        rows = tuple(_parse(row) for row in reader)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{path} is not a training log: {error}") from None
    if reader.fieldnames != columns:
        raise ArtifactError(f"{path} is not a training log of this version: its columns are {reader.fieldnames}")
    return rows


def _parse(row: dict[str, str]) -> EpochRow:
    counts = {name: int(row[name]) for name in ("epoch", "iterations")}
    values = {f.name: float(row[f.name]) for f in fields(EpochRow) if f.name not in counts}
    return EpochRow(**counts, **values)  # type: ignore[arg-type]  # the two dicts divide the fields by type
