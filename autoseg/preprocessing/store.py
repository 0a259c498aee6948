"""Preprocessed cases on disk: compressed arrays of which patches are read without reading the rest.

A case is four files: ``<case>.image.b2nd`` and ``<case>.segmentation.b2nd`` (blosc2), ``<case>.foreground.npy`` and
``<case>.json``. The last is written last and removed first, so its presence means that the others are complete.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from autoseg.arrays import let_go
from autoseg.atomic import atomic_path, file_digest
from autoseg.codec import read_json, write_json
from autoseg.errors import ArtifactError, MissingArtifactError
from autoseg.geometry import BoundingBox
from autoseg.parallel import read_ahead
from autoseg.preprocessing.case import CaseTrace, PreprocessedCase

SCHEMA_VERSION = 1
_IMAGE, _SEGMENTATION, _FOREGROUND, _RECORD = ".image.b2nd", ".segmentation.b2nd", ".foreground.npy", ".json"
_BLOCK_BYTES = 128 * 2**10  # what is decompressed at once: fits a processor's cache
_CHUNK_BYTES = 4 * 2**20  # what lies together in the file
_WRITTEN_AT_ONCE = 2**28  # bytes of an array that is handed over as a whole
_READERS = 4  # files that are verified at a time
_SMALL_BYTES = 2**19  # up to here a chunk grows beyond the neighbourhood of a patch
_REMEDY = "make it again: autoseg plan-and-preprocess"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCaseRecord:
    """What ``<case>.json`` says.

    Args:
        digest: Of everything the case was made from.
        image_shape: (c, z, y, x) or (c, y, x).
        has_segmentation: Whether labels are stored.
        num_positions: Foreground positions per target.
        file_sizes: Bytes of each other file by its ending.
        file_digests: SHA-256 of each other file by its ending.
        trace: How to get back to the stored grid.
    """

    schema_version: int = SCHEMA_VERSION
    digest: str
    image_shape: tuple[int, ...]
    has_segmentation: bool
    num_positions: tuple[int, ...]
    file_sizes: dict[str, int]
    trace: CaseTrace
    file_digests: dict[str, str] = field(default_factory=dict)


def write_case(case: PreprocessedCase, folder: Path, *, patch_size: Sequence[int], digest: str = "") -> None:
    """Write a case; whatever was there of it is replaced.

    Args:
        case: What to write.
        folder: Folder of the configuration's cases; created.
        patch_size: Voxels that are read at once, for the layout on disk; two entries for slices of a volume.
        digest: Of everything the case was made from; see :func:`is_complete`.
    """
    record_path = folder / f"{case.id}{_RECORD}"
    record_path.unlink(missing_ok=True)
    ndim = case.image.ndim - 1
    patch = (*(1,) * (ndim - len(patch_size)), *patch_size)
    written = [write_array(case.image, folder / f"{case.id}{_IMAGE}", patch)]
    if case.segmentation is not None:
        written.append(write_array(case.segmentation, folder / f"{case.id}{_SEGMENTATION}", patch))
    foreground_path = folder / f"{case.id}{_FOREGROUND}"
    with atomic_path(foreground_path, durable=False) as temporary:
        np.save(temporary, np.concatenate([np.empty((0, ndim), dtype=np.int32), *case.foreground]))
    parts = {path.name.removeprefix(case.id): path for path in (*written, foreground_path)}
    record = StoredCaseRecord(
        digest=digest,
        image_shape=case.image.shape,
        has_segmentation=case.segmentation is not None,
        num_positions=tuple(len(positions) for positions in case.foreground),
        file_sizes={ending: path.stat().st_size for ending, path in parts.items()},
        file_digests={ending: file_digest(path) for ending, path in parts.items()},
        trace=case.trace,
    )
    write_json(record, record_path, durable=False)


def is_complete(folder: Path, case_id: str, digest: str) -> bool:
    """Whether a case is there in full, unaltered, and was made from what ``digest`` stands for."""
    try:
        record = read_json(StoredCaseRecord, folder / f"{case_id}{_RECORD}")
        if record.digest != digest:
            return False
        verify_case(folder, case_id)
    except (ArtifactError, MissingArtifactError):
        return False
    return True


def is_there(folder: Path, case_id: str) -> bool:
    """Whether something calls itself this case, complete or not."""
    return (folder / f"{case_id}{_RECORD}").is_file()


def verify_case(folder: Path, case_id: str) -> None:
    """Read a case's files and compare them with what was written: a compressed array does not notice a flipped bit.

    Raises:
        MissingArtifactError: When there is no such case.
        ArtifactError: When a file is missing, truncated or altered; names it.
    """
    path = folder / f"{case_id}{_RECORD}"
    record = read_json(StoredCaseRecord, path)
    _check_sizes(path, record)
    for ending, expected in record.file_digests.items():
        part = folder / f"{case_id}{ending}"
        if file_digest(part) != expected:
            raise ArtifactError(f"{part} was altered or damaged since it was written; {_REMEDY}")


def verify_cases(folder: Path, case_ids: Sequence[str]) -> None:
    """Verify many cases, several at a time; see :func:`verify_case`."""
    for _, done in read_ahead(functools.partial(verify_case, folder), case_ids, ahead=_READERS):
        done()


class CaseStore:
    """Preprocessed cases of one configuration.

    Args:
        folder: Where :func:`write_case` wrote them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def case_ids(self) -> list[str]:
        """Ids of all complete cases, sorted."""
        paths = self.folder.glob(f"*{_RECORD}") if self.folder.is_dir() else ()
        return sorted(p.name.removesuffix(_RECORD) for p in paths if not p.name.startswith("."))

    def open(self, case_id: str) -> StoredCase:
        """Open a case without reading its arrays.

        Raises:
            MissingArtifactError: When there is no such case.
            ArtifactError: When one of its files is truncated or foreign.
        """
        return StoredCase(self.folder, case_id)


