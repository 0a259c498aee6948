"""A time budget on a slow device: the largest network that still takes enough optimizer steps, by measured step times.

A network of the planned size that sees a hundred batches is worth less than a small one that sees a thousand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from autoseg.networks.catalog import rules_of
from autoseg.plan import Configuration

ConcretePrecision = Literal["float32", "bfloat16", "float16"]


_WIDTHS = (0.25, 0.375, 0.5, 0.75, 1.0)  # of the planned feature maps
_MEASURING_SHARE = 0.04  # of the budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """What a budget allows.

    Args:
        configuration: The planned configuration, or one with fewer feature maps and a smaller batch.
        precision: The faster of those offered.
        seconds_per_step: Measured.
        reason: Why, with the measured times.
    """

    configuration: Configuration
    precision: ConcretePrecision
    seconds_per_step: float
    reason: str


Measure = Callable[[Configuration, ConcretePrecision], float]
"""Seconds of one optimizer step of a configuration."""


def wanted_steps(budget: float) -> float:
    """Optimizer steps that a network should still get: 40 times the root of the seconds.

    A rule of thumb, not fitted: 440 steps in two minutes, 1200 in a quarter of an hour, so that more time goes into
    more steps and into a wider network alike. The choice is not critical (docs/benchmarks.md).

    Args:
        budget: Seconds for training.
    """
    return float(40.0 * budget**0.5)


def size_for_budget(
    planned: Configuration, *, budget: float, precisions: tuple[ConcretePrecision, ...], measure: Measure
) -> Sized:
    """Choose width, batch size and precision for a time budget.

    Args:
        planned: What the plan asks for; its patch is kept, because a smaller patch needs a new plan.
        budget: Seconds for training.
        precisions: Those to try, the preferred one first.
        measure: Takes the time of a step.
    """
    started = time.perf_counter()
    steps = wanted_steps(budget)
    allowed = budget / steps
    smallest = _narrowed(planned, _WIDTHS[0])
    times = {p: measure(smallest, p) for p in precisions}
    precision = min(times, key=lambda p: times[p])
    chosen, seconds = smallest, times[precision]
    measured = [_in_words(chosen, seconds)]
    for candidate in _wider(planned):
        growth = candidate.network.features[0] / chosen.network.features[0]
        may_measure = time.perf_counter() - started < _MEASURING_SHARE * budget
        # The cost grows at least in proportion to the width: what cannot fit is not worth measuring.
        if seconds * growth > allowed or not may_measure:
            break
        candidate_seconds = measure(candidate, precision)
        measured.append(_in_words(candidate, candidate_seconds))
        if candidate_seconds > allowed:
            break
        chosen, seconds = candidate, candidate_seconds
    if seconds > allowed and planned.batch_size > 2:
        chosen = replace(chosen, batch_size=2)
        seconds = measure(chosen, precision)
        measured.append(_in_words(chosen, seconds))
    reason = (
        f"{budget:.0f} s allow {allowed:.2f} s a step for {steps:.0f} steps; measured in {precision}: "
        f"{', '.join(measured)}; planned {planned.network.features[0]} features, batch {planned.batch_size}"
    )
    return Sized(configuration=chosen, precision=precision, seconds_per_step=seconds, reason=reason)


def _wider(planned: Configuration) -> Iterator[Configuration]:
    """Candidates from the second narrowest to the planned one."""
    for width in _WIDTHS[1:]:
        yield _narrowed(planned, width)


def _narrowed(planned: Configuration, width: float) -> Configuration:
    """The planned network with a share of its feature maps, a multiple of what it asks for and at least twice that.

    A network whose stages have fixed ratios keeps them.
    """
    rules, features = rules_of(planned.network), planned.network.features
    unit = rules.feature_multiple
    if rules.feature_ratios is None:
        features = tuple(min(f, max(2 * unit, round(f * width / unit) * unit)) for f in features)
    else:
        first = min(features[0], max(unit, round(features[0] * width / unit) * unit))
        features = tuple(f * first // features[0] for f in features)
    return replace(planned, network=replace(planned.network, features=features))


def _in_words(configuration: Configuration, seconds: float) -> str:
    return f"{configuration.network.features[0]} features, batch {configuration.batch_size}: {seconds:.3f} s"
