"""What ITK does not say about NIfTI files.

It reads a truncated file without a word and fills the rest with zeros, puts zeros for voxels that are no numbers, and
refuses a file whose direction matrix is not quite a rotation.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np

from autoseg.errors import DatasetError

_HEADER_BYTES = 540  # of NIfTI-2, the longer one
_CHUNK = 1 << 20
_LARGEST_LENGTH = 1e12  # of anything in a header that says where voxels lie
_LEAST_STRETCH = 0.1  # smallest singular value of three unit vectors that still span space
_FLOATS = {16: "f4", 64: "f8"}  # NIfTI's codes of data types


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Where the entries of a header lie, by version of the format."""

    order: Literal["<", ">"]
    data_type: int
    bits: int
    dimensions: tuple[str, int]
    offset: tuple[str, int]
    spacing: tuple[str, int]
    codes: tuple[str, int]
    quaternion: tuple[str, int]
    directions: tuple[str, int]


_LAYOUTS = {
    348: {
        "data_type": 70,
        "bits": 72,
        "dimensions": ("8h", 40),
        "offset": ("f", 108),
        "spacing": ("3f", 80),
        "codes": ("2h", 252),
        "quaternion": ("6f", 256),
        "directions": ("12f", 280),
    },
    540: {
        "data_type": 12,
        "bits": 14,
        "dimensions": ("8q", 16),
        "offset": ("q", 168),
        "spacing": ("3d", 112),
        "codes": ("2i", 344),
        "quaternion": ("6d", 352),
        "directions": ("12d", 400),
    },
}