class StoredCase:
    """A preprocessed case on disk, of which boxes are read. Pickled as a path; each process opens its own files.

    Args:
        folder: Folder of the configuration's cases.
        case_id: Its id.

    Raises:
        MissingArtifactError: When there is no such case.
        ArtifactError: When one of its files is truncated or foreign.
    """

    def __init__(self, folder: Path, case_id: str) -> None:
        self.folder = folder
        self.id = case_id
        path = folder / f"{case_id}{_RECORD}"
        try:
            self.record = read_json(StoredCaseRecord, path)
        except MissingArtifactError:
            raise MissingArtifactError(
                f"case {case_id} is not preprocessed in {folder}. Do it: autoseg plan-and-preprocess"
            ) from None
        except ArtifactError as error:
            raise ArtifactError(f"{error}; {_REMEDY}") from None
        _check_sizes(path, self.record)
        self._arrays: dict[str, Any] = {}
        self._positions: tuple[np.ndarray, ...] | None = None

    def __reduce__(self) -> tuple[type[StoredCase], tuple[Path, str]]:
        """Open files stay behind: each process opens its own."""
        return StoredCase, (self.folder, self.id)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of the image, (c, z, y, x) or (c, y, x)."""
        return self.record.image_shape

    @property
    def trace(self) -> CaseTrace:
        """How to get back to the stored grid."""
        return self.record.trace

    @property
    def foreground(self) -> tuple[np.ndarray, ...]:
        """int32 positions (n, ndim) per target, and of annotated voxels last; mapped from the file, read when used."""
        if self._positions is None:
            path = self._path(_FOREGROUND)
            shape = (sum(self.record.num_positions), len(self.image_shape) - 1)
            try:
                # An empty file cannot be mapped.
                positions = np.load(path, mmap_mode="r" if shape[0] else None, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                _raise_unreadable(path, error)
            if positions.shape != shape or positions.dtype != np.int32:
                _raise_unreadable(path, f"holds {positions.dtype} of shape {positions.shape}, expected int32 {shape}")
            ends = np.cumsum(self.record.num_positions, dtype=int)
            self._positions = tuple(np.split(np.asarray(positions), ends[:-1])) if len(ends) else ()
        return self._positions

    def read_image(self, box: BoundingBox) -> np.ndarray:
        """Read intensities (c, *box.shape), float32.

        Raises:
            ValueError: When the box reaches outside the image.
            ArtifactError: When the file is damaged.
        """
        return self._read(_IMAGE, box, np.float32)

    def read_segmentation(self, box: BoundingBox) -> np.ndarray:
        """Read labels (*box.shape), int16, -1 where there is neither intensity nor label.

        Raises:
            ValueError: When the box reaches outside the image.
            ArtifactError: When the file is damaged.
            MissingArtifactError: When the case was stored without labels.
        """
        if not self.record.has_segmentation:
            raise MissingArtifactError(f"case {self.id} in {self.folder} has no segmentation")
        return self._read(_SEGMENTATION, box, np.int16)

    def load(self) -> PreprocessedCase:
        """Read everything into memory."""
        whole = BoundingBox.whole(self.image_shape[1:])
        return PreprocessedCase(
            id=self.id,
            image=self.read_image(whole),
            segmentation=self.read_segmentation(whole) if self.record.has_segmentation else None,
            foreground=tuple(np.array(positions) for positions in self.foreground),
            trace=self.trace,
        )

    def _path(self, ending: str) -> Path:
        return self.folder / f"{self.id}{ending}"

    def _read(self, ending: str, box: BoundingBox, dtype: type[np.generic]) -> np.ndarray:
        spatial = self.image_shape[1:]
        if len(box.stop) != len(spatial) or np.any(np.less(box.start, 0)) or np.any(np.greater(box.stop, spatial)):
            raise ValueError(f"{box} reaches outside the image of shape {spatial}")
        path = self._path(ending)
        lead: tuple[slice, ...] = (slice(None),) if ending == _IMAGE else ()
        try:
            if ending not in self._arrays:
                self._arrays[ending] = _open_array(path, (*self.image_shape[: len(lead)], *spatial), dtype)
            return np.asarray(self._arrays[ending][(*lead, *box.slices)])
        except (RuntimeError, ValueError, OSError) as error:
            _raise_unreadable(path, error)


def storage_blocks(
    shape: Sequence[int], patch_size: Sequence[int], itemsize: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Choose the layout of an array so that a patch anywhere touches little beyond itself.

    Blocks are decompressed one by one. They start as powers of two that cover the patch and are halved along their
    longest edge, relative to the patch, until they fit a cache. Chunks are runs of blocks that fit a file read; a small
    array is one chunk, because each costs a third of a millisecond to write.

    Args:
        shape: (c, ...) or (...) of the array.
        patch_size: Voxels of a patch, per spatial axis.
        itemsize: Bytes per voxel.

    Returns:
        Shape of a chunk and shape of a block.
    """
    lead = len(shape) - len(patch_size)
    patch = [min(n, p) for n, p in zip(shape[lead:], patch_size, strict=True)]
    block = [min(n, 1 << (p - 1).bit_length()) for n, p in zip(shape[lead:], patch, strict=True)]
    while math.prod(block) * itemsize > _BLOCK_BYTES:
        axis = max((a for a, b in enumerate(block) if b > 1), key=lambda a: block[a] / patch[a])
        block[axis] = 1 << ((block[axis] - 1).bit_length() - 1)
    chunk = list(block)
    growing = list(range(len(block)))
    while growing:
        axis = min(growing, key=lambda a: chunk[a] / patch[a])
        longer = min(chunk[axis] + block[axis], shape[lead + axis])
        grown = math.prod(chunk) // chunk[axis] * longer
        most = _CHUNK_BYTES if chunk[axis] < 2 * patch[axis] else _SMALL_BYTES
        if longer == chunk[axis] or grown * itemsize > most:
            growing.remove(axis)
        else:
            chunk[axis] = longer
    return (*(1,) * lead, *chunk), (*(1,) * lead, *block)


