"""Run-length tables of slices, as competitions take them: row-major, counted from 1, an empty slice is "1 0"."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from autoseg.atomic import atomic_path
from autoseg.errors import DatasetError

_EMPTY = "1 0"


def encode_runs(mask: np.ndarray) -> str:
    """Starts and lengths of the runs of a mask.

    Args:
        mask: Boolean (y, x); read row by row.

    Example:
        >>> encode_runs(np.array([[0, 1, 1], [1, 0, 1]], dtype=bool))
        '2 3 6 1'
        >>> encode_runs(np.zeros((2, 2), dtype=bool))
        '1 0'
    """
    edges = np.flatnonzero(np.diff(mask.ravel().astype(np.int8), prepend=0, append=0))
    starts, stops = edges[::2], edges[1::2]
    if not starts.size:
        return _EMPTY
    return " ".join(map(str, np.column_stack([starts + 1, stops - starts]).ravel()))


def decode_runs(text: str, shape: Sequence[int]) -> np.ndarray:
    """The mask that :func:`encode_runs` encoded.

    Args:
        text: Starts and lengths.
        shape: (y, x).

    Raises:
        DatasetError: When the numbers are no runs of a mask of that shape.
    """
    mask = np.zeros(int(np.prod(shape)), dtype=bool)
    words = text.split()
    if len(words) % 2 or not all(word.isdecimal() for word in words):
        raise DatasetError(f"{text[:40]!r} is no run-length encoding: it needs pairs of numbers")
    for start, length in zip(map(int, words[::2]), map(int, words[1::2]), strict=True):
        if start < 1 or start - 1 + length > mask.size:
            raise DatasetError(f"the run {start} {length} leaves a slice of {mask.size} pixels")
        mask[start - 1 : start - 1 + length] = True
    return mask.reshape(tuple(shape))


def write_run_lengths(path: Path, cases: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write one row per slice, "case_slice" and its runs, of everything that is not background; atomically.

    Args:
        path: CSV file.
        cases: Case ids and label values (z, y, x) or (y, x); slices are numbered from 0000.
    """
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "rle"])
        for case, labels in cases:
            for number, plane in enumerate(labels.reshape(-1, *labels.shape[-2:])):
                table.writerow([f"{case}_{number:04d}", encode_runs(plane > 0)])
