"""Logits of a whole image from a network that sees patches: overlapping tiles, weighted towards their centers.

The rules (padding, tile positions, Gaussian, mirroring) are those of nnU-Net (Isensee et al., Nature Methods 2021), so
that its models give its results here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from scipy.ndimage import gaussian_filter1d

from autoseg.errors import ArtifactError, SettingsError
from autoseg.plan import Accumulation

Network = Callable[[torch.Tensor], torch.Tensor]

_DTYPES = {"float32": torch.float32, "float16": torch.float16}
# Patches per call are chosen by their voxels: enough to keep the device busy, few enough to fit beside the network.
_VOXELS_PER_CALL = {"cpu": 1 << 16, "cuda": 1 << 22, "mps": 1 << 20}


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
        count = math.ceil(last / (tile * step)) + 1
        # round() is half-even, as NumPy's: positions equal nnU-Net's
        starts.append([round(last / (count - 1) * i) for i in range(count)] if count > 1 else [0])
    return list(itertools.product(*starts))


def mirror_subsets(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every set of axes along which a tile is mirrored, the empty one first, then by size.

    Example:
        >>> mirror_subsets((0, 2))
        [(), (0,), (2,), (0, 2)]
    """
    return [chosen for size in range(len(axes) + 1) for chosen in itertools.combinations(axes, size)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tiling:
    """How the tiles of one image are cut out and run.

    Args:
        patch_size: Voxels per axis that the network sees.
        flips: Tensor axes of a batch (b, c, ...) to mirror, one set per pass.
        batch_size: Patches per call of the network.
    """

    patch_size: tuple[int, ...]
    flips: tuple[tuple[int, ...], ...]
    batch_size: int

    def groups(self, positions: Sequence[tuple[int, ...]]) -> Iterator[Sequence[tuple[int, ...]]]:
        """Positions that are run together."""
        size = max(1, self.batch_size // len(self.flips))
        for start in range(0, len(positions), size):
            yield positions[start : start + size]

    def index(self, position: tuple[int, ...]) -> tuple[int | slice, ...]:
        """Index of a tile behind the channel axis; a leading slice number stays a number."""
        lead = len(position) - len(self.patch_size)
        tile = (slice(p, p + n) for p, n in zip(position[lead:], self.patch_size, strict=True))
        return (slice(None), *position[:lead], *tile)

    def run(self, tiles: torch.Tensor, network: Network) -> torch.Tensor:
        """Logits of tiles (b, c, *patch), averaged over the mirrored passes, in float32."""
        passes_per_call = max(1, self.batch_size // len(tiles))
        total: torch.Tensor | None = None
        for start in range(0, len(self.flips), passes_per_call):
            flips = self.flips[start : start + passes_per_call]
            outputs = _call(network, torch.cat([tiles.flip(axes) for axes in flips]))
            for output, axes in zip(outputs.chunk(len(flips)), flips, strict=True):
                restored = output.flip(axes).to(tiles.device, torch.float32)
                total = restored if total is None else total.add_(restored)
        assert total is not None  # there is always the pass without mirroring
        return total.div_(len(self.flips))


def sliding_window(
    image: torch.Tensor,
    network: Network,
    *,
    patch_size: Sequence[int],
    num_outputs: int,
    step: float = 0.5,
    mirror_axes: Sequence[int] = (),
    batch_size: int | None = None,
    accumulation: Accumulation = "float32",
) -> torch.Tensor:
    """Predict an image of any size.

    Args:
        image: (c, ...) with as many spatial axes as the patch, or one more: then a 2D network sees the slices along
            the first axis. Results are collected on its device; not modified.
        network: Turns patches (b, c, *patch) into logits (b, k, *patch). It may answer from another device.
        patch_size: Voxels per axis that the network sees.
        num_outputs: Channels k of the network's output.
        step: Largest distance of neighbouring tiles as a share of the tile.
        mirror_axes: Patch axes; the result is the mean over all ways to mirror along them.
        batch_size: Patches per call of the network; None chooses by their size and the device. Calls that run out
            of a GPU's memory are split.
        accumulation: Type of sums and weights. "float16" repeats nnU-Net's arithmetic, for its models.

    Returns:
        Logits (k, ...) on the image's grid in the type of the accumulation.

    Raises:
        SettingsError: When float16 sums overflow.
        ArtifactError: When the network's outputs are not finite.
    """
    patch = tuple(patch_size)
    flips = tuple(tuple(2 + axis for axis in axes) for axes in mirror_subsets(mirror_axes))
    batch = batch_size or choose_batch_size(patch, image.device)
    tiling = _Tiling(patch_size=patch, flips=flips, batch_size=batch)
    padded, stored = pad_nd_image(image, patch, return_slicer=True)  # with zeros, the odd voxel at the end
    inside = (slice(None), *stored[1:])  # logits have other channels than the image
    grid = tuple(padded.shape[1:])
    dtype = _DTYPES[accumulation]
    weight = gaussian_importance(patch, accumulation=accumulation).to(image.device)
    logits = torch.zeros((num_outputs, *grid), dtype=dtype, device=image.device)
    weights = torch.zeros((1, *grid), dtype=dtype, device=image.device)
    for group in tiling.groups(tile_positions(grid, patch, step)):
        tiles = torch.stack([padded[tiling.index(position)] for position in group])  # (b, c, *patch)
        outputs = tiling.run(tiles, network).mul_(weight)  # (b, k, *patch)
        for position, output in zip(group, outputs, strict=True):
            logits[tiling.index(position)] += output
            weights[tiling.index(position)] += weight
    logits /= weights
    _check_finite(logits, accumulation)
    return logits[inside]


def choose_batch_size(patch_size: Sequence[int], device: torch.device) -> int:
    """Patches per call that keep a device busy: many small ones, one large one."""
    return max(1, _VOXELS_PER_CALL.get(device.type, 1 << 16) // math.prod(patch_size))


def _call(network: Network, patches: torch.Tensor) -> torch.Tensor:
    """Run the network, on halves of the batch where the whole does not fit."""
    try:
        return network(patches)
    except torch.OutOfMemoryError:
        if len(patches) == 1:
            raise
    # Outside of the handler: the exception's traceback would keep the tensors of the failed call alive.
    return torch.cat([_call(network, half) for half in patches.tensor_split(2)])


def _check_finite(logits: torch.Tensor, accumulation: Accumulation) -> None:
    if all(bool(torch.isfinite(channel).all()) for channel in logits):
        return
    if accumulation == "float16":
        raise SettingsError("sums of logits do not fit float16; predict with --accumulation float32")
    raise ArtifactError("the network answers with values that are not finite; its weights are damaged")
