"""Lengths of runs and learning rates, against closed forms."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import pytest
import torch

from autoseg.errors import SettingsError
from autoseg.trainers.optimization import (
    StepLength,
    TimeLength,
    build_optimizer,
    polynomial_learning_rate,
    run_length,
    set_learning_rate,
)
from autoseg.training_config import TrainingConfig


def test_epochs_anneal_once_per_epoch_as_nnunet_does() -> None:
    length = run_length(TrainingConfig(epochs=4, iterations_per_epoch=10))
    fractions = [length.fraction(step, 0.0) for step in range(40)]
    assert fractions == [epoch / 4 for epoch in range(4) for _ in range(10)]
    assert not length.is_over(39, 0.0)
    assert length.is_over(40, 0.0)


def test_the_default_length_is_nnunets() -> None:
    assert run_length(TrainingConfig()).total_steps == 1000 * 250


def test_iterations_anneal_every_step_and_are_validated_about_ten_times() -> None:
    length = run_length(TrainingConfig(iterations=95))
    assert length.fraction(19, 0.0) == pytest.approx(19 / 95)
    ends = [step for step in range(1, 96) if length.epoch_is_over(step, 0.0, epoch_seconds=0.0)]
    assert ends == [10, 20, 30, 40, 50, 60, 70, 80, 90, 95]


def test_a_time_budget_anneals_to_zero_when_its_time_is_up() -> None:
    length = TimeLength(budget=100.0).with_reserve(5.0)
    assert length.fraction(3, 0.0) == 0.0
    over = next(second for second in range(200) if length.is_over(1, second))
    assert over == pytest.approx(100.0 - 6.5, abs=0.5)
    assert length.fraction(1, over) == pytest.approx(1.0)
    assert not length.is_over(0, 1000.0)  # at least one step is always taken


def test_a_time_budget_has_about_ten_epochs_and_no_stump_at_the_end() -> None:
    length, seconds, started, lengths = TimeLength(budget=100.0), 0.0, 0.0, []
    while not length.is_over(1, seconds):
        seconds += 0.9
        if length.epoch_is_over(1, seconds, epoch_seconds=seconds - started):
            seconds += 1.0  # the validation pass
            lengths.append(seconds - started)
            length, started = length.with_reserve(1.0), seconds
    assert 8 <= len(lengths) <= 10
    assert min(lengths) > 5.0
    assert seconds == pytest.approx(100.0, abs=2.0)


def test_polynomial_decay_follows_its_formula() -> None:
    for fraction in (0.0, 0.25, 0.9, 1.0):
        assert polynomial_learning_rate(0.01, fraction) == pytest.approx(0.01 * (1 - fraction) ** 0.9)


def test_warm_up_rises_to_the_initial_rate_and_then_decays_to_zero() -> None:
    rates = [polynomial_learning_rate(1.0, i / 100, warmup=0.1) for i in range(101)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[10] == 1.0
    assert all(a < b for a, b in pairwise(rates[:11]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[100] == 0.0


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_every_parameter_decays_and_takes_the_rate(name: str) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.InstanceNorm2d(2, affine=True))
    optimizer = build_optimizer(network, name, learning_rate=0.1, momentum=0.99, weight_decay=3e-5)  # type: ignore[arg-type]
    set_learning_rate(optimizer, 0.02)
    assert all(group["weight_decay"] == 3e-5 and group["lr"] == 0.02 for group in optimizer.param_groups)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))


def test_step_lengths_forecast_the_remaining_time_at_the_pace_so_far() -> None:
    length = StepLength(total=100, per_epoch=10, anneal_within_epoch=False)
    assert length.seconds_left(25, 50.0) == pytest.approx(150.0)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_amsgrad_never_forgets_the_largest_gradient(name: Literal["adam", "adamw"]) -> None:
    """One large gradient, then small ones: without it steps grow again, with it they are small by a closed form."""
    steps = {}
    for amsgrad in (False, True):
        layer = torch.nn.Linear(1, 1, bias=False)
        options = {"momentum": 0.9, "weight_decay": 0.0, "amsgrad": amsgrad}
        optimizer = build_optimizer(layer, name, learning_rate=0.1, **options)  # type: ignore[arg-type]  # two types
        for number in range(4000):
            layer.weight.grad = torch.full((1, 1), 100.0 if number == 0 else 0.01)
            before = layer.weight.item()
            optimizer.step()
        steps[amsgrad] = before - layer.weight.item()
    assert steps[False] > 5 * steps[True] > 0
    # The largest second moment was that of the first step: 0.001 * 100^2, corrected for 4000 steps.
    largest = math.sqrt(0.001 * 100.0**2 / (1 - 0.999**4000))
    assert steps[True] == pytest.approx(0.1 * 0.01 / largest, rel=0.01)


def test_amsgrad_is_refused_where_it_means_nothing() -> None:
    with pytest.raises(SettingsError, match="amsgrad is for optimizer=adam and optimizer=adamw, not for auto"):
        TrainingConfig().with_settings(["amsgrad=true"])
    assert TrainingConfig().with_settings(["amsgrad=true", "optimizer=adamw"]).amsgrad
