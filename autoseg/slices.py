"""TIFF stacks that are mapped into memory instead of read, and volumes whose slices are files of their own."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from autoseg.errors import DatasetError

_SLICES = (".tif", ".tiff", ".png")
_SHAPE_TAGS = {
    254: "kind of page",
    256: "width",
    257: "height",
    258: "bits per voxel",
    277: "channels",
    284: "order of channels",
    322: "width of tiles",
    323: "height of tiles",
    339: "type of numbers",
}
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}


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
    if not mapped.size:
        return None
    is_color = mapped.ndim > 2 and mapped.shape[-1] in (3, 4)
    return None if mapped.ndim not in (2, 3) or is_color else mapped


def check_tiff_pages(path: Path) -> None:
    """Follow the chain of pages to its end, and compare them.

    Readers take a stack that breaks off for one with fewer slices. ITK writes every page into the room that the first
    one asks for: pages of another size end the process, or change memory of something else.

    Args:
        path: Any file; what does not begin as a TIFF does is left to the reader.

    Raises:
        DatasetError: When a page lies beyond the end of the file, or differs from the first in size or type. The
            layout is that of TIFF 6.0 and of BigTIFF.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        layout = _TiffLayout.of(file.read(16))
        if layout is None:
            return
        page, seen, first = layout.first, set[int](), None
        while page and page not in seen:
            seen.add(page)
            try:
                found, page = _page(file, page, layout)
            except EOFError:
                raise DatasetError(f"{path} is truncated: page {len(seen)} of it lies beyond its end") from None
            first = found if first is None else first
            if differing := [name for tag, name in _SHAPE_TAGS.items() if found.get(tag) != first.get(tag)]:
                raise DatasetError(
                    f"{path} is no stack of equal slices, or damaged: page {len(seen)} of it differs from the first in "
                    f"{differing[0]}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class _TiffLayout:
    """How numbers are stored: their order, and the widths of TIFF 6.0 or of BigTIFF.

    Args:
        order: As :mod:`struct` names it.
        count: Code of the number of entries of a page.
        pointer: Code of a position in the file.
        entry: Bytes of an entry.
        value: Where its value begins.
        first: Position of the first page.
    """

    order: str
    count: str
    pointer: str
    entry: int
    value: int
    first: int

    @classmethod
    def of(cls, start: bytes) -> _TiffLayout | None:
        order = {b"II": "<", b"MM": ">"}.get(start[:2])
        if order is None or len(start) < 8:
            return None
        if struct.unpack_from(f"{order}H", start, 2)[0] != 43:
            first = int(struct.unpack_from(f"{order}I", start, 4)[0])
            return cls(order=order, count="H", pointer="I", entry=12, value=8, first=first)
        if len(start) < 16:
            return None
        first = int(struct.unpack_from(f"{order}Q", start, 8)[0])
        return cls(order=order, count="Q", pointer="Q", entry=20, value=12, first=first)


def _page(file: IO[bytes], page: int, layout: _TiffLayout) -> tuple[dict[int, tuple[int, ...]], int]:
    """What a page says of its size and type, by tag, and the position of the next page."""
    size = file.seek(0, 2)

    def read(place: int, number: int) -> bytes:
        file.seek(min(place, size))
        found = file.read(number) if number <= size else b""
        if len(found) < number:
            raise EOFError
        return found

    width = struct.calcsize(layout.order + layout.count)
    number = int(struct.unpack(layout.order + layout.count, read(page, width))[0])
    table = read(page + width, number * layout.entry)
    pointer = layout.order + layout.pointer
    following = read(page + width + len(table), struct.calcsize(pointer))
    found = {}
    for place in range(0, len(table), layout.entry):
        tag, kind = struct.unpack_from(f"{layout.order}HH", table, place)
        if tag not in _SHAPE_TAGS or kind not in _INTEGERS:
            continue
        count = int(struct.unpack_from(pointer, table, place + 4)[0])
        value = table[place + layout.value : place + layout.entry]
        needed = count * struct.calcsize(_INTEGERS[kind])
        if needed > len(value):
            value = read(int(struct.unpack(pointer, value)[0]), needed)
        found[tag] = struct.unpack(f"{layout.order}{count}{_INTEGERS[kind]}", value[:needed])
    return found, int(struct.unpack(pointer, following)[0])


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