def write_array(array: np.ndarray, path: Path, patch_size: Sequence[int]) -> Path:
    """Write an array compressed, in blocks of which a patch touches few; atomically.

    Args:
        array: Leading axes, then the spatial axes of the patch.
        path: File to write; its folder is created.
        patch_size: Voxels that are read at once.

    Returns:
        The path.
    """
    chunks, blocks = storage_blocks(array.shape, patch_size, array.itemsize)
    import blosc2

    # LZ4 with shuffled bytes: a tenth of LZ4HC's time for a tenth more space, and as fast to read.
    compression = blosc2.CParams(codec=blosc2.Codec.LZ4, clevel=5, filters=[blosc2.Filter.SHUFFLE], nthreads=1)
    layout = {
        "mode": "w",
        "chunks": chunks,
        "blocks": blocks,
        "cparams": compression,
        "dparams": blosc2.DParams(nthreads=1),
    }
    # Not forced to the disk: after a power failure the sizes in the record tell what is missing, and it is made again.
    with atomic_path(path, durable=False) as temporary:
        if array.nbytes <= _WRITTEN_AT_ONCE:
            blosc2.asarray(np.ascontiguousarray(array), urlpath=str(temporary), **layout)
            return path
        stored = blosc2.empty(array.shape, dtype=array.dtype, urlpath=str(temporary), **layout)
        lead = array.ndim - len(patch_size)  # whole rows of chunks: none is compressed twice
        for index in np.ndindex(array.shape[:lead]):
            planes = array[index]
            for start in range(0, len(planes), chunks[lead]):
                part = slice(start, min(start + chunks[lead], len(planes)))
                stored[(*(slice(i, i + 1) for i in index), part)] = np.ascontiguousarray(planes[part])[(None,) * lead]
                let_go(array)
    return path


def _open_array(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> Any:  # noqa: ANN401 - blosc2 is untyped
    import blosc2

    array = blosc2.open(str(path), mode="r", mmap_mode="r", dparams=blosc2.DParams(nthreads=1))
    if not isinstance(array, blosc2.NDArray) or array.shape != shape or array.dtype != dtype:
        raise ValueError(f"it does not hold {np.dtype(dtype)} of shape {shape}")
    return array


def _check_sizes(path: Path, record: StoredCaseRecord) -> None:
    """Refuse truncated files before they are mapped, where reading beyond their end would kill the process."""
    for ending, expected in record.file_sizes.items():
        part = path.with_name(path.name.removesuffix(_RECORD) + ending)
        found = part.stat().st_size if part.is_file() else 0
        if found != expected:
            raise ArtifactError(f"{part} has {found} bytes instead of {expected}; {_REMEDY}")


def _raise_unreadable(path: Path, reason: object) -> NoReturn:
    raise ArtifactError(f"{path} cannot be read ({reason}); {_REMEDY}") from None
