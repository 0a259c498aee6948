"""Losses by name."""

from __future__ import annotations

import difflib
import inspect
import re
from functools import partial
from typing import Any, NamedTuple, Protocol

from torch import nn

from autoseg.errors import SettingsError
from autoseg.labels import LabelScheme
from autoseg.losses.compound import WeightedSumLoss
from autoseg.losses.deep_supervision import DeepSupervisionLoss
from autoseg.plan import Supervision
from autoseg.registry import Registry


class LossBuilder(Protocol):
    """Makes a loss for one resolution; usually the loss's class."""

    def __call__(self, *, labels: LabelScheme, batch_dice: bool, **options: float) -> nn.Module:
        """Build a module that maps logits (b, k, ...) and a target to a scalar; options have names and defaults."""


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
        "generalized_dice": "autoseg.losses.overlap:GeneralizedDiceLoss",
        "boundary": "autoseg.losses.surface:BoundaryLoss",
        "dou": "autoseg.losses.surface:BoundaryDifferenceLoss",
        "surface_dice": "autoseg.losses.surface:SurfaceDiceLoss",
        "mse": "autoseg.losses.voxelwise:MeanSquaredErrorLoss",
        "bce": "autoseg.losses.voxelwise:BinaryCrossEntropyLoss",
    },
)


class LossTerm(NamedTuple):
    """One term of a sum of losses."""

    weight: float
    name: str
    options: dict[str, float]


_TERM = re.compile(r"\s*(?:([0-9]*\.?[0-9]+)\s*\*\s*)?([A-Za-z_][\w.:@-]*)\s*(?:\(([^()]*)\))?\s*")
_OPTION = re.compile(r"\s*(\w+)\s*=\s*([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)\s*")


def parse_loss(text: str) -> list[LossTerm]:
    """Take a weighted sum of losses apart.

    Args:
        text: A name, or terms such as ``name``, ``0.1*name`` and ``name(option=2)`` joined by ``+``.

    Raises:
        SettingsError: When a term is malformed, or a weight is not positive.

    Example:
        >>> [(term.weight, term.name) for term in parse_loss("dice+0.1*focal")]
        [(1.0, 'dice'), (0.1, 'focal')]
        >>> parse_loss("tversky(alpha=0.2,beta=0.8)")[0].options
        {'alpha': 0.2, 'beta': 0.8}
    """
    terms = []
    for part in text.split("+"):
        match = _TERM.fullmatch(part)
        if match is None:
            raise SettingsError(f"loss {text!r}: {part.strip()!r} is no term; write it as in dice+0.1*focal(focus=2)")
        weight = 1.0 if match[1] is None else float(match[1])
        if weight <= 0:
            raise SettingsError(f"loss {text!r}: the weight of {match[2]} must be positive")
        options = {}
        for option in (match[3] or "").split(",") if match[3] else ():
            found = _OPTION.fullmatch(option)
            if found is None:
                raise SettingsError(f"loss {text!r}: {option.strip()!r} is no option; write it as in focal(focus=2)")
            options[found[1]] = float(found[2])
        terms.append(LossTerm(weight, match[2], options))
    return terms


def _build_term(
    term: LossTerm,
    *,
    labels: LabelScheme,
    batch_dice: bool,
    extent: tuple[float, ...] | None,
    allow_reference: bool,
) -> nn.Module:
    """Build one loss; an option that it does not have is answered with those that it has."""
    builder = LOSSES.get(term.name, allow_reference=allow_reference)
    accepted = inspect.signature(builder).parameters
    if term.options:
        known = [name for name in accepted if name not in ("labels", "batch_dice", "extent")]
        if unknown := [name for name in term.options if name not in known]:
            close = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"its options: {', '.join(known) or 'none'}"
            raise SettingsError(f"the loss {term.name} has no option {unknown[0]!r}; {hint}")
    size: dict[str, Any] = {"extent": extent} if "extent" in accepted else {}
    return builder(labels=labels, batch_dice=batch_dice, **term.options, **size)


def build_loss(
    name: str,
    *,
    labels: LabelScheme,
    batch_dice: bool,
    num_scales: int,
    supervision: Supervision = "pyramid",
    extent: tuple[float, ...] | None = None,
    auxiliary_weight: float = 0.0,
    allow_reference: bool = False,
) -> DeepSupervisionLoss:
    """Build the loss that training minimizes.

    Args:
        name: A name of the loss registry, or a weighted sum of them; see :func:`parse_loss`.
        labels: What the outputs mean.
        batch_dice: Whether Dice losses sum over the batch before they divide.
        num_scales: Outputs of the network, ``len(network.output_strides)``.
        supervision: What these outputs are.
        extent: Millimetres that a patch measures per axis, for losses that look at distances.
        auxiliary_weight: ``network.auxiliary_weight``: of the outputs that a refinement was given.
        allow_reference: Accept ``package.module:attribute`` too; only for names that the user gave.

    Returns:
        A module of (outputs per scale, targets per scale) -> scalar.

    Raises:
        SettingsError: When no loss of a name is known, it has no such option, or the sum is malformed.
    """
    build = partial(_build_term, labels=labels, batch_dice=batch_dice, extent=extent, allow_reference=allow_reference)
    terms = [(term.weight, build(term)) for term in parse_loss(name)]
    is_plain = len(terms) == 1 and terms[0][0] == 1
    loss = terms[0][1] if is_plain else WeightedSumLoss(terms)
    return DeepSupervisionLoss(loss, num_scales=num_scales, supervision=supervision, auxiliary_weight=auxiliary_weight)
