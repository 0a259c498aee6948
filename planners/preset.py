"""What distinguishes one planner from another: constants, no code."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_PLANNER = "unet"
"""The planner whose configurations carry plain names; those of others end in "@" and the planner's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRule:
    """How large networks of one dimension may become, relative to a network that was measured to train.

    Args:
        elements: Feature-map values per patch (see :func:`autoseg.planners.budget.feature_map_elements`) of a network
            that trains with ``batch_size`` patches in the preset's memory.
        batch_size: Patches per optimizer step in that measurement.
        batch_to_fit: The patch shrinks until this many patches fit; the batch then grows into what memory is left.
        start_voxels: Voxels of the patch that the shrinking starts from, before it is cut to the median case.
        max_features: Feature maps double with every stage up to this number.
    """

    elements: float
    batch_size: int
    batch_to_fit: int
    start_voxels: int
    max_features: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerPreset:
    """The constants of a planner.

    Args:
        name: Name in the planner registry.
        network: Name in the network registry.
        encoder_blocks: Convolutions or residual blocks per encoder stage; deeper stages repeat the last entry.
        decoder_blocks: Convolutions per decoder stage, lowest resolution first; further stages repeat the last entry.
        memory_gb: GPU memory that the size rules were measured for, and the budget where none is given.
        max_dataset_share: A batch holds at most this share of all training voxels.
        in_2d: Size rule of 2D configurations.
        in_3d: Size rule of 3D configurations.
    """

    name: str
    network: str
    encoder_blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    memory_gb: float
    max_dataset_share: float
    in_2d: SizeRule
    in_3d: SizeRule

    def size_rule(self, ndim: int) -> SizeRule:
        """The rule for networks with 2 or 3 axes."""
        return self.in_2d if ndim == 2 else self.in_3d

    def configuration_name(self, name: str) -> str:
        """Name in the plan of this planner's configuration, e.g. "3d_fullres@resenc_l"."""
        return name if self.name == DEFAULT_PLANNER else f"{name}@{self.name}"


def repeat_last(values: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Cut a tuple to ``count`` entries, or fill it up with its last one.

    nnU-Net's tables end after 14 stages and planning fails beyond; here no network is too deep.

    Example:
        >>> repeat_last((1, 3, 4, 6), 6), repeat_last((1, 3, 4, 6), 2)
        ((1, 3, 4, 6, 6, 6), (1, 3))
    """
    return (*values[:count], *values[-1:] * (count - len(values)))
