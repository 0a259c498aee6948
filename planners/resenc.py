"""Planners for U-Nets with a residual encoder, in three sizes (https://arxiv.org/abs/2404.09556)."""

from __future__ import annotations

from dataclasses import replace

from autoseg.planners.base import PresetPlanner
from autoseg.planners.preset import PlannerPreset, SizeRule

RESENC_M = PlannerPreset(
    name="resenc_m",
    network="resenc",
    # Depth sits in the encoder, where resolution is low and a block costs little memory; the decoder stays shallow.
    encoder_blocks=(1, 3, 4, 6),
    decoder_blocks=(1,),
    memory_gb=8.0,
    # The presets let the batch grow as long as memory lasts: small images get batches of hundreds.
    max_dataset_share=1.0,
    in_2d=SizeRule(elements=135e6, batch_size=12, batch_to_fit=12, start_voxels=2048**2, max_features=512),
    in_3d=SizeRule(elements=680e6, batch_size=2, batch_to_fit=2, start_voxels=256**3, max_features=320),
)
"""nnU-Net's ResEnc M: as much memory as the default planner."""

RESENC_L = replace(
    RESENC_M,
    name="resenc_l",
    memory_gb=24.0,
    in_2d=replace(RESENC_M.in_2d, elements=380e6),
    in_3d=replace(RESENC_M.in_3d, elements=2.1e9),
)
"""nnU-Net's ResEnc L: consumer GPUs with 24 GB."""

RESENC_XL = replace(
    RESENC_M,
    name="resenc_xl",
    memory_gb=40.0,
    in_2d=replace(RESENC_M.in_2d, elements=560e6),
    in_3d=replace(RESENC_M.in_3d, elements=3.6e9),
)
"""nnU-Net's ResEnc XL: data-center GPUs with 40 GB."""


class ResEncMPlanner(PresetPlanner):
    """Plan residual encoder U-Nets for 8 GB."""

    preset = RESENC_M


class ResEncLPlanner(PresetPlanner):
    """Plan residual encoder U-Nets for 24 GB."""

    preset = RESENC_L


class ResEncXLPlanner(PresetPlanner):
    """Plan residual encoder U-Nets for 40 GB."""

    preset = RESENC_XL
