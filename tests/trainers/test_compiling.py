"""Compiled networks and half precision take the steps that the plain network takes, up to rounding."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from autoseg.labels import LabelScheme
from autoseg.plan import Configuration, NetworkPlan, NormalizationPlan, Plan
from autoseg.trainers.compiling import gradless_parameters, is_compiled
from autoseg.trainers.step import Stepper, make_stepper
from autoseg.training_config import TrainingConfig

NETWORK = NetworkPlan(
    name="unet",
    features=(4, 8, 8),
    strides=((1, 1), (2, 2), (2, 2)),
    kernel_sizes=((3, 3), (3, 3), (3, 3)),
    encoder_blocks=(1, 1, 1),
    decoder_blocks=(1, 1),
)
CONFIGURATION = Configuration(
    name="2d",
    data="2d",
    spacing=(1.0, 1.0),
    median_shape=(16.0, 16.0),
    patch_size=(16, 16),
    batch_size=4,
    batch_dice=True,
    normalization=(NormalizationPlan(scheme="zscore"),),
    network=NETWORK,
)
PLAN = Plan(
    planner="unet",
    dataset="toy",
    channels=("MRI",),
    labels=LabelScheme.from_table({"background": 0, "a": 1}, where="test"),
    file_ending=".nii.gz",
    gpu_memory_gb=8.0,
    gpu_memory_source="test",
    orientation=None,
    transpose=(0, 1, 2),
    median_spacing=(1.0, 1.0, 1.0),
    median_shape=(8.0, 16.0, 16.0),
    configurations=(CONFIGURATION,),
)


def stepper(config: TrainingConfig, *, precision: str = "float32", told: list[str] | None = None) -> Stepper:
    return make_stepper(
        CONFIGURATION,
        PLAN,
        config,
        optimizer="adamw",
        learning_rate=0.01,
        weight_decay=0.0,
        precision=precision,
        device=torch.device("cpu"),
        tell=(told if told is not None else []).append,
    )


def batch(seed: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Bright squares in noise, at both supervised resolutions."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.zeros(4, 1, 16, 16, dtype=torch.int16)
    for example in target:
        top, left = torch.randint(0, 8, (2,), generator=generator).tolist()
        example[0, top : top + 8, left : left + 8] = 1
    images = 2.0 * target + torch.randn(4, 1, 16, 16, generator=generator)
    return images, [target, target[..., ::2, ::2]]


def dice(trained: Stepper) -> float:
    intersection = total = 0
    with torch.no_grad():
        for seed in range(100, 110):
            images, targets = batch(seed)
            predicted = trained.forward(images)[0].float().argmax(dim=1, keepdim=True)
            intersection += int((predicted * targets[0]).sum())
            total += int(predicted.sum() + targets[0].sum())
    return 2 * intersection / total


def test_bfloat16_learns_what_float32_learns() -> None:
    plain, half = (stepper(TrainingConfig(), precision=precision) for precision in ("float32", "bfloat16"))
    for seed in range(50):
        losses = [float(one.step(*batch(seed))) for one in (plain, half)]
        assert losses[1] == pytest.approx(losses[0], abs=0.15)
    assert plain.forward(batch(0)[0])[0].dtype == torch.float32
    assert half.forward(batch(0)[0])[0].dtype == torch.bfloat16
    assert all(parameter.dtype == torch.float32 for parameter in half.network.parameters())
    assert dice(plain) > 0.9
    assert dice(half) == pytest.approx(dice(plain), abs=0.02)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler (torch.jit)
def test_a_compiled_network_takes_the_same_steps() -> None:
    if shutil.which("g++") is None:
        pytest.skip("compiling for a CPU needs g++")
    told: list[str] = []
    plain, compiled = stepper(TrainingConfig()), stepper(TrainingConfig(compile="true"), told=told)
    assert told == ["the network is compiled"]
    assert compiled.called is not compiled.network
    for seed in range(5):
        assert float(compiled.step(*batch(seed))) == pytest.approx(float(plain.step(*batch(seed))), abs=1e-4)
    assert list(compiled.network.state_dict()) == list(plain.network.state_dict())
    # Parameters are not compared: biases before a normalization have no gradient but rounding, which AdamW blows up.
    torch.testing.assert_close(compiled.forward(batch(9)[0]), plain.forward(batch(9)[0]), rtol=1e-2, atol=1e-2)


class Broken(nn.Module):
    def forward(self, _: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no compiler here\nand a long explanation")


def test_without_a_compiler_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda _: Broken())
    told: list[str] = []
    plain, other = stepper(TrainingConfig()), stepper(TrainingConfig(compile="true"), told=told)
    assert told == ["the network is not compiled, because that failed: no compiler here"]
    assert other.called is other.network
    assert other.network.training
    assert float(other.step(*batch(1))) == float(plain.step(*batch(1)))


def test_trying_a_network_leaves_it_as_it_was() -> None:
    network = NetworkPlan(**{**{f: getattr(NETWORK, f) for f in NETWORK.__dataclass_fields__}, "norm": "batch"})
    one = make_stepper(
        replace(CONFIGURATION, network=network),
        PLAN,
        TrainingConfig(),
        optimizer="sgd",
        learning_rate=0.01,
        weight_decay=0.0,
        precision="float32",
        device=torch.device("cpu"),
    )
    before = {name: tensor.clone() for name, tensor in one.network.state_dict().items()}
    assert any("running_mean" in name for name in before)
    randomness = torch.get_rng_state()
    unused = gradless_parameters(one.network, one.forward, one.criterion, batch(0))
    assert unused == {"decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"}  # of the lowest output, weight zero
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.network.state_dict().items())
    assert all(parameter.grad is None for parameter in one.network.parameters())
    assert torch.equal(torch.get_rng_state(), randomness)


def test_long_runs_on_gpus_are_compiled_by_themselves() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert is_compiled(TrainingConfig(), gpu)
    assert is_compiled(TrainingConfig(time_budget=7200), gpu)
    assert not is_compiled(TrainingConfig(time_budget=600), gpu)
    assert not is_compiled(TrainingConfig(), cpu)
    assert is_compiled(TrainingConfig(compile="true"), cpu)
    assert not is_compiled(TrainingConfig(compile="false"), gpu)
