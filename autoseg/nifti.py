"""Whether a NIfTI file is complete: ITK reads a truncated one without a word and fills the rest with zeros."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

from autoseg.errors import DatasetError

_HEADER_BYTES = 540  # of NIfTI-2, the longer one
_CHUNK = 1 << 20


def check_nifti_is_complete(path: Path) -> None:
    """Compare the voxels that the header announces with the bytes that are there.

    Of a compressed file only the ends are read: gzip stores the uncompressed size last. Where that figure disagrees,
    because the file is truncated or was written in several gzip members, the whole stream is read to tell which.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file; others are left alone.

    Raises:
        DatasetError: When voxels are missing; the layout is that of the NIfTI-1 and NIfTI-2 standards.
    """
    is_compressed = path.name.lower().endswith(".nii.gz")
    if not is_compressed and not path.name.lower().endswith(".nii"):
        return
    try:
        with gzip.open(path) if is_compressed else path.open("rb") as file:
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


def _expected_bytes(header: bytes) -> int | None:
    """Size of the file that a header describes, or None when it is no NIfTI header."""
    for order in "<>":
        if len(header) >= 348 and struct.unpack_from(f"{order}i", header)[0] == 348:
            dimensions = struct.unpack_from(f"{order}8h", header, 40)
            bits = struct.unpack_from(f"{order}h", header, 72)[0]
            offset = struct.unpack_from(f"{order}f", header, 108)[0]
        elif len(header) >= 540 and struct.unpack_from(f"{order}i", header)[0] == 540:
            dimensions = struct.unpack_from(f"{order}8q", header, 16)
            bits = struct.unpack_from(f"{order}h", header, 14)[0]
            offset = struct.unpack_from(f"{order}q", header, 168)[0]
        else:
            continue
        is_possible = 1 <= dimensions[0] <= 7 and all(n >= 0 for n in dimensions[1 : dimensions[0] + 1])
        voxels = math.prod(max(1, n) for n in dimensions[1 : dimensions[0] + 1]) if is_possible else 0
        return int(offset) + voxels * bits // 8 if is_possible and math.isfinite(offset) else None
    return None


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
