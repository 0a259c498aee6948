"""Bit-for-bit repeatable arithmetic, where torch offers it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic_algorithms(*, wanted: bool) -> Iterator[None]:
    """Ask torch for operations that repeat; operations without such a form warn.

    Args:
        wanted: False leaves everything as it is.
    """
    if not wanted:
        yield
        return
    was_wanted = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # noqa: FBT003 - torch's own signature
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_wanted, warn_only=only_warned)
