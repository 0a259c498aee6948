"""What the screen shows: calm lines on standard error while working, results on standard output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

messages = Console(stderr=True, soft_wrap=True)
"""What is being done and decided; ``--quiet`` silences it."""

errors = Console(stderr=True, soft_wrap=True)
"""What went wrong; never silenced."""

output = Console(soft_wrap=True)
"""Results that may be piped into another program."""


class ConsoleProgress:
    """Draws messages and progress bars with the time left."""

    def message(self, text: str) -> None:
        """Print one line."""
        messages.print(text, markup=False, highlight=False)

    def track(self, items: Iterable[T], *, total: int, description: str) -> Iterator[T]:
        """Show a bar while items pass; without a terminal, one line at the end."""
        if messages.quiet or not messages.is_terminal:
            yield from items
            self.message(f"{description}: {total} done")
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=messages) as bars:
            task = bars.add_task(description, total=total)
            for item in items:
                yield item
                bars.advance(task)
