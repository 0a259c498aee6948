"""How numbers are written in reasons."""

from __future__ import annotations

from collections.abc import Sequence


def voxels(shape: Sequence[float]) -> str:
    """Write a shape.

    Example:
        >>> voxels((20, 256, 224.5))
        '20x256x224.5'
    """
    return "x".join(f"{n:g}" for n in shape)


def millimeters(spacing: Sequence[float]) -> str:
    """Write a spacing.

    Example:
        >>> millimeters((5.0, 0.76757))
        '5 x 0.768 mm'
    """
    return " x ".join(f"{s:.3g}" for s in spacing) + " mm"


def counted(number: int, thing: str) -> str:
    """Write a number of things.

    Example:
        >>> counted(1, "case"), counted(20, "case")
        ('1 case', '20 cases')
    """
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def millions(count: float) -> str:
    """Write a large count.

    Example:
        >>> millions(559_600_000)
        '559.6 million'
    """
    return f"{count / 1e6:.1f} million"
