"""Losses by name."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from autoseg.labels import LabelScheme
from autoseg.losses.deep_supervision import DeepSupervisionLoss
from autoseg.registry import Registry


class LossBuilder(Protocol):
    """Makes a loss for one resolution; usually the loss's class."""

    def __call__(self, *, labels: LabelScheme, batch_dice: bool) -> nn.Module:
        """Build a module that maps logits (b, k, ...) and a target to a scalar."""


LOSSES: Registry[LossBuilder] = Registry(
    "loss",
    group="autoseg.losses",
    built_in={
        "dice_ce": "autoseg.losses.compound:DiceCrossEntropyLoss",
        "dice": "autoseg.losses.dice:SoftDiceLoss",
        "cross_entropy": "autoseg.losses.cross_entropy:CrossEntropyLoss",
    },
)


def build_loss(
    name: str, *, labels: LabelScheme, batch_dice: bool, num_scales: int, allow_reference: bool = False
) -> DeepSupervisionLoss:
    """Build the loss that training minimizes.

    Args:
        name: A name of the loss registry.
        labels: What the outputs mean.
        batch_dice: Whether Dice losses sum over the batch before they divide.
        num_scales: Outputs of the network, ``len(network.output_strides)``.
        allow_reference: Accept ``package.module:attribute`` too; only for names that the user gave.

    Returns:
        A module of (outputs per scale, targets per scale) -> scalar.

    Raises:
        SettingsError: When no loss of that name is known.
    """
    loss = LOSSES.get(name, allow_reference=allow_reference)(labels=labels, batch_dice=batch_dice)
    return DeepSupervisionLoss(loss, num_scales=num_scales)
