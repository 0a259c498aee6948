"""Networks that OpenVINO translated answer as torch does; skipped where the extra is not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from autoseg.errors import SettingsError
from autoseg.geometry import Geometry
from autoseg.image import Image
from autoseg.inference.compiling import CompiledNetwork, compiled
from autoseg.inference.model import ModelRecord, TrainedModel
from autoseg.inference.predictor import ConfigurationPredictor, InferenceOptions
from autoseg.networks.factory import build_network
from autoseg.plan import Plan

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino")


def untrained(record: ModelRecord, *, seed: int = 0) -> TrainedModel:
    torch.manual_seed(seed)
    network = build_network(
        record.configuration.network, num_channels=record.num_channels, num_outputs=record.labels.num_outputs
    )
    network.deep_supervision = False
    return TrainedModel(record=record, network=network.requires_grad_(requires_grad=False).eval())


@needs_openvino
@pytest.mark.parametrize(
    ("ndim", "changes"),
    [(2, {}), (3, {}), (3, {"name": "resenc"}), (3, {"norm": "batch", "squeeze_excitation": True})],
)
def test_answers_are_torchs(make_record: Callable[..., ModelRecord], ndim: int, changes: dict[str, object]) -> None:
    record = make_record(ndim=ndim, num_channels=2)
    network = replace(record.configuration.network, **changes)  # type: ignore[arg-type]  # values of many types
    model = untrained(replace(record, configuration=replace(record.configuration, network=network)))
    translated = compiled(model, "openvino", "cpu")
    assert isinstance(translated.network, CompiledNetwork)
    assert compiled(translated, "openvino", "cpu") is translated
    for number, shape in enumerate([(8,) * ndim, (8,) * ndim, (16, *(8,) * (ndim - 1))]):  # a view that is turned
        patches = torch.randn(3 + number, 2, *shape, generator=torch.Generator().manual_seed(number))
        with torch.inference_mode():
            torch.testing.assert_close(translated.network(patches), model.network(patches), rtol=1e-4, atol=1e-4)


@needs_openvino
def test_predictions_are_the_same(make_record: Callable[..., ModelRecord], make_plan: Callable[..., Plan]) -> None:
    record = make_record()
    plan = make_plan()
    models = [untrained(record, seed=seed) for seed in (0, 1)]
    geometry = Geometry(shape=(11, 13, 9), spacing=(1.0, 1.0, 1.0))
    image = Image(
        array=np.random.default_rng(0).normal(size=(1, *geometry.shape)).astype(np.float32), geometry=geometry
    )
    expected = ConfigurationPredictor(plan, models).predict(image).to_array()
    found = ConfigurationPredictor(plan, models, InferenceOptions(compiler="openvino")).predict(image).to_array()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@needs_openvino
def test_no_word_is_sent_about_its_use(make_record: Callable[..., ModelRecord]) -> None:
    compiled(untrained(make_record()), "openvino", "cpu")
    assert sys.modules["openvino_telemetry"] is None


def test_a_missing_compiler_is_said_with_what_helps(
    make_record: Callable[..., ModelRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(SettingsError, match=r"pip install 'autoseg\[openvino\]'"):
        compiled(untrained(make_record()), "openvino", "cpu")


def test_a_gpu_is_not_what_it_compiles_for(make_record: Callable[..., ModelRecord]) -> None:
    with pytest.raises(SettingsError, match="leave it out for --device cuda"):
        compiled(untrained(make_record()), "openvino", "cuda:0")
