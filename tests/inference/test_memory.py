"""Sums of logits lie where there is room, and a limit is kept or refused before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg import arrays
from autoseg.errors import SettingsError
from autoseg.geometry import Geometry
from autoseg.image import Image
from autoseg.inference import export, sums
from autoseg.inference.memory import Forecast, working_memory
from autoseg.inference.model import ModelRecord, build_model
from autoseg.inference.predictor import ConfigurationPredictor, InferenceOptions
from autoseg.inference.sums import WorkingMemory
from autoseg.networks.factory import build_network
from autoseg.plan import Plan

Records = Callable[..., ModelRecord]


def test_large_arrays_lie_in_a_file_that_nobody_sees(tmp_path: Path) -> None:
    room = arrays.Room(largest=100, scratch=tmp_path)
    assert arrays.own_bytes(room.empty((5, 5), np.float32)) == 100
    array = room.empty((3, 50), np.float16)
    assert arrays.own_bytes(array[1:]) == 0
    assert array.dtype == np.float16
    assert not array.any()
    array[1, 2] += 4
    arrays.let_go(array[0])
    assert array.sum() == 4
    assert list(tmp_path.iterdir()) == []  # unlinked, so that no crash leaves it behind
    with pytest.raises(SettingsError, match="is not a folder"):
        replace(room, scratch=tmp_path / "absent").empty((3, 50), np.float32)


def test_a_full_disk_is_refused_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**9}))
    with pytest.raises(SettingsError, match=r"scratch files need 2\.0 GB, .* has 1\.0 GB free"):
        arrays.check_space(tmp_path, 2 * 10**9)


def test_sums_go_to_disk_only_where_memory_is_short(tmp_path: Path) -> None:
    needs = [Forecast(arrays=10**9, sums=2 * 10**9, window=10**8, without_image=7 * 10**8)]

    def decided(limit: float | None, image_bytes: int = 10**9) -> WorkingMemory:
        return working_memory(needs, image_bytes, max_memory_gb=limit, scratch=str(tmp_path), case_id="a")

    assert decided(8).in_memory >= 2 * 10**9
    assert decided(4).in_memory < 2 * 10**9
    assert decided(4).scratch == tmp_path
    with pytest.raises(SettingsError, match=r"case a needs 2\.5 GB of memory.* --max-memory allows 2 GB"):
        decided(2)


@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 2, 0)])
@pytest.mark.parametrize("accumulation", ["float32", "float16"])
def test_slab_by_slab_and_on_disk_equals_the_whole_volume(
    make_record: Records,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    transpose: tuple[int, ...],
    accumulation: str,
) -> None:
    record = make_record()
    torch.manual_seed(0)
    network = build_network(record.configuration.network, num_channels=1, num_outputs=3)
    models = [build_model(record, network.state_dict()), build_model(record, network.state_dict())]
    plan = Plan(
        planner="unet",
        dataset="Dataset001_Test",
        channels=("image",),
        labels=record.labels,
        file_ending=".nii.gz",
        gpu_memory_gb=8.0,
        gpu_memory_source="test",
        orientation="SPL",
        transpose=transpose,
        median_spacing=(1.0,) * 3,
        median_shape=(12.0,) * 3,
        configurations=(record.configuration,),
    )
    geometry = Geometry(
        shape=(13, 11, 17),
        spacing=(1.3, 1.7, 0.8),
        directions=((0.0, 1.0, 0.0), (0.0, 0.0, -1.0), (-1.0, 0.0, 0.0)),
    )
    array = np.random.default_rng(0).normal(5, 1, (1, *geometry.shape)).astype(np.float32)
    array[:, :3] = 0
    image = Image(array=array, geometry=geometry)
    options = InferenceOptions(accumulation=accumulation)  # type: ignore[arg-type]  # one of the literals
    predictor = ConfigurationPredictor(plan, models, options)
    whole = predictor.predict(image).to_array()
    monkeypatch.setattr(export, "SLAB_VALUES", 400)
    monkeypatch.setattr(sums, "_PIECE", 300)
    room = arrays.Room(largest=100, scratch=tmp_path)
    place = WorkingMemory(in_memory=0, scratch=tmp_path, room=room)
    prediction = predictor.predict(image, memory=place)
    parts = list(prediction.slabs)
    assert len(parts) > 4
    streamed = np.full_like(whole, np.nan)
    for part, slab in parts:
        streamed[(slice(None), *prediction.index(part))] = slab
    np.testing.assert_allclose(streamed, whole, atol=2e-6 if accumulation == "float32" else 1e-3)