def is_nifti(path: Path) -> bool:
    """Whether the name ends as those of NIfTI files do."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def check_nifti_is_complete(path: Path) -> None:
    """Compare the voxels that the header announces with the bytes that are there.

    Of a compressed file only the ends are read: gzip stores the uncompressed size last. Where that figure disagrees,
    because the file is truncated or was written in several gzip members, the whole stream is read to tell which.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file; others are left alone.

    Raises:
        DatasetError: When voxels are missing; the layout is that of the NIfTI-1 and NIfTI-2 standards.
    """
    if not is_nifti(path):
        return
    is_compressed = _is_compressed(path)
    try:
        with _open(path) as file:
            expected = _expected_bytes(file.read(_HEADER_BYTES))
        if expected is None:  # not NIfTI after all, or Analyze: the reader will judge
            return
        found = _stored_size(path) if is_compressed else path.stat().st_size
        if is_compressed and found != expected % 2**32:
            found = _decompressed_size(path)
    except (OSError, EOFError, zlib.error) as error:
        if not path.exists():
            raise DatasetError(f"{path} does not exist") from None
        raise DatasetError(f"{path} is truncated or damaged: {error}") from None
    if found < expected % 2**32:
        raise DatasetError(f"{path} is truncated: its header announces {expected} bytes, {found} are there")


def check_nifti_grid(path: Path) -> None:
    """Refuse a header whose position, directions or voxel sizes are no usable numbers: ITK may never return from them.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file; others, and those without such a header, are left alone.

    Raises:
        DatasetError: When one of the numbers that count is infinite, NaN or absurdly large.
    """
    if not is_nifti(path):
        return
    try:
        with _open(path) as file:
            header = file.read(_HEADER_BYTES)
    except (OSError, EOFError, zlib.error):  # the reader will judge
        return
    layout = _layout(header)
    if layout is None:
        return

    def entries(place: tuple[str, int]) -> tuple[float, ...]:
        return struct.unpack_from(layout.order + place[0], header, place[1])

    has_quaternion, has_directions = (code > 0 for code in entries(layout.codes))
    numbers = [
        *entries(layout.spacing)[: max(0, int(entries(layout.dimensions)[0]))],
        *(entries(layout.quaternion) if has_quaternion else ()),
        *(entries(layout.directions) if has_directions else ()),
    ]
    for number in numbers:
        if not abs(number) < _LARGEST_LENGTH:  # so written, it holds for NaN too
            raise DatasetError(f"{path} has an impossible grid: its header says {number:g} where a length is meant")


def count_nonfinite(path: Path) -> int:
    """Voxels of a complete file that are NaN or infinite, which ITK reads as zeros.

    Only files of floating-point numbers are read; others cannot hold such voxels.
    """
    with _open(path) as file:
        header = file.read(_HEADER_BYTES)
        layout = _layout(header)
        kind = (
            None if layout is None else _FLOATS.get(struct.unpack_from(f"{layout.order}h", header, layout.data_type)[0])
        )
        if layout is None or kind is None:
            return 0
        start = int(struct.unpack_from(layout.order + layout.offset[0], header, layout.offset[1])[0])
        file.seek(start)
        found = 0
        while chunk := file.read(_CHUNK):
            values = np.frombuffer(chunk, dtype=layout.order + kind, count=len(chunk) // int(kind[1]))
            found += len(values) - int(np.count_nonzero(np.isfinite(values)))
    return found


def write_with_rotation(path: Path, copy: Path, *, header_only: bool = False) -> None:
    """Copy a file, its direction matrix replaced by the rotation (or reflection) nearest to it.

    Args:
        path: A NIfTI file.
        copy: File to write, uncompressed; its name ends in ``.nii``.
        header_only: Leave the voxels out.

    Raises:
        DatasetError: When the matrix does not span space.
    """
    with _open(path) as file:
        content = bytearray(file.read(_HEADER_BYTES + 4) if header_only else file.read())
    layout = _layout(content)
    assert layout is not None  # ITK read it as NIfTI
    spacing = np.asarray(struct.unpack_from(layout.order + layout.spacing[0], content, layout.spacing[1]))
    code, start = layout.directions
    rows = np.asarray(struct.unpack_from(layout.order + code, content, start)).reshape(3, 4)
    lengths = np.linalg.norm(rows[:, :3], axis=0)
    if not np.isfinite(rows).all() or not lengths.all():
        raise DatasetError(f"{path} has an impossible direction matrix: {rows[:, :3].tolist()}")
    left, stretch, right = np.linalg.svd(rows[:, :3] / lengths)
    if stretch[-1] < _LEAST_STRETCH:
        raise DatasetError(f"{path} has a direction matrix that does not span space: {rows[:, :3].tolist()}")
    rows[:, :3] = (left @ right) * spacing
    struct.pack_into(layout.order + code, content, start, *rows.ravel())
    copy.write_bytes(content)


def _is_compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if _is_compressed(path) else path.open("rb")


def _layout(header: bytes | bytearray) -> _Layout | None:
    """Layout of a header, or None when it is no NIfTI header."""
    orders: tuple[Literal["<"], Literal[">"]] = ("<", ">")
    for order in orders:
        size = struct.unpack_from(f"{order}i", header)[0] if len(header) >= 348 else 0
        if size in _LAYOUTS and len(header) >= size:
            return _Layout(order=order, **_LAYOUTS[size])  # type: ignore[arg-type]  # a table of two kinds of values
    return None


def _expected_bytes(header: bytes) -> int | None:
    """Size of the file that a header describes, or None when it is no NIfTI header."""
    layout = _layout(header)
    if layout is None:
        return None
    dimensions = struct.unpack_from(layout.order + layout.dimensions[0], header, layout.dimensions[1])
    bits = struct.unpack_from(f"{layout.order}h", header, layout.bits)[0]
    offset = struct.unpack_from(layout.order + layout.offset[0], header, layout.offset[1])[0]
    is_possible = 1 <= dimensions[0] <= 7 and all(n >= 0 for n in dimensions[1 : dimensions[0] + 1])
    voxels = math.prod(max(1, n) for n in dimensions[1 : dimensions[0] + 1]) if is_possible else 0
    return int(offset) + voxels * bits // 8 if is_possible and math.isfinite(offset) else None


def _stored_size(path: Path) -> int:
    """Uncompressed size modulo 2^32 that a gzip file states in its last four bytes."""
    with path.open("rb") as file:
        file.seek(-4, 2)
        return int(struct.unpack("<I", file.read(4))[0])


def _decompressed_size(path: Path) -> int:
    """Uncompressed size by decompressing; raises EOFError where the stream breaks off."""
    size = 0
    with gzip.open(path) as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
    return size
