"""Processes that train one fold together, as ``torchrun`` starts them: who writes, and who computes what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Place of this process among those that train together; the default is a process of its own.

    Args:
        rank: Number of this process, from 0; the first one writes all files.
        size: How many processes there are, on all machines.
        local_rank: Number of this process on its machine, which is that of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size or self.local_rank < 0:
            raise ValueError(f"rank {self.rank} (on its machine {self.local_rank}) is not one of {self.size} processes")

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and tells what happens."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def share(self, num: int) -> range:
        """Which of ``num`` patches of a batch this process computes: neighbours, the first ranks one more than others.

        Example:
            >>> [Ranks(rank=rank, size=2).share(5) for rank in range(2)]
            [range(0, 3), range(3, 5)]
        """
        each, more = divmod(num, self.size)
        start = self.rank * each + min(self.rank, more)
        return range(start, start + each + (self.rank < more))

    def turn(self, items: Sequence[T]) -> Sequence[T]:
        """Items that this process takes where all take turns."""
        return items[self.rank :: self.size]


ALONE = Ranks()
"""One process."""
