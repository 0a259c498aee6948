"""Vessels with sparse annotation: how the models of the SenNet+HOA competition were trained."""

from __future__ import annotations

from autoseg.presets.values import Explained, LeftOut, Preset, explained

_CODE = "github.com/KU-BIG/KUBIG_2023_FALL, SenNet+HOA"

VESSEL = Preset(
    name="vessel",
    summary="vessels, some cases sparsely annotated: focal loss and one cycle, on the default network",
    network=Explained(value="unet", why="the planner's own; the source's was a stack of slices", source="autoseg"),
    settings=explained(
        _CODE,
        loss="focal | vessels are few voxels",
        optimizer="adamw | AdamW",
        learning_rate="6e-5 | the top of the cycle",
        schedule="one_cycle | OneCycleLR",
        case_weights="annotated | cases count by how much of them is annotated",
    ),
    left_out=(LeftOut(what="stacks of five slices along three axes", instead="a 3D U-Net"),),
)
