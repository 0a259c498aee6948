"""Lengths of time as people write them."""

from __future__ import annotations

import re

from autoseg.errors import SettingsError

_UNITS = {"s": 1, "m": 60, "h": 3600}


def parse_duration(text: str, *, where: str = "--time-budget") -> float:
    """Seconds in a duration such as "90s", "15m" or "2h".

    Args:
        text: A whole number with its unit.
        where: Option or setting, for the error.

    Raises:
        SettingsError: When it is something else.

    Example:
        >>> parse_duration("15m")
        900.0
    """
    match = re.fullmatch(r"([1-9]\d*)([smh])", text.strip())
    if match is None:
        raise SettingsError(f"{where} {text}: give a whole number with s, m or h, for instance 15m")
    return float(int(match[1]) * _UNITS[match[2]])
