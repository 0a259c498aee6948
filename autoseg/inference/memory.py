"""What a prediction needs in memory and on disk, known before it begins, and where its sums of logits lie."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autoseg.arrays import IN_MEMORY, Room, check_space, own_bytes
from autoseg.errors import SettingsError
from autoseg.image import Image
from autoseg.inference.export import SLAB_VALUES
from autoseg.inference.sliding_window import Tiling
from autoseg.inference.sums import WorkingMemory
from autoseg.memory import in_gigabytes, memory_state
from autoseg.plan import Configuration
from autoseg.preprocessing.case import target_spacing
from autoseg.preprocessing.resampling import resampled_shape

_PROGRAM = 700 << 20  # torch, SimpleITK and a network at rest
_SLABS_ALIVE = 6  # a slab on the network's grid, its resampled planes, the restored slab, probabilities, and copies
LARGEST_IN_MEMORY = 1 << 26
"""Bytes of the largest array of an image that stays in memory where its larger ones go to scratch files."""
_ARRAYS_AT_ONCE = 8  # of those, and of temporary ones
_ACTIVATIONS = 4  # of a network's first stage, at once: the skip connection, both halves beside it, and a result
_SHARE = 0.6  # of what is free now that a prediction may take when nobody says how much
_GIGABYTE = 10**9
_UNKNOWN = 8 * _GIGABYTE  # available where the system does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What the prediction of one image with one configuration needs, in bytes.

    Args:
        arrays: The image in all the forms that exist at once, a call of the network, and slabs of scores.
        sums: Sums of logits; they lie on disk where memory is short.
        window: Memory that sums on disk take all the same.
        copies: Sets of sums.
        without_image: As ``arrays``, where the image's forms lie on disk too.
        image: Bytes of those on disk.
    """

    arrays: int
    sums: int
    window: int = 0
    copies: int = 1
    without_image: int = 0
    image: int = 0


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
        needed = f"the largest image, {self.name} ({shape}), would take up to {in_gigabytes(self.total)}"
        if self.total <= self._limit:
            return needed.replace("would take", "will take")
        files = self.sums + (sum(n.image for n in self.needs) if self.arrays > self._limit else 0)
        return f"{needed}; up to {in_gigabytes(files)} of that lie in scratch files, to keep to a limit"

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
    place = torch.device(device)
    grid = resampled_shape(shape, spacing=spacing, new_spacing=target_spacing(spacing, configuration))
    layouts = [tiling.sums(grid, num_outputs, place) for tiling in tilings]
    seen = num_channels + (num_outputs - 1 if configuration.previous_stage is not None else 0)
    preparing = _preparing(math.prod(shape), math.prod(grid), num_channels)
    channels = 4 * seen * math.prod(grid)
    slab = 4 * max(SLAB_VALUES, num_outputs * max(math.prod(grid[1:]), math.prod(shape[1:])))
    running = (_SLABS_ALIVE + len(tilings) - 1) * slab
    if not all(tiling.fits(grid) for tiling in tilings):
        running += channels  # padded, a copy in memory
    if place.type == "cpu":
        running += _calling(configuration, tilings[0], num_outputs)
    return Forecast(
        arrays=max(preparing, running + channels),
        sums=sum(layout.num_bytes for layout in layouts) * copies_of_sums,
        window=sum(layout.window_bytes() for layout in layouts) * copies_of_sums,
        copies=len(tilings) * copies_of_sums,
        without_image=max(running, _ARRAYS_AT_ONCE * LARGEST_IN_MEMORY),
        image=preparing + channels,
    )


def _preparing(voxels: int, resampled: int, num_channels: int) -> int:
    """Normalized, resampled, and half-resampled channels; the boolean mask of what is not zero."""
    return 4 * (num_channels * (voxels + resampled) + max(voxels, resampled)) + voxels


def _calling(configuration: Configuration, tiling: Tiling, num_outputs: int) -> int:
    """A call of the network: its widest activations, its answer, the answer turned back, and the mean of answers."""
    copies = 2 if len(tiling.views) == 1 else 3
    channels = copies * num_outputs + _ACTIVATIONS * configuration.network.features[0]
    return 4 * tiling.patches_per_call(torch.device("cpu")) * math.prod(tiling.patch_size) * channels


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
    limit = int(_usable()) if max_memory_gb is None else int(max_memory_gb * _GIGABYTE) - _PROGRAM
    total, window = sum(f.sums for f in forecasts), sum(f.window for f in forecasts)
    folder = None if scratch is None else Path(scratch)
    room, on_disk = IN_MEMORY, 0
    left = limit - image_bytes - sum(f.arrays for f in forecasts)
    if left < min(window, total):
        room, on_disk = Room(largest=LARGEST_IN_MEMORY, scratch=folder), sum(f.image for f in forecasts)
        without_image = image_bytes + sum(f.without_image for f in forecasts)
        left = limit - without_image
        if max_memory_gb is not None and left < min(window, total):
            needed = in_gigabytes(without_image + _PROGRAM + min(window, total))
            raise SettingsError(
                f"case {case_id} needs {needed} of memory with everything in scratch files that can lie there; "
                f"--max-memory allows {max_memory_gb:g} GB"
            )
    on_disk += total if total > left else 0
    if on_disk:
        check_space(Path(folder or tempfile.gettempdir()), on_disk)
    in_memory = total if total <= left else max(0, left) // max(1, sum(f.copies for f in forecasts))
    return WorkingMemory(in_memory=in_memory, scratch=folder, room=room)


def bytes_of(image: Image) -> int:
    """The image as read, where it is not mapped from its file, and a segmentation of it."""
    return own_bytes(image.array) + 2 * math.prod(image.geometry.shape)


def _usable() -> float:
    """Bytes that a prediction may take when nobody says how much."""
    available = memory_state().available
    return _SHARE * (_UNKNOWN if available is None else available)
