"""Parts of a network that are not trained until later."""

from __future__ import annotations

from dataclasses import replace

import torch

from autoseg.plan import Plan
from autoseg.trainers.step import Stepper, make_stepper
from autoseg.training_config import TrainingConfig


def batch() -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(2, 1, 16, 16, generator=generator)
    return images, [torch.randint(0, 3, (2, 1, 16, 16), generator=generator, dtype=torch.int16)]


def stepper(plan: Plan, train: str, told: list[str], *, pretrained: str | None = None) -> Stepper:
    configuration = plan.configurations[0]
    network = replace(configuration.network, name="scn", options={"train": train})
    return make_stepper(
        replace(configuration, network=network),
        plan,
        TrainingConfig(seed=1, pretrained=pretrained),
        optimizer="adamw",
        learning_rate=0.01,
        weight_decay=0.1,
        precision="float32",
        device=torch.device("cpu"),
        tell=told.append,
    )


def moved(made: Stepper, *, fraction: float) -> set[str]:
    """Parts of the network that a step changes; the first step only gives the last layer of the refinement a value."""
    before = {name: p.detach().clone() for name, p in made.network.named_parameters()}
    for _ in range(2):
        made.step(*batch(), fraction=fraction)
    return {n.partition(".")[0] for n, p in made.network.named_parameters() if not torch.equal(p, before[n])}


def test_the_first_half_trains_the_refinement_alone(small_plan: Plan) -> None:
    made = stepper(small_plan, "frozen_then_joint", [])
    assert moved(made, fraction=0.0) == {"refinement"}
    assert moved(made, fraction=0.49) == {"refinement"}
    assert moved(made, fraction=0.5) == {"refinement", "segmenter"}
    assert moved(stepper(small_plan, "joint", []), fraction=0.0) == {"refinement", "segmenter"}
    assert moved(stepper(small_plan, "frozen", []), fraction=1.0) == {"refinement"}


def test_a_resting_network_without_weights_is_told(small_plan: Plan) -> None:
    told: list[str] = []
    stepper(small_plan, "frozen_then_joint", told)
    assert "--pretrained" in told[0]
    told.clear()
    stepper(small_plan, "joint", told)
    stepper(small_plan, "frozen_then_joint", told, pretrained="model.pt")
    assert not told
