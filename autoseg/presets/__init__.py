"""Published systems by name: ``autoseg preset train NAME DATASET`` and ``autoseg train --preset NAME``."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from autoseg.errors import SettingsError
from autoseg.presets.aicup import AICUP
from autoseg.presets.cm_trancaf import CM_TRANCAF
from autoseg.presets.mnms2 import MNMS2
from autoseg.presets.sennet import SENNET
from autoseg.presets.spine import SPINE
from autoseg.presets.values import Explained, LeftOut, Preset

__all__ = ["PRESETS", "Explained", "LeftOut", "Preset", "find_preset", "preset_settings"]

PRESETS = {preset.name: preset for preset in (AICUP, MNMS2, CM_TRANCAF, SENNET, SPINE)}
"""Name -> preset."""

_LENGTHS = ("epochs", "iterations", "time_budget")


def find_preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        SettingsError: When there is none; offers a close one.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(PRESETS)}"
        raise SettingsError(f"preset {name}: there is none of that name; {hint}")
    return PRESETS[name]


def preset_settings(name: str, asked: Sequence[str] = ()) -> tuple[str, ...]:
    """Settings of a preset's training, without its length where another one is asked for.

    Args:
        name: Of the preset.
        asked: Assignments that override it.

    Raises:
        SettingsError: When there is none of that name; offers a close one.

    Example:
        >>> preset_settings("sennet")[0]
        'loss=dice'
    """
    settings = tuple(setting.value for setting in find_preset(name).settings)
    has_length = any(assignment.partition("=")[0] in _LENGTHS for assignment in asked)
    return tuple(s for s in settings if not (has_length and s.partition("=")[0] in _LENGTHS))
