"""What a training step of each preset is made of: its optimizer, its loss as a formula, its largest gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from autoseg.plan import Plan
from autoseg.presets import preset_settings
from autoseg.trainers.step import Stepper, make_stepper
from autoseg.training_config import TrainingConfig

PUBLISHED = {
    "aicup": (torch.optim.AdamW, {"lr": 5e-4, "weight_decay": 5e-4}),
    "mnms2": (torch.optim.SGD, {"lr": 0.01, "weight_decay": 3e-5, "momentum": 0.99, "nesterov": True}),
    "cm_trancaf": (torch.optim.Adam, {"lr": 1e-5}),
    "sennet": (torch.optim.AdamW, {"lr": 6e-5}),
    "spine": (torch.optim.Adam, {"lr": 1e-3}),
}


def stepper(plan: Plan, name: str, *asked: str) -> Stepper:
    config = TrainingConfig(seed=1).with_settings([*preset_settings(name), *asked])
    assert config.optimizer != "auto"
    assert config.learning_rate is not None
    return make_stepper(
        replace(plan.configurations[0], batch_size=3, batch_dice=True),
        plan,
        config,
        optimizer=config.optimizer,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay or 0.0,
        precision="float32",
        device=torch.device("cpu"),
        tell=lambda _: None,
    )


def batch() -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(3, 1, 16, 16, generator=generator)
    return images, [torch.randint(0, 3, (3, 1, 16, 16), generator=generator, dtype=torch.int16)]


def formula(loss: str, logits: Tensor, target: Tensor) -> Tensor:
    labels = target[:, 0].long()
    shares = torch.softmax(logits, dim=1)
    wanted = functional.one_hot(labels, 3).movedim(-1, 1).float()
    entropy = functional.cross_entropy(logits, labels, reduction="none")
    focal = ((1 - (shares * wanted).sum(1)) ** 2 * entropy).mean()
    overlap = (shares * wanted).sum((0, 2, 3))[1:]  # over the batch, foreground only
    dice = (2 * overlap / (shares.sum((0, 2, 3)) + wanted.sum((0, 2, 3)))[1:]).mean()
    return {
        "dice_ce": entropy.mean() - dice,
        "dice+0.1*focal": 0.1 * focal - dice,
        "focal": focal,
        "dice": -dice,
        "mse": ((logits + 0.5 - wanted) ** 2).mean(),
    }[loss]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_optimizer_is_the_published_one(small_plan: Plan, name: str) -> None:
    kind, values = PUBLISHED[name]
    made = stepper(small_plan, name)
    assert type(made.optimizer) is kind
    (group,) = made.optimizer.param_groups
    assert {key: group[key] for key in values} == values
    assert sum(p.numel() for p in group["params"]) == sum(p.numel() for p in made.network.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_loss_is_its_formula(small_plan: Plan, name: str) -> None:
    made = stepper(small_plan, name)
    images, targets = batch()
    with torch.no_grad():
        outputs = made.forward(images)
    loss = dict(setting.split("=", 1) for setting in preset_settings(name))["loss"]
    expected = formula(loss, outputs[0], targets[0]).item()
    assert made.criterion(outputs, targets).item() == pytest.approx(expected, abs=1e-4)


def test_a_gradient_is_not_longer_than_it_may_be(small_plan: Plan) -> None:
    assert stepper(small_plan, "mnms2").gradient_clip == 12
    plain = ("optimizer=sgd", "momentum=0", "weight_decay=0", "learning_rate=1")
    for clip in (1e-3, 12.0):
        made = stepper(small_plan, "mnms2", *plain, f"gradient_clip={clip}")
        made = replace(made, loss=_Steep(made.loss))
        before = [p.detach().clone() for p in made.network.parameters()]
        made.step(*batch())
        after = [p.detach() for p in made.network.parameters()]
        moved = torch.cat([(a - b).flatten() for a, b in zip(after, before, strict=True)]).norm()
        assert moved.item() == pytest.approx(clip, rel=1e-3)


class _Steep(torch.nn.Module):
    """A loss whose gradients are far longer than any limit."""

    def __init__(self, loss: torch.nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: list[Tensor], targets: list[Tensor]) -> Tensor:
        """A million times the loss."""
        steep: Tensor = 1e6 * self.loss(outputs, targets)
        return steep
