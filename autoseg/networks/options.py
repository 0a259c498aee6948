"""Options that only one network has: what ``NetworkPlan.options`` may hold. Imports no torch, so that planning can."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetOptions:
    """Of ``unet`` and ``resenc``.

    Args:
        upsampling_bias: Whether transposed convolutions have a bias.
        head_bias: Whether output layers have a bias.
    """

    upsampling_bias: bool = True
    head_bias: bool = True
