"""Text such as ``epochs=250`` read as the fields of a dataclass."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

from autoseg.codec import from_plain
from autoseg.errors import ArtifactError, SettingsError

_TRUTH = {"true": True, "yes": True, "false": False, "no": False}


def parse_assignments(kind: type, assignments: Sequence[str]) -> dict[str, Any]:
    """Read assignments of a dataclass's fields; of several to one field the last one counts.

    Args:
        kind: The dataclass; its annotations say what each value may be.
        assignments: E.g. ``["learning_rate=0.003", "epochs=250"]``.

    Returns:
        Field name -> value.

    Raises:
        SettingsError: When a name is unknown (close matches are offered) or a value has the wrong type.
    """
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise SettingsError(f"--set {assignment}: write it as name=value")
        if name not in hints:
            close = difflib.get_close_matches(name, hints, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"settings: {', '.join(hints)}"
            raise SettingsError(f"{name!r} is not a setting; {hint}")
        values[name] = parse_value(name, text, hints[name])
    return values


def parse_value(name: str, text: str, kind: Any, *, option: str = "--set") -> Any:  # noqa: ANN401 - typing constructs
    """Read the text of a setting as the type that its field declares.

    Args:
        name: The field.
        text: What was given for it.
        kind: Its annotation.
        option: The command-line option, for the error.

    Raises:
        SettingsError: When the text does not say such a value.

    Example:
        >>> parse_value("warmup", "0.1", float | None), parse_value("warmup", "none", float | None)
        (0.1, None)
    """
    kinds = get_args(kind) if type(None) in get_args(kind) else (kind,)
    if text.lower() in ("none", "null") and type(None) in kinds:
        return None
    candidates: list[object] = [text]
    if text.lower() in _TRUTH:
        candidates.insert(0, _TRUTH[text.lower()])
    for convert in (float, int):
        try:
            candidates.insert(0, convert(text))
        except ValueError:
            continue
    for candidate in candidates:
        try:
            return from_plain(kind, candidate, where=name)
        except ArtifactError as error:
            problem = str(error)
    raise SettingsError(f"{option} {name}={text}: {problem}")
