"""The history of a training run: one row per epoch, in log.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
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
        volume_dice: Mean foreground Dice over the whole held-out cases; None in epochs that did not measure it.
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
    volume_dice: float | None = None


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
    if not path.is_file():
        raise ArtifactError(f"{path} is missing")
    columns = [f.name for f in fields(EpochRow)]
    required = [f.name for f in fields(EpochRow) if f.default is MISSING]
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
        rows = tuple(_parse(row) for row in reader)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{path} is not a training log: {error}") from None
    found = list(reader.fieldnames or ())
    if found != columns[: len(found)] or len(found) < len(required):  # earlier versions had fewer columns
        raise ArtifactError(f"{path} is not a training log of this version: its columns are {found}")
    return rows


def _parse(row: dict[str, str]) -> EpochRow:
    counts = {name: int(row[name]) for name in ("epoch", "iterations")}
    values = {
        f.name: float(row[f.name])
        for f in fields(EpochRow)
        if f.name not in counts and (f.default is MISSING or row.get(f.name))
    }
    return EpochRow(**counts, **values)  # type: ignore[arg-type]  # the two dicts divide the fields by type
