"""Sums in a scratch file are the sums in memory, and every one of them is written about twice."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.inference import sums
from autoseg.inference.sliding_window import Tiling, window_slabs
from autoseg.inference.sums import ScratchSums, SumsLayout, WorkingMemory, in_strips

OUTSIDE = (7.0, -7.0, 0.0)


def three_outputs(patches: torch.Tensor) -> torch.Tensor:
    """Depends on where in a tile a voxel lies, so that it matters which tiles are averaged, and how."""
    return torch.cat([patches.cumsum(dim=-1), -patches, patches.cumsum(dim=2)], dim=1)


def predicted(
    image: torch.Tensor, tiling: Tiling, memory: WorkingMemory | None, region: np.ndarray | None
) -> torch.Tensor:
    outside = None if region is None else OUTSIDE
    slabs = window_slabs(image, three_outputs, tiling, num_outputs=3, region=region, outside=outside, memory=memory)
    return torch.cat(list(slabs), dim=1)


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize(("dtype", "share"), [("float32", None), ("float16", None), ("float32", 0.03)])
@pytest.mark.parametrize(
    ("shape", "patch", "slice_axis"),
    [
        pytest.param((23, 19, 21), (6, 8, 7), 0, id="volume"),
        pytest.param((5, 3, 40), (6, 8, 7), 0, id="smaller than a tile"),
        pytest.param((7, 30, 33), (12, 9), 0, id="slices"),
        pytest.param((30, 7, 33), (12, 9), 1, id="slices along y"),
        pytest.param((30, 23, 7), (12, 9), 2, id="slices along x"),
        pytest.param((40, 37), (12, 9), 0, id="2D"),
    ],
)
def test_a_file_holds_what_memory_would(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    patch: tuple[int, ...],
    slice_axis: int,
    share: float | None,
    batch_size: int,
    dtype: str,
) -> None:
    generator = np.random.default_rng(len(shape) + batch_size)
    image = torch.from_numpy(generator.standard_normal((1, *shape)).astype(np.float32))
    region = None if share is None else generator.random(shape) < share
    tiling = Tiling(
        patch_size=patch,
        step=0.4,
        batch_size=batch_size,
        accumulation=dtype,  # type: ignore[arg-type]  # one of the literals
        slice_axis=slice_axis,
    )
    expected = predicted(image, tiling, None, region)
    monkeypatch.setattr(sums, "_PIECE", 50)
    layout = tiling.sums(shape, 3, torch.device("cpu"))
    wide = WorkingMemory(in_memory=layout.num_bytes - 1, scratch=tmp_path)
    if wide.columns(layout) == layout.plane[-1]:  # tiles come in the same order: nothing is rounded otherwise
        assert torch.equal(predicted(image, tiling, wide, region), expected)
    narrow = WorkingMemory(in_memory=0, scratch=tmp_path)
    tolerance = 1e-5 if dtype == "float32" else 0.05
    found = predicted(image, tiling, narrow, region)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=1e-5 if dtype == "float32" else 1e-2)


def test_the_window_is_as_wide_as_memory_allows() -> None:
    layout = SumsLayout(num_outputs=120, plane=(410, 410), extent=(64, 128, 128), depth=64, dtype=torch.float32)
    assert WorkingMemory(in_memory=layout.num_bytes).columns(layout) is None
    assert WorkingMemory(in_memory=0).columns(layout) == 128
    for columns in (129, 200, 409):
        memory = WorkingMemory(in_memory=layout.window_bytes(columns))
        assert memory.columns(layout) == columns
    assert WorkingMemory(in_memory=layout.num_bytes - 1).columns(layout) == 410


def test_strips_cover_all_tiles_and_hold_them() -> None:
    positions = [(z, y, x) for z in (0, 4) for y in (0, 3, 6) for x in (0, 4, 8, 12, 15)]
    strips = in_strips(positions, 8, 12)
    assert set(strips) == set(positions)
    assert all(first <= x and x + 8 <= first + 12 for (_, _, x), first in strips.items())
    assert [(z, first, y) for (z, y, _), first in strips.items()] == sorted(
        (z, first, y) for (z, y, _), first in strips.items()
    )
    assert list(in_strips(positions, 8, 23)) == positions


def test_every_sum_is_written_about_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 tiles that overlap in z, y and x, as many values are stored as two tiles that cover everything hold."""
    written = []
    parts = ScratchSums._parts

    def counting(self: ScratchSums, corner: tuple[int, int, int], start: int, stop: int) -> object:
        for stored, held in parts(self, corner, start, stop):
            written.append(self.window[held].numel())
            yield stored, held

    monkeypatch.setattr(ScratchSums, "_parts", counting)
    shape, tiling = (64, 48, 40), Tiling(patch_size=(16, 16, 16), step=0.5, batch_size=1)
    image = torch.zeros((1, *shape))
    layout = tiling.sums(shape, 3, torch.device("cpu"))
    memory = WorkingMemory(in_memory=layout.window_bytes(40), scratch=tmp_path)
    assert memory.columns(layout) == 40
    predicted(image, tiling, memory, None)
    # Read and written, twice each but for the first and the last planes.
    assert 3 * 3 * math.prod(shape) < sum(written) <= 4 * 3 * math.prod(shape)
