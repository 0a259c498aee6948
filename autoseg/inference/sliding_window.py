"""Logits of an image of any size from a network that sees patches: overlapping tiles, weighted towards their centers.

The rules (padding, tile positions, Gaussian, mirroring) are those of nnU-Net (Isensee et al., Nature Methods 2021), so
that its models give its results here. Tiles are visited plane after plane of the first axis, and a plane that no later
tile reaches leaves at once: sums are held for as many planes as a tile is thick, however long the image is
(:mod:`autoseg.inference.sums`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from scipy.ndimage import gaussian_filter1d

from autoseg.errors import ArtifactError, SettingsError
from autoseg.inference.sums import RollingSums, ScratchSums, SumsLayout, WorkingMemory, in_strips
from autoseg.inference.views import View
from autoseg.plan import Accumulation

Network = Callable[[torch.Tensor], torch.Tensor]

_DTYPES = {"float32": torch.float32, "float16": torch.float16}
# Patches per call are chosen by their voxels: enough to keep the device busy, few enough to fit beside the network.
CPU_VOXELS_PER_CALL = 1 << 16
_VOXELS_PER_CALL = {"cuda": 1 << 22, "mps": 1 << 20}
_VOXELS_AT_ONCE = 1 << 20  # of the patches that a CPU works on side by side


def gaussian_importance(patch_size: Sequence[int], *, accumulation: Accumulation = "float32") -> torch.Tensor:
    """Weight of each voxel of a tile: a Gaussian around its center with a standard deviation of an eighth of it.

    Args:
        patch_size: Voxels per axis.
        accumulation: "float16" gives nnU-Net's weights, whose corners are subnormal; "float32" gives the same
            function without that loss.

    Returns:
        Tensor of shape ``patch_size``, at most 10, everywhere positive.
    """
    weights = np.ones(1)
    for size in patch_size:
        impulse = np.zeros(size)
        impulse[size // 2] = 1.0
        weights = weights[..., None] * gaussian_filter1d(impulse, size / 8, mode="constant")
    weights = weights[0] / (weights.max() / 10)
    rounded = torch.from_numpy(weights).to(_DTYPES[accumulation])
    rounded[rounded == 0] = rounded[rounded > 0].min()
    return rounded


def tile_positions(shape: Sequence[int], patch_size: Sequence[int], step: float = 0.5) -> list[tuple[int, ...]]:
    """First corners of the tiles that cover an image, spread evenly.

    Args:
        shape: Voxels of the image per axis, nowhere less than the patch's.
        patch_size: Voxels of a tile.
        step: Largest distance of neighbouring tiles as a share of the tile, above 0 and at most 1.

    Returns:
        Positions in the order of nested loops, the first axis outermost. A shape with one axis more than the patch
        is a stack of slices: every slice is covered by itself, and positions have the slice first.

    Raises:
        ValueError: When the step is impossible or the image smaller than a tile.
    """
    if not 0 < step <= 1:
        raise ValueError(f"step must lie above 0 and not above 1, got {step}")
    num_leading = len(shape) - len(patch_size)
    starts = [list(range(size)) for size in shape[:num_leading]]
    for size, tile in zip(shape[num_leading:], patch_size, strict=True):
        if size < tile:
            raise ValueError(f"an image of {tuple(shape)} voxels is smaller than a tile of {tuple(patch_size)}")
        last = size - tile
        count = math.ceil(last / max(1, tile * step)) + 1  # a tile of one voxel covers each once
        # round() is half-even, as NumPy's: positions equal nnU-Net's
        starts.append([round(last / (count - 1) * i) for i in range(count)] if count > 1 else [0])
    return list(itertools.product(*starts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How an image is seen: tiles, their order, and the ways in which each is looked at.

    Args:
        patch_size: Voxels per axis that the network sees.
        step: Largest distance of neighbouring tiles as a share of the tile.
        views: The result is the mean over these views of each tile.
        batch_size: Patches per call of the network; None chooses by their size and the device. Calls that run out of
            a GPU's memory are split.
        accumulation: Type of sums and weights. "float16" repeats nnU-Net's arithmetic, for its models.
        importance: Whether tiles weigh more at their center (as in nnU-Net) or everywhere the same.
        slice_axis: Axis of a volume across which a 2D network's slices are cut.
        context: Slices that such a network sees as channels, of which it answers for the middle one; an odd number.
    """

    patch_size: tuple[int, ...]
    step: float = 0.5
    views: tuple[View, ...] = (View(),)
    batch_size: int | None = None
    accumulation: Accumulation = "float32"
    importance: Literal["gaussian", "constant"] = "gaussian"
    slice_axis: int = 0
    context: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """Type of the sums."""
        return _DTYPES[self.accumulation]

    def weight(self) -> torch.Tensor:
        """Weight of each voxel of a tile."""
        if self.importance == "constant":
            return torch.ones(self.patch_size, dtype=self.dtype)
        return gaussian_importance(self.patch_size, accumulation=self.accumulation)

    def sums(self, shape: Sequence[int], num_outputs: int, device: torch.device) -> SumsLayout:
        """Sums that are held at once for an image (axes...) of some shape."""
        grid = self._padded(shape)
        return self._layout(grid, num_outputs, tile_positions(grid, self._extent(len(grid)), self.step), device)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether an image (axes...) is nowhere smaller than a tile, so that nothing has to be padded."""
        return self._padded(shape) == tuple(shape)

    def _layout(
        self, grid: Sequence[int], num_outputs: int, positions: Sequence[tuple[int, ...]], device: torch.device
    ) -> SumsLayout:
        extent = self._extent(len(grid))
        return SumsLayout(
            num_outputs=num_outputs,
            plane=tuple(grid[1:]),
            extent=extent,
            depth=_planes_held(self._groups(positions, device), extent[0]),
            dtype=self.dtype,
        )

    def _padded(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(max(n, e) for n, e in zip(shape, self._extent(len(shape)), strict=True))

    def _extent(self, ndim: int) -> tuple[int, ...]:
        """Voxels of a tile along every axis of the image; one across slices."""
        if ndim == len(self.patch_size):
            return self.patch_size
        return (*self.patch_size[: self.slice_axis], 1, *self.patch_size[self.slice_axis :])

    def _tile(self, image: torch.Tensor, position: tuple[int, ...]) -> torch.Tensor:
        """What the network sees of an image (c, ...) at a position: (c, *patch), or (c * context, *patch)."""
        extent = self._extent(len(position))
        where = _tile(position, extent)
        if len(position) == len(self.patch_size):
            return image[where]
        axis = 1 + self.slice_axis
        if self.context == 1:
            return image[where].squeeze(axis)
        first, last = position[self.slice_axis] - self.context // 2, image.shape[axis] - 1
        beside = [min(max(first + i, 0), last) for i in range(self.context)]  # the border's slice is repeated
        part = slice(beside[0], beside[-1] + 1)
        stack = image[(*where[:axis], part, *where[axis + 1 :])]
        chosen = torch.tensor([place - beside[0] for place in beside], device=image.device)
        return stack.index_select(axis, chosen).movedim(axis, 1).flatten(0, 1)

    def _groups(self, positions: Sequence[tuple[int, ...]], device: torch.device) -> list[Sequence[tuple[int, ...]]]:
        """Positions that are run together."""
        size = max(1, self.patches_per_call(device) // len(self.views))
        return [positions[start : start + size] for start in range(0, len(positions), size)]

    def patches_per_call(self, device: torch.device) -> int:
        """Batch size as given, else by device."""
        return self.batch_size or choose_batch_size(self.patch_size, device)

    def run(self, tiles: torch.Tensor, network: Network, per_call: int) -> torch.Tensor:
        """Logits of tiles (b, c, *patch), averaged over the views, in float32."""
        at_once = max(1, per_call // len(tiles))
        total: torch.Tensor | None = None
        # Turned tiles have another shape: they cannot share a call with the others.
        for _, alike in itertools.groupby(self.views, key=lambda view: view.shape(self.patch_size)):
            for views in _parts(tuple(alike), at_once):
                total = _add_views(total, tiles, network, views)
        assert total is not None  # there is always a view
        return total.div_(len(self.views))


@torch.inference_mode()
def window_slabs(
    image: torch.Tensor,
    network: Network,
    tiling: Tiling,
    *,
    num_outputs: int,
    region: np.ndarray | None = None,
    outside: Sequence[float] | None = None,
    memory: WorkingMemory | None = None,
    compute_device: torch.device | None = None,
) -> Iterator[torch.Tensor]:
    """Predict an image of any size, some planes at a time.

    Args:
        image: (c, ...) with as many spatial axes as the patch, or one more: then a 2D network sees its slices. Sums
            are held on its device; not modified.
        network: Turns patches (b, c, *patch) into logits (b, k, *patch). It may answer from another device.
        tiling: Tiles and views.
        num_outputs: Channels k of the network's output.
        region: Boolean, the image's grid: only tiles that hold a voxel of it are visited. A voxel of the region is
            predicted exactly as without it.
        outside: Logits of voxels that no tile covers; required with a region.
        memory: Where sums lie; None takes memory on the image's device.
        compute_device: Where the network runs; decides the batch. None is the image's device.

    Yields:
        Logits (k, n, ...) of consecutive planes of the first axis, in the type of the accumulation.

    Raises:
        SettingsError: When float16 sums overflow.
        ArtifactError: When the network's outputs are not finite.
    """
    device = compute_device or image.device
    extent = tiling._extent(image.ndim - 1)
    padded, stored = pad_nd_image(image, extent, return_slicer=True)  # zeros, the odd voxel at the end
    grid = tuple(padded.shape[1:])
    positions = tile_positions(grid, extent, tiling.step)
    if region is not None:
        if outside is None:
            raise ValueError("voxels outside of a region need logits")
        positions = _touching(positions, extent, region, stored[1:])
    layout = tiling._layout(grid, num_outputs, positions, device)
    beyond = None if region is None else outside
    columns = None if memory is None else memory.columns(layout)
    if memory is None or columns is None:
        sums: RollingSums | ScratchSums = RollingSums(layout, outside=beyond, device=image.device)
    else:
        strips = in_strips(positions, extent[-1], columns)
        positions = list(strips)
        sums = ScratchSums(layout, strips=strips, outside=beyond, memory=memory)
    groups = tiling._groups(positions, device)
    weight = tiling.weight().to(image.device).reshape(extent)
    per_call = tiling.patches_per_call(device)
    first, last = stored[1].start or 0, stored[1].stop or grid[0]
    inside: tuple[slice, ...] = (slice(None), slice(None), *stored[2:])
    done = first
    for group in groups:
        # Planes before this group are complete. They leave first: a region may leave more of them empty than are held.
        for piece in sums.take(done, min(group[0][0], last)):
            yield _checked(piece[inside], tiling.accumulation)
        done = max(done, group[0][0])
        tiles = torch.stack([tiling._tile(padded, position) for position in group])  # (b, c, *patch)
        outputs = tiling.run(tiles, network, per_call)  # (b, k, *patch)
        for position, output in zip(group, outputs, strict=True):
            sums.add(position, output.reshape(num_outputs, *extent), weight)
    for piece in sums.take(done, last):
        yield _checked(piece[inside], tiling.accumulation)


def sliding_window(image: torch.Tensor, network: Network, tiling: Tiling, *, num_outputs: int) -> torch.Tensor:
    """Predict a whole image at once; arguments, result and errors as for :func:`window_slabs`.

    Returns:
        Logits (k, ...) on the image's grid in the type of the accumulation.
    """
    return torch.cat(list(window_slabs(image, network, tiling, num_outputs=num_outputs)), dim=1)


def _tile(position: tuple[int, ...], extent: tuple[int, ...]) -> tuple[slice, ...]:
    """Index of a tile behind the channel axis."""
    return (slice(None), *(slice(p, p + n) for p, n in zip(position, extent, strict=True)))


def _planes_held(groups: Sequence[Sequence[tuple[int, ...]]], thickness: int) -> int:
    """Planes between the first and the last that the tiles of one group reach, in the worst group."""
    return max((group[-1][0] - group[0][0] + thickness for group in groups), default=1)


def _touching(
    positions: Sequence[tuple[int, ...]], extent: tuple[int, ...], region: np.ndarray, stored: Sequence[slice]
) -> list[tuple[int, ...]]:
    """Tiles, on the padded grid, that hold a voxel of a region on the image's grid."""

    def within(position: tuple[int, ...]) -> tuple[slice, ...]:
        offsets = (part.start or 0 for part in stored)
        return tuple(slice(max(0, p - o), max(0, p - o + n)) for p, n, o in zip(position, extent, offsets, strict=True))

    return [position for position in positions if region[within(position)].any()]


