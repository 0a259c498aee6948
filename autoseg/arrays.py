"""Large arrays: in memory, or in files that nobody sees where memory is short; and the work on them in slabs."""

from __future__ import annotations

import math
import mmap
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from autoseg.errors import SettingsError

SLAB_VOXELS = 1 << 22
"""Voxels that are worked on at once; their temporary arrays stay small beside everything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Where large arrays lie.

    Args:
        largest: Bytes of the largest array that is held in memory; None holds all of them there.
        scratch: Folder of scratch files; None takes the system's folder for temporary files.
    """

    largest: int | None = None
    scratch: Path | None = None

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
        """An array whose values are not set yet; a scratch file holds zeros.

        Raises:
            SettingsError: When there is no such folder, or the disk is too full.
        """
        if self.largest is None or math.prod(shape) * np.dtype(dtype).itemsize <= self.largest:
            return np.empty(tuple(shape), dtype)
        return scratch_array(shape, dtype, self.scratch)


IN_MEMORY = Room()


def scratch_array(shape: Sequence[int], dtype: DTypeLike, folder: Path | None = None) -> np.ndarray:
    """An array of zeros in a file that nobody sees, and that goes with the array.

    Args:
        shape: Its shape.
        dtype: Its type.
        folder: Where the file lies; None takes the system's folder for temporary files.

    Raises:
        SettingsError: When there is no such folder, or the disk is too full.
    """
    place = Path(folder or tempfile.gettempdir())
    num_bytes = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
    check_space(place, num_bytes)
    # Opened, mapped and unlinked at once: whatever happens, nothing stays behind.
    with tempfile.TemporaryFile(dir=place, prefix="autoseg-") as file:
        file.truncate(num_bytes)
        mapped = mmap.mmap(file.fileno(), num_bytes)
    return np.frombuffer(mapped, dtype=dtype, count=math.prod(shape)).reshape(tuple(shape))


def mapping_of(array: np.ndarray) -> mmap.mmap | None:
    """The file mapping that an array is a view of; None for one in memory."""
    owner: object = array
    while owner is not None and not isinstance(owner, mmap.mmap):
        owner = owner.obj if isinstance(owner, memoryview) else getattr(owner, "base", None)
    return owner


def own_bytes(array: np.ndarray) -> int:
    """Memory that an array takes for itself; none where it is a view of a file."""
    return 0 if mapping_of(array) is not None else array.nbytes


def let_go(*arrays: np.ndarray) -> None:
    """Leave the pages of mapped arrays to the system, so that the process does not hold them; nothing is lost."""
    for array in arrays:
        mapped = mapping_of(array)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            mapped.madvise(mmap.MADV_DONTNEED)


def slabs(shape: Sequence[int], *, voxels: int | None = None) -> Iterator[slice]:
    """Runs of planes along the first axis with about so many voxels each, by default :data:`SLAB_VOXELS`.

    Example:
        >>> list(slabs((5, 2, 2), voxels=8))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, (voxels or SLAB_VOXELS) // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def check_space(folder: Path, num_bytes: int) -> None:
    """Refuse scratch files that do not fit.

    Raises:
        SettingsError: Names the folder, what is needed and what is free.
    """
    if not folder.is_dir():
        raise SettingsError(f"--scratch {folder} is not a folder")
    free = shutil.disk_usage(folder).free
    if num_bytes > 0.95 * free:
        raise SettingsError(
            f"scratch files need {num_bytes / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free; name another folder "
            "with --scratch, or allow more memory with --max-memory"
        )
