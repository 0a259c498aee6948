"""The network that a time budget allows, with a cost model in place of a clock."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoseg.plan import Configuration, NetworkPlan, NormalizationPlan
from autoseg.trainers.sizing import size_for_budget, wanted_steps


def make_configuration(batch_size: int = 4) -> Configuration:
    return Configuration(
        name="3d_fullres",
        data="3d_fullres",
        spacing=(1.0, 1.0, 1.0),
        median_shape=(40.0, 56.0, 40.0),
        patch_size=(40, 56, 40),
        batch_size=batch_size,
        batch_dice=False,
        normalization=(NormalizationPlan(scheme="zscore"),),
        network=NetworkPlan(
            name="unet",
            features=(32, 64, 128, 256),
            strides=((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
            kernel_sizes=((3, 3, 3),) * 4,
            encoder_blocks=(2, 2, 2, 2),
            decoder_blocks=(2, 2, 2),
        ),
    )


def cost(configuration: Configuration, precision: str) -> float:
    """Seconds of a step on an imaginary machine, where bfloat16 is twice as fast."""
    width, batch = configuration.network.features[0], configuration.batch_size
    return 0.001 * width**1.5 * batch / 4 * (0.5 if precision == "bfloat16" else 1.0)


def chosen_width(budget: float) -> int:
    sized = size_for_budget(make_configuration(), budget=budget, precisions=("float32", "bfloat16"), measure=cost)
    return sized.configuration.network.features[0]


def test_more_time_never_gives_a_smaller_network() -> None:
    widths = [chosen_width(budget) for budget in (0.01, 0.1, 1, 5, 20, 50, 100, 1000)]
    assert widths == sorted(widths)
    assert widths[0] == 8
    assert widths[-1] == 32


@pytest.mark.parametrize("budget", [1.0, 5.0, 20.0, 200.0])
def test_the_choice_takes_enough_steps_and_the_next_wider_one_would_not(budget: float) -> None:
    sized = size_for_budget(make_configuration(), budget=budget, precisions=("float32", "bfloat16"), measure=cost)
    assert budget / sized.seconds_per_step >= wanted_steps(budget)
    width = sized.configuration.network.features[0]
    wider = {8: 12, 12: 16, 16: 24, 24: 32}.get(width)
    if wider:
        assert budget / (0.0005 * wider**1.5) < wanted_steps(budget)


def test_the_faster_arithmetic_is_taken() -> None:
    sized = size_for_budget(make_configuration(), budget=100.0, precisions=("float32", "bfloat16"), measure=cost)
    assert sized.precision == "bfloat16"
    slow = size_for_budget(
        make_configuration(),
        budget=100.0,
        precisions=("float32", "bfloat16"),
        measure=lambda c, p: cost(c, "float32") * (3 if p == "bfloat16" else 1),
    )
    assert slow.precision == "float32"


def test_the_smallest_network_gets_a_smaller_batch_when_time_is_very_short() -> None:
    sized = size_for_budget(make_configuration(batch_size=4), budget=0.1, precisions=("float32",), measure=cost)
    assert sized.configuration.batch_size == 2
    assert sized.configuration.network.features[0] == 8


def test_patch_topology_and_proportions_stay_as_planned() -> None:
    planned = make_configuration()
    sized = size_for_budget(planned, budget=6.0, precisions=("float32",), measure=cost).configuration
    assert sized.patch_size == planned.patch_size
    assert sized.network.strides == planned.network.strides
    ratios = {p / s for p, s in zip(planned.network.features, sized.network.features, strict=True)}
    assert len(ratios) == 1
    assert ratios != {1.0}


def test_the_reason_tells_what_was_measured() -> None:
    reason = size_for_budget(make_configuration(), budget=50.0, precisions=("float32",), measure=cost).reason
    assert "8 features, batch 4: 0.023 s" in reason
    assert "planned 32 features, batch 4" in reason


def test_a_network_with_fixed_ratios_between_stages_keeps_them() -> None:
    network = NetworkPlan(
        name="swin_unetr",
        features=(48, 48, 96, 192, 384, 768),
        strides=((1, 1, 1), *((2, 2, 2),) * 5),
        kernel_sizes=((3, 3, 3),) * 6,
        encoder_blocks=(1, 2, 2, 2, 2, 1),
        decoder_blocks=(1,) * 5,
    )
    planned = replace(make_configuration(), patch_size=(32, 64, 32), network=network)
    found = {
        size_for_budget(planned, budget=budget, precisions=("float32",), measure=cost).configuration.network.features
        for budget in (0.01, 0.1, 1, 5, 20, 50, 100, 1000)
    }
    assert len(found) > 2
    for features in found:
        assert features[0] % 12 == 0
        assert features == tuple(features[0] * ratio for ratio in (1, 1, 2, 4, 8, 16))