def _add_views(
    total: torch.Tensor | None, tiles: torch.Tensor, network: Network, views: tuple[View, ...]
) -> torch.Tensor:
    """Add logits of some views of tiles; in a function of its own, so that answers go before the next are made."""
    outputs = _call(network, torch.cat([view.apply(tiles) for view in views]))
    for output, view in zip(outputs.chunk(len(views)), views, strict=True):
        restored = view.invert(output).to(tiles.device, torch.float32)
        total = restored.clone() if total is None else total.add_(restored)
    assert total is not None  # there is always a view
    return total


def _parts(views: tuple[View, ...], size: int) -> Iterator[tuple[View, ...]]:
    for start in range(0, len(views), size):
        yield views[start : start + size]


def choose_batch_size(patch_size: Sequence[int], device: torch.device) -> int:
    """Patches per call that keep a device busy: many small ones, one large one."""
    if device.type != "cpu":
        return max(1, _VOXELS_PER_CALL.get(device.type, CPU_VOXELS_PER_CALL) // math.prod(patch_size))
    return num_streams(patch_size, torch.get_num_threads()) * max(1, CPU_VOXELS_PER_CALL // math.prod(patch_size))


def num_streams(patch_size: Sequence[int], threads: int) -> int:
    """Patches that a CPU with some threads works on side by side: as many as fit into memory easily."""
    return max(1, min(threads, _VOXELS_AT_ONCE // math.prod(patch_size)))


def _call(network: Network, patches: torch.Tensor) -> torch.Tensor:
    """Run the network, on halves of the batch where the whole does not fit."""
    try:
        return network(patches)
    except torch.OutOfMemoryError:
        if len(patches) == 1:
            raise
    # Outside of the handler: the exception's traceback would keep the tensors of the failed call alive.
    return torch.cat([_call(network, half) for half in patches.tensor_split(2)])


def _checked(logits: torch.Tensor, accumulation: Accumulation) -> torch.Tensor:
    if bool(torch.isfinite(logits).all()):
        return logits
    if accumulation == "float16":
        raise SettingsError("sums of logits do not fit float16; predict with --accumulation float32")
    raise ArtifactError("the network answers with values that are not finite; its weights are damaged")
