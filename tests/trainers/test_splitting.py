"""Too little memory: a batch in parts gives the step of the whole batch, where the loss allows it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from autoseg.errors import TrainingError
from autoseg.plan import Plan
from autoseg.trainers.step import Stepper, make_stepper
from autoseg.training_config import TrainingConfig


class Cramped(nn.Module):
    """A device on which only so many patches fit."""

    def __init__(self, network: nn.Module, room: int) -> None:
        super().__init__()
        self.network = network
        self.room = room

    def forward(self, images: torch.Tensor) -> object:
        if len(images) > self.room:
            raise torch.OutOfMemoryError("no room")
        return self.network(images)


def stepper(plan: Plan, *, batch_dice: bool, room: int | None, told: list[str]) -> Stepper:
    made = make_stepper(
        replace(plan.configurations[0], batch_size=5, batch_dice=batch_dice),
        plan,
        TrainingConfig(seed=1),
        optimizer="sgd",
        learning_rate=0.01,
        weight_decay=0.0,
        precision="float32",
        device=torch.device("cpu"),
        tell=told.append,
    )
    return made if room is None else replace(made, trained=Cramped(made.network, room))


def batch() -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(5, 1, 16, 16, generator=generator)
    return images, [torch.randint(0, 3, (5, 1, 16, 16), generator=generator, dtype=torch.int16)]


@pytest.mark.parametrize("room", [1, 2, 3, 4])
def test_parts_take_the_step_of_the_whole_batch(small_plan: Plan, room: int) -> None:
    whole, told = stepper(small_plan, batch_dice=False, room=None, told=[]), list[str]()
    parts = stepper(small_plan, batch_dice=False, room=room, told=told)
    for _ in range(2):
        assert float(parts.step(*batch())) == pytest.approx(float(whole.step(*batch())), rel=1e-5)
    for mine, other in zip(parts.network.parameters(), whole.network.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
    assert len(told) == {1: 3, 2: 2, 3: 1, 4: 1}[room]  # 5 -> 3 -> 2 -> 1, and remembered for the second step
    assert "gradients stay those of the whole batch" in told[-1]


def test_batch_dice_is_said_to_differ_and_does(small_plan: Plan) -> None:
    told: list[str] = []
    whole, parts = (
        stepper(small_plan, batch_dice=True, room=None, told=[]),
        stepper(small_plan, batch_dice=True, room=2, told=told),
    )
    assert float(parts.step(*batch())) != pytest.approx(float(whole.step(*batch())), rel=1e-5)
    assert "no mean over patches" in told[-1]


def test_a_single_patch_that_does_not_fit_needs_a_new_plan(small_plan: Plan) -> None:
    with pytest.raises(TrainingError, match="--gpu-memory"):
        stepper(small_plan, batch_dice=False, room=0, told=[]).step(*batch())
