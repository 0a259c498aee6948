"""What a prediction needs in memory and on disk, known before it begins, and where its sums of logits lie."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autoseg.errors import SettingsError
from autoseg.image import Image
from autoseg.inference.export import SLAB_VALUES
from autoseg.inference.sliding_window import Tiling
from autoseg.memory import in_gigabytes, memory_state
from autoseg.plan import Configuration
from autoseg.preprocessing.case import target_spacing
from autoseg.preprocessing.resampling import resampled_shape

_PROGRAM = 700 << 20  # torch, SimpleITK and a network at rest
_SLABS_ALIVE = 6  # a slab on the network's grid, its resampled planes, the restored slab, probabilities, and copies
_SHARE = 0.6  # of what is free now that a prediction may take when nobody says how much
_GIGABYTE = 10**9
_UNKNOWN = 8 * _GIGABYTE  # available where the system does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What the prediction of one image with one configuration needs, in bytes.

    Args:
        arrays: The image in all the forms that exist at once, and slabs of scores.
        sums: Sums of logits; they lie on disk where memory is short.
    """

    arrays: int
    sums: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkingMemory:
    """Makes the arrays that hold sums: in memory up to a size, beyond it in files that vanish with the program.

    Args:
        in_memory: Bytes of the largest array that is kept in memory.
        scratch: Folder for the others; None takes the system's folder for temporary files.
    """

    in_memory: int
    scratch: Path | None = None

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor of zeros on the CPU.

        Raises:
            SettingsError: When the disk is too full for it.
        """
        num_bytes = math.prod(shape) * dtype.itemsize
        if num_bytes <= self.in_memory:
            return torch.zeros(shape, dtype=dtype)
        folder = Path(self.scratch or tempfile.gettempdir())
        check_space(folder, num_bytes)
        # Opened, mapped and unlinked at once: whatever happens, nothing stays behind.
        with tempfile.TemporaryFile(dir=folder, prefix="autoseg-") as file:
            file.truncate(num_bytes)
            kind = np.float16 if dtype == torch.float16 else np.float32
            mapped: np.ndarray = np.memmap(file, dtype=kind, mode="r+", shape=shape)
        return torch.from_numpy(mapped)


@dataclass(frozen=True, slots=True, kw_only=True)
class CasesForecast:
    """What the largest of several images will need.

    Args:
        name: Of its file.
        shape: Its voxels.
        image_bytes: The image as read, and its segmentation.
        needs: One per configuration that predicts.
        max_memory_gb: What the program may take, if somebody said it.
        scratch: Folder of scratch files.
    """

    name: str
    shape: tuple[int, ...]
    image_bytes: int
    needs: tuple[Forecast, ...]
    max_memory_gb: float | None
    scratch: str | None

    @property
    def arrays(self) -> int:
        """Bytes of memory without the sums."""
        return _PROGRAM + self.image_bytes + sum(n.arrays for n in self.needs)

    @property
    def sums(self) -> int:
        """Bytes of the sums."""
        return sum(n.sums for n in self.needs)

    @property
    def total(self) -> int:
        """Bytes of everything."""
        return self.arrays + self.sums

    @property
    def is_large(self) -> bool:
        """Whether a second image at the same time would be too much."""
        return 2 * self.total > self._limit

    @property
    def in_words(self) -> str:
        """One sentence."""
        shape = "x".join(map(str, self.shape))
        where = "" if self.total <= self._limit else f", of which {in_gigabytes(self.sums)} in scratch files"
        return f"the largest image, {self.name} ({shape}), will take up to {in_gigabytes(self.total)}{where}"

    def check(self) -> None:
        """Refuse what cannot work before anything is computed.

        Raises:
            SettingsError: When the limit or the disk is too small.
        """
        working_memory(
            self.needs,
            self.image_bytes,
            max_memory_gb=self.max_memory_gb,
            scratch=self.scratch,
            case_id=self.name,
        )

    @property
    def _limit(self) -> float:
        if self.max_memory_gb is not None:
            return self.max_memory_gb * _GIGABYTE
        return _usable()


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
            f"sums of logits need {in_gigabytes(num_bytes)} of scratch files, {folder} has {in_gigabytes(free)} free; "
            "name another folder with --scratch, or allow more memory with --max-memory"
        )


def forecast(
    configuration: Configuration,
    shape: Sequence[int],
    spacing: Sequence[float],
    *,
    num_channels: int,
    num_outputs: int,
    tilings: Sequence[Tiling],
    copies_of_sums: int = 1,
    device: str = "cpu",
) -> Forecast:
    """What one image needs with the models of one configuration; never less, since its border may be cropped.

    Args:
        configuration: As trained.
        shape: Voxels of the image, transposed as the plan says.
        spacing: Millimetres per voxel, transposed.
        num_channels: Input channels of the image.
        num_outputs: Outputs of the network.
        tilings: How it is seen; sums of all are held at the same time.
        copies_of_sums: Models whose sums are held apart.
        device: Where networks run.
    """
    voxels = math.prod(shape)
    grid = resampled_shape(shape, spacing=spacing, new_spacing=target_spacing(spacing, configuration))
    plane, image_plane = math.prod(grid[1:]), math.prod(shape[1:])
    depth = sum(tiling.sum_planes(grid, torch.device(device)) for tiling in tilings)
    slab = 4 * max(SLAB_VALUES, num_outputs * max(plane, image_plane))
    # normalized, resampled and padded; the boolean mask of what is not zero
    image = 4 * num_channels * (voxels + 2 * math.prod(grid)) + voxels
    sums = (num_outputs + 1) * depth * plane * tilings[0].dtype.itemsize * copies_of_sums
    return Forecast(arrays=image + _SLABS_ALIVE * slab, sums=sums)


def working_memory(
    forecasts: Sequence[Forecast],
    image_bytes: int,
    *,
    max_memory_gb: float | None,
    scratch: str | None,
    case_id: str,
) -> WorkingMemory:
    """Decide where the sums of a prediction lie.

    Args:
        forecasts: One per configuration that predicts; their slabs are alive at the same time.
        image_bytes: The image as read, and its segmentation.
        max_memory_gb: What the program may take; None takes a share of what is free.
        scratch: Folder of scratch files.
        case_id: For errors.

    Raises:
        SettingsError: When the limit is too small for the image itself, or the disk for the sums.
    """
    arrays = image_bytes + sum(f.arrays for f in forecasts)
    if max_memory_gb is None:
        left = int(_usable()) - arrays
    else:
        left = int(max_memory_gb * _GIGABYTE) - _PROGRAM - arrays
        if left < 0:
            raise SettingsError(
                f"case {case_id} needs {in_gigabytes(arrays + _PROGRAM)} of memory without the sums of logits, "
                f"--max-memory allows {max_memory_gb:g} GB"
            )
    total = sum(f.sums for f in forecasts)
    if total <= left:
        return WorkingMemory(in_memory=total)
    folder = None if scratch is None else Path(scratch)
    check_space(Path(folder or tempfile.gettempdir()), total)
    return WorkingMemory(in_memory=max(0, left) // max(1, len(forecasts)), scratch=folder)


def bytes_of(image: Image) -> int:
    """The image as read and a segmentation of it."""
    return int(image.array.nbytes + 2 * math.prod(image.geometry.shape))


def _usable() -> float:
    """Bytes that a prediction may take when nobody says how much."""
    available = memory_state().available
    return _SHARE * (_UNKNOWN if available is None else available)
