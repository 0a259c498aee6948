"""TIFF stacks that are mapped into memory instead of read, and volumes whose slices are files of their own."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np

from autoseg.errors import DatasetError

_SLICES = (".tif", ".tiff", ".png")


def map_tiff(path: Path) -> np.ndarray | None:
    """Map the voxels of an uncompressed gray TIFF image or stack: pages are read when they are looked at.

    Args:
        path: The file.

    Returns:
        Read-only (z, y, x) or (y, x) in the stored type; None where the file has to be read in another way, because it
        is compressed, in color, scattered over the file, or no TIFF.
    """
    import tifffile

    try:
        mapped = tifffile.memmap(path, mode="r")
    except Exception:  # noqa: BLE001 - a damaged file fails anywhere in the reader; the next one tells what is wrong
        return None
    is_color = mapped.ndim > 2 and mapped.shape[-1] in (3, 4)
    return None if mapped.ndim not in (2, 3) or is_color else mapped


def check_tiff_is_complete(path: Path) -> None:
    """Follow the chain of pages to its end: readers take a stack that breaks off for one with fewer slices.

    Args:
        path: Any file; what does not begin as a TIFF does is left to the reader.

    Raises:
        DatasetError: When a page lies beyond the end of the file. The layout is that of TIFF 6.0 and of BigTIFF.
    """
    if not path.is_file():
        return
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(start[:2])
        if order is None or len(start) < 8:
            return
        is_big = struct.unpack_from(f"{order}H", start, 2)[0] == 43
        if is_big and len(start) < 16:
            return
        count, entry, pointer = ("Q", 20, "Q") if is_big else ("H", 12, "I")
        page, seen = int(struct.unpack_from(order + pointer, start, 8 if is_big else 4)[0]), set[int]()
        while page and page not in seen:
            seen.add(page)
            file.seek(min(page, size))
            head = file.read(struct.calcsize(f"{order}{count}"))
            after = b""
            if len(head) == struct.calcsize(f"{order}{count}"):
                end = page + len(head) + entry * int(struct.unpack(order + count, head)[0])
                file.seek(min(end, size))
                after = file.read(struct.calcsize(order + pointer))
            if len(after) < struct.calcsize(order + pointer):
                raise DatasetError(f"{path} is truncated: page {len(seen)} of it lies beyond its end")
            page = int(struct.unpack(order + pointer, after)[0])


def slice_files(folder: Path) -> list[Path]:
    """The slices of a volume in a folder of TIFF or PNG files, ordered by the numbers in their names.

    Args:
        folder: Any path.

    Returns:
        Two files or more of one ending; empty where the path is no such folder.
    """
    if not folder.is_dir():
        return []
    by_ending: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        if path.suffix.lower() in _SLICES and not path.name.startswith("."):
            by_ending.setdefault(path.suffix.lower(), []).append(path)
    if len(by_ending) != 1:
        return []
    [found] = by_ending.values()
    return sorted(found, key=_numbers) if len(found) > 1 else []


def _numbers(path: Path) -> tuple[object, ...]:
    """A name as text and numbers in turn, so that slice 10 comes after slice 9."""
    parts = re.split(r"(\d+)", path.name)
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts))
