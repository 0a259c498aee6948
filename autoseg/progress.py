"""How long work tells that it is alive: messages and counters, shown by whoever called."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")
logger = logging.getLogger("autoseg")


class Progress(Protocol):
    """Receives what is being done; the command line draws it, other callers log it."""

    def message(self, text: str) -> None:
        """Say one line: a decision and its reason, or where a result lies."""

    def track(self, items: Iterable[T], *, total: int, description: str) -> Iterator[T]:
        """Pass items through while counting them."""


class LoggingProgress:
    """Progress for scripts: every message goes to the ``autoseg`` logger."""

    def message(self, text: str) -> None:
        """Log one line."""
        logger.info("%s", text)

    def track(self, items: Iterable[T], *, total: int, description: str) -> Iterator[T]:
        """Pass items through and log the start and the end."""
        logger.info("%s: %d to do", description, total)
        yield from items
        logger.info("%s: done", description)


class SilentProgress:
    """Progress for processes that work beside another one, which tells what happens."""

    def message(self, text: str) -> None:
        """Say nothing."""

    def track(self, items: Iterable[T], *, total: int, description: str) -> Iterator[T]:  # noqa: ARG002
        """Pass items through."""
        yield from items


def duration_in_words(seconds: float) -> str:
    """A duration for people: "00:14:03", or "2 d 05:00:00".

    Example:
        >>> duration_in_words(190_803)
        '2 d 05:00:03'
    """
    days, rest = divmod(round(seconds), 86_400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days} d {clock}" if days else clock
