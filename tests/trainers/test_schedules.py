"""Learning rates against closed forms and torch's schedulers."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import pytest
import torch

from autoseg.trainers.optimization import polynomial_learning_rate
from autoseg.trainers.schedules import learning_rate_at, plateaus
from autoseg.training_config import ScheduleName

STEPS = 101


def curve(schedule: ScheduleName, *, warmup: float = 0.0) -> list[float]:
    return [learning_rate_at(schedule, 0.2, step / (STEPS - 1), warmup=warmup) for step in range(STEPS)]


def torch_curve(make: type[torch.optim.lr_scheduler.LRScheduler], **options: object) -> list[float]:
    """Rates that a scheduler of torch sets, step by step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2, momentum=0.9)
    scheduler = make(optimizer, **options)  # type: ignore[arg-type]  # of many kinds
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < STEPS:
            scheduler.step()
    return rates


def test_cosine_equals_torch() -> None:
    expected = torch_curve(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=STEPS - 1)
    assert curve("cosine") == pytest.approx(expected, abs=1e-12)


def test_one_cycle_equals_torch() -> None:
    # torch ends its rise at step 0.3 * 101 - 1, ours at 30 % of the way.
    options = {"max_lr": 0.2, "total_steps": STEPS, "pct_start": 31 / STEPS, "cycle_momentum": False}
    expected = torch_curve(torch.optim.lr_scheduler.OneCycleLR, **options)
    assert curve("one_cycle") == pytest.approx(expected, abs=1e-12)


def test_step_equals_torch() -> None:
    expected = torch_curve(torch.optim.lr_scheduler.MultiStepLR, milestones=[50, 75], gamma=0.1)
    assert curve("step") == pytest.approx(expected)


def test_exponential_equals_torch() -> None:
    expected = torch_curve(torch.optim.lr_scheduler.ExponentialLR, gamma=0.01 ** (1 / (STEPS - 1)))
    assert curve("exponential") == pytest.approx(expected)


def test_poly_is_the_default_formula() -> None:
    assert curve("poly") == [polynomial_learning_rate(0.2, step / (STEPS - 1)) for step in range(STEPS)]


def test_constant_stays() -> None:
    assert set(curve("constant")) == {0.2}


@pytest.mark.parametrize("schedule", [s for s in get_args(ScheduleName) if s != "one_cycle"])
def test_a_warm_up_rises_in_a_line_to_the_initial_rate(schedule: ScheduleName) -> None:
    rates = curve(schedule, warmup=0.2)
    rise = [b - a for a, b in itertools.pairwise(rates[:21])]
    assert rates[0] == pytest.approx(0.05 * 0.2)
    assert rise == pytest.approx([0.95 * 0.2 / 20] * 20)
    assert rates[20] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(0.2)


def test_a_plateau_takes_a_fifth_each_time() -> None:
    scores = [0.1, 0.5, *[0.4] * 30]
    rates = [learning_rate_at("plateau", 1.0, 0.5, warmup=0.0, history=scores[:n]) for n in range(len(scores) + 1)]
    assert rates[:-1] == [1.0] * len(scores)
    assert rates[-1] == pytest.approx(0.2)
    longer = [*scores, *[0.4] * 30]
    assert learning_rate_at("plateau", 1.0, 0.5, warmup=0.0, history=longer) == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([], 0),
        ([0.5] * 3, 0),
        ([0.5] * 4, 1),
        ([0.5] * 7, 2),
        ([0.5, 0.4, 0.4, 0.6, 0.5, 0.5], 0),
        ([0.1, 0.2, 0.3], 0),
    ],
)
def test_plateaus_are_counted_anew_after_each(history: list[float], expected: int) -> None:
    assert len(plateaus(history, patience=3)) == expected


def test_every_rate_is_finite_and_not_negative() -> None:
    for schedule in get_args(ScheduleName):
        assert all(math.isfinite(rate) and rate >= -1e-15 for rate in curve(schedule, warmup=0.05))
