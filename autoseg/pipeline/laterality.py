"""Labels with sides: a mirrored left kidney looks like a right one, so that mirroring would teach the wrong name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from autoseg.plan import Configuration, Plan

_OTHER_SIDE = {"left": "right", "l": "r", "lt": "rt", "lh": "rh", "sinister": "dexter", "sin": "dex"}


def sided_pairs(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Pairs of labels that differ in their side only, the left one first.

    A side is a word of its own: "left_kidney", "kidney left", "KidneyLeft", "kidney_l", "lh-hippocampus".

    Args:
        names: Names of labels.

    Example:
        >>> sided_pairs(["kidney_left", "liver", "kidney_right"])
        (('kidney_left', 'kidney_right'),)
    """
    by_words = {_words(name): name for name in names}
    found = []
    for words, name in by_words.items():
        for place, word in enumerate(words):
            other = (*words[:place], _OTHER_SIDE.get(word, ""), *words[place + 1 :])
            if other in by_words:
                found.append((name, by_words[other]))
    return tuple(found)


def keep_sides_apart(plan: Plan) -> Plan:
    """Forbid mirroring along the patient's left-right axis where labels have sides; the plan says why.

    A configuration whose mirror axes are set already, and a 2D one whose slices do not contain the axis, stay as they
    are.

    Args:
        plan: As planned; without a known orientation nothing is changed.
    """
    pairs = sided_pairs(target.name for target in plan.labels.targets)
    if not pairs or plan.orientation is None:
        return plan
    stored = next(axis for axis, letter in enumerate(plan.orientation) if letter in "LR")
    planned = plan.transpose.index(stored)
    configurations = list(plan.configurations)
    for place, configuration in enumerate(configurations):
        if configuration.mirror_axes is None and (axes := _patch_axes(configuration, planned, len(plan.transpose))):
            configurations[place] = _without(configuration, axes, pairs)
    return replace(plan, configurations=tuple(configurations))


def _patch_axes(configuration: Configuration, planned: int, ndim: int) -> tuple[int, ...]:
    """Axes of the patch that may run along a plan axis."""
    if configuration.slices is not None:
        planes = [configuration.slices.in_plane(axis) for axis in configuration.slices.axes]
        return tuple(place for place in range(2) if any(plane[place] == planned for plane in planes))
    axis = planned - (ndim - configuration.ndim)
    return () if axis < 0 else (axis,)


def _without(configuration: Configuration, axes: tuple[int, ...], pairs: tuple[tuple[str, str], ...]) -> Configuration:
    left, right = pairs[0]
    more = f" and {len(pairs) - 1} more pair(s)" if pairs[1:] else ""
    named = " and ".join(map(str, axes))
    reason = f"not along axis {named}, the patient's left-right axis: mirrored, {left} would look like {right}{more}"
    return replace(
        configuration,
        mirror_axes=tuple(a for a in range(configuration.ndim) if a not in axes),
        reasons=configuration.reasons | {"mirror_axes": reason},
    )


def _words(name: str) -> tuple[str, ...]:
    """Words of a name in lower case, parted by anything but letters and digits, or by a capital."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return tuple(re.findall(r"[^\W_]+", parted.lower()))
