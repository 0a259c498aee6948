"""The default planner: plain U-Nets for 8 GB."""

from __future__ import annotations

from autoseg.planners.base import PresetPlanner
from autoseg.planners.preset import DEFAULT_PLANNER, PlannerPreset, SizeRule

UNET = PlannerPreset(
    name=DEFAULT_PLANNER,
    network="unet",
    encoder_blocks=(2,),
    decoder_blocks=(2,),
    memory_gb=8.0,
    # A batch that holds more than a twentieth of all voxels repeats itself within an epoch and gains nothing.
    max_dataset_share=0.05,
    # 2D patches shrink only until two fit: in a plane, context is worth more than a large batch.
    in_2d=SizeRule(elements=85e6, batch_size=12, batch_to_fit=2, start_voxels=2048**2, max_features=512),
    in_3d=SizeRule(elements=560e6, batch_size=2, batch_to_fit=2, start_voxels=256**3, max_features=320),
)
"""nnU-Net's ExperimentPlanner."""


class UNetPlanner(PresetPlanner):
    """Plan plain U-Nets, as nnU-Net's default planner does."""

    preset = UNET
