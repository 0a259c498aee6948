"""Named extension points: built-ins by dotted path, installed plug-ins by entry point, the user's own by reference."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from autoseg.errors import SettingsError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of things of one kind; nothing is imported until a name is asked for.

    Args:
        kind: What a name stands for, in words, for error messages.
        group: Entry-point group in which installed packages register more.
        built_in: Name -> ``package.module:attribute``.
    """

    def __init__(self, kind: str, *, group: str, built_in: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._built_in = dict(built_in)

    def accept(self, name: str) -> str:
        """Let this process know ``package.module:attribute`` by that very name, as if it were installed.

        Only the command line and the Python interface may call it: afterwards a name in a file is answered, too.

        Args:
            name: A known name, which is left as it is, or a reference.

        Returns:
            The name.

        Raises:
            SettingsError: When it is neither, or cannot be imported.
        """
        self.get(name, allow_reference=True)
        self._references.setdefault(name, name)
        return name

    def names(self) -> list[str]:
        """Every known name, built-ins first."""
        return list(self._references)

    def get(self, name: str, *, allow_reference: bool = False) -> T:
        """Import what a name stands for.

        Args:
            name: A known name, or ``package.module:attribute``.
            allow_reference: Accept the latter. Only the command line and the Python interface may: a name read
                from a file must never choose what is imported.

        Raises:
            SettingsError: When the name is unknown or what it refers to cannot be imported.
        """
        references = self._references
        reference = references.get(name)
        if reference is None and allow_reference and ":" in name:
            reference = name
        if reference is None:
            close = difflib.get_close_matches(name, references, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(references)}"
            raise SettingsError(f"{name!r} is not a {self.kind}; {hint}")
        module_name, _, attribute = reference.partition(":")
        try:
            return cast("T", getattr(importlib.import_module(module_name), attribute))
        except (ImportError, AttributeError) as error:
            raise SettingsError(f"the {self.kind} {name!r} cannot be loaded from {reference}: {error}") from error

    @cached_property
    def _references(self) -> dict[str, str]:
        """Name -> reference; kept, because looking through all installed packages takes ten milliseconds."""
        references = dict(self._built_in)
        for point in entry_points(group=self.group):
            if references.setdefault(point.name, point.value) != point.value:
                raise SettingsError(
                    f"two packages register the {self.kind} {point.name!r}: {references[point.name]} and {point.value}"
                )
        return references
