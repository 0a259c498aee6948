"""Settings that published systems were trained with, by name: ``autoseg train --preset NAME``.

A preset is a list of assignments; ``--set`` overrides them one by one.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from autoseg.errors import SettingsError

PRESETS: dict[str, tuple[str, ...]] = {
    "aicup": (
        *("optimizer=adamw", "learning_rate=5e-4", "weight_decay=5e-4", "schedule=cosine", "warmup=0.05"),
        *("sampling=pos_neg", "foreground_share=0.5", "patches_per_case=2", "batch_size=2"),
        *("volume_every=5", "volume_patience=2", "epochs=1200"),
    ),
    "mnms2": ("optimizer=sgd", "momentum=0.99", "learning_rate=0.01", "schedule=poly", "epochs=1000"),
    "whole_heart": (
        *("loss=dice+0.1*focal", "optimizer=adam", "learning_rate=1e-5", "batch_size=8", "iterations=40000"),
        *("schedule=constant", "warmup=0"),
    ),
    "vessel": (
        *("loss=focal", "optimizer=adamw", "learning_rate=6e-5", "schedule=one_cycle", "case_weights=annotated"),
    ),
    "spine": (
        *("loss=mse", "optimizer=adam", "learning_rate=1e-3", "warmup=0"),
        *("schedule=decay", "decay_every=10", "decay_factor=0.9", "epochs=200", "batch_size=8"),
        *("sampling=windows", "cases_per_epoch=0.4", "windows_per_case=16"),
    ),
}
"""Name -> assignments."""


_LENGTHS = ("epochs", "iterations", "time_budget")


def preset_settings(name: str, asked: Sequence[str] = ()) -> tuple[str, ...]:
    """Assignments of a preset, without its length where another one is asked for.

    Args:
        name: Of the preset.
        asked: Assignments that override it.

    Raises:
        SettingsError: When there is none of that name; offers a close one.

    Example:
        >>> preset_settings("mnms2", ["epochs=5"])
        ('optimizer=sgd', 'momentum=0.99', 'learning_rate=0.01', 'schedule=poly')
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(PRESETS)}"
        raise SettingsError(f"--preset {name}: there is none of that name; {hint}")
    has_length = any(assignment.partition("=")[0] in _LENGTHS for assignment in asked)
    return tuple(a for a in PRESETS[name] if not (has_length and a.partition("=")[0] in _LENGTHS))
