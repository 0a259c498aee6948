"""Test-time augmentation: the turned and mirrored views of a tile over which a prediction is averaged."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

TestTimeAugmentation = Literal["none", "mirrors", "turns", "six"]
TEST_TIME_AUGMENTATIONS: tuple[TestTimeAugmentation, ...] = get_args(TestTimeAugmentation)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A way to look at a tile: mirrored along some axes, then turned in the plane of the last two axes.

    Args:
        mirrored: Patch axes, 0 being the first.
        quarter_turns: From 0 to 3.
    """

    mirrored: tuple[int, ...] = ()
    quarter_turns: int = 0

    def apply(self, patches: torch.Tensor) -> torch.Tensor:
        """The view of patches (b, c, *patch); one that is turned by 90 or 270 degrees has its last axes swapped."""
        mirrored = patches.flip(self._axes) if self.mirrored else patches
        return torch.rot90(mirrored, self.quarter_turns, (-2, -1)) if self.quarter_turns else mirrored

    def invert(self, outputs: torch.Tensor) -> torch.Tensor:
        """Undo :meth:`apply`."""
        turned = torch.rot90(outputs, -self.quarter_turns, (-2, -1)) if self.quarter_turns else outputs
        return turned.flip(self._axes) if self.mirrored else turned

    def shape(self, patch_size: Sequence[int]) -> tuple[int, ...]:
        """Shape of the view of a patch."""
        if self.quarter_turns % 2 == 0:
            return tuple(patch_size)
        return (*patch_size[:-2], patch_size[-1], patch_size[-2])

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(2 + axis for axis in self.mirrored)


def views_of(augmentation: TestTimeAugmentation, mirror_axes: Sequence[int], ndim: int) -> tuple[View, ...]:
    """Distinct views of a group, the unchanged one first.

    Args:
        augmentation: "none"; "mirrors": every set of the axes that training mirrored, as nnU-Net does it; "turns":
            these, each with four quarter turns of the last two axes (all eight symmetries of a square where both are
            mirrored); "six": unchanged, mirrored along either of the last two axes, and turned by 90, 180 and 270
            degrees.
        mirror_axes: Patch axes that training mirrored.
        ndim: Axes of a patch.

    Example:
        >>> len(views_of("mirrors", (0, 1, 2), 3)), len(views_of("turns", (0, 1), 2)), len(views_of("six", (), 2))
        (8, 8, 6)
    """
    if augmentation == "none":
        return (View(),)
    if augmentation == "six":
        flips = (View(mirrored=(ndim - 2,)), View(mirrored=(ndim - 1,)))
        return (View(), *flips, *(View(quarter_turns=turns) for turns in (1, 2, 3)))
    mirrored = [View(mirrored=axes) for axes in mirror_subsets(mirror_axes)]
    if augmentation == "mirrors":
        return tuple(mirrored)
    turned = [View(mirrored=view.mirrored, quarter_turns=turns) for turns in range(4) for view in mirrored]
    # Mirroring along both axes is half a turn: what looks the same is seen once.
    probe = torch.arange(3**ndim).reshape(1, 1, *(3,) * ndim)
    return tuple({tuple(view.apply(probe).flatten().tolist()): view for view in reversed(turned)}.values())[::-1]


def mirror_subsets(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every set of axes along which a tile is mirrored, the empty one first, then by size.

    Example:
        >>> mirror_subsets((0, 2))
        [(), (0,), (2,), (0, 2)]
    """
    return [chosen for size in range(len(axes) + 1) for chosen in itertools.combinations(axes, size)]
