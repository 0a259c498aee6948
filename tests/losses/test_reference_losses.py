"""Equality with other systems' losses, where these are installed."""

from __future__ import annotations

import pytest
import torch

from autoseg.labels import LabelScheme
from autoseg.losses.dice import SoftDiceLoss
from autoseg.losses.factory import build_loss


def random_labels(shape: tuple[int, ...], top: int) -> torch.Tensor:
    return torch.randint(0, top, shape, generator=torch.Generator().manual_seed(1)).to(torch.int16)


def random_logits(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("batch_dice", [True, False])
def test_dice_equals_monai(batch_dice: bool, two_labels: LabelScheme) -> None:
    losses = pytest.importorskip("monai.losses")
    logits, target = random_logits(2, 3, 6, 5, 4), random_labels((2, 1, 6, 5, 4), 3)
    theirs = losses.DiceLoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=batch_dice, smooth_nr=1e-5, smooth_dr=1e-5
    )
    ours = SoftDiceLoss(labels=two_labels, batch_dice=batch_dice)
    assert ours(logits, target).item() == pytest.approx(theirs(logits, target).item() - 1, abs=1e-6)


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("scheme", ["two_labels", "two_labels_and_ignore"])
def test_labels_equal_nnunet(batch_dice: bool, scheme: str, request: pytest.FixtureRequest) -> None:
    compound = pytest.importorskip("nnunetv2.training.loss.compound_losses")
    dice = pytest.importorskip("nnunetv2.training.loss.dice")
    labels: LabelScheme = request.getfixturevalue(scheme)
    theirs = compound.DC_and_CE_loss(
        {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": False},
        {},
        weight_ce=1,
        weight_dice=1,
        ignore_label=labels.ignore_value,
        dice_class=dice.MemoryEfficientSoftDiceLoss,
    )
    ours = build_loss("dice_ce", labels=labels, batch_dice=batch_dice, num_scales=1)
    logits = random_logits(2, 3, 6, 5, 4)
    target = random_labels((2, 1, 6, 5, 4), 3 + (labels.ignore_value is not None))
    assert ours([logits], [target]).item() == pytest.approx(theirs(logits, target).item(), abs=1e-6)


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("scheme", ["two_regions", "two_regions_and_ignore"])
def test_regions_equal_nnunet(batch_dice: bool, scheme: str, request: pytest.FixtureRequest) -> None:
    compound = pytest.importorskip("nnunetv2.training.loss.compound_losses")
    dice = pytest.importorskip("nnunetv2.training.loss.dice")
    labels: LabelScheme = request.getfixturevalue(scheme)
    theirs = compound.DC_and_BCE_loss(
        {},
        {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": True, "ddp": False},
        use_ignore_label=labels.ignore_value is not None,
        dice_class=dice.MemoryEfficientSoftDiceLoss,
    )
    ours = build_loss("dice_ce", labels=labels, batch_dice=batch_dice, num_scales=1)
    logits = random_logits(2, 2, 6, 5, 4)
    target = random_labels((2, 2 + (labels.ignore_value is not None), 6, 5, 4), 2).bool()
    assert ours([logits], [target]).item() == pytest.approx(theirs(logits, target).item(), abs=1e-6)
