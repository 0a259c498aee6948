"""Losses by name."""

from __future__ import annotations

import re
from typing import Protocol

from torch import nn

from autoseg.errors import SettingsError
from autoseg.labels import LabelScheme
from autoseg.losses.compound import WeightedSumLoss
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
        "ce": "autoseg.losses.cross_entropy:CrossEntropyLoss",
        "topk": "autoseg.losses.voxelwise:TopKLoss",
        "focal": "autoseg.losses.voxelwise:FocalLoss",
        "tversky": "autoseg.losses.overlap:TverskyLoss",
        "mse": "autoseg.losses.voxelwise:MeanSquaredErrorLoss",
        "bce": "autoseg.losses.voxelwise:BinaryCrossEntropyLoss",
    },
)


def parse_loss(text: str) -> list[tuple[float, str]]:
    """Take a weighted sum of losses apart.

    Args:
        text: A name, or terms such as ``name`` and ``0.1*name`` joined by ``+``.

    Returns:
        Weight and name of each term.

    Raises:
        SettingsError: When a term is malformed, or a weight is not positive.

    Example:
        >>> parse_loss("dice+0.1*focal")
        [(1.0, 'dice'), (0.1, 'focal')]
    """
    terms = []
    for term in text.split("+"):
        match = re.fullmatch(r"\s*(?:([0-9]*\.?[0-9]+)\s*\*\s*)?([A-Za-z_][\w.:@-]*)\s*", term)
        if match is None:
            raise SettingsError(f"loss {text!r}: {term.strip()!r} is no term; write it as in dice+0.1*focal")
        weight = 1.0 if match[1] is None else float(match[1])
        if weight <= 0:
            raise SettingsError(f"loss {text!r}: the weight of {match[2]} must be positive")
        terms.append((weight, match[2]))
    return terms


def build_loss(
    name: str, *, labels: LabelScheme, batch_dice: bool, num_scales: int, allow_reference: bool = False
) -> DeepSupervisionLoss:
    """Build the loss that training minimizes.

    Args:
        name: A name of the loss registry, or a weighted sum of them; see :func:`parse_loss`.
        labels: What the outputs mean.
        batch_dice: Whether Dice losses sum over the batch before they divide.
        num_scales: Outputs of the network, ``len(network.output_strides)``.
        allow_reference: Accept ``package.module:attribute`` too; only for names that the user gave.

    Returns:
        A module of (outputs per scale, targets per scale) -> scalar.

    Raises:
        SettingsError: When no loss of a name is known, or the sum is malformed.
    """
    terms = [
        (weight, LOSSES.get(part, allow_reference=allow_reference)(labels=labels, batch_dice=batch_dice))
        for weight, part in parse_loss(name)
    ]
    is_plain = len(terms) == 1 and terms[0][0] == 1
    return DeepSupervisionLoss(terms[0][1] if is_plain else WeightedSumLoss(terms), num_scales=num_scales)
