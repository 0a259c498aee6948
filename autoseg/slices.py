"""TIFF stacks that are mapped into memory instead of read, and volumes whose slices are files of their own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

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
    except (ValueError, OSError, tifffile.TiffFileError):
        return None
    is_color = mapped.ndim > 2 and mapped.shape[-1] in (3, 4)
    return None if mapped.ndim not in (2, 3) or is_color else mapped


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
