"""Seven structures of the heart in CT or MRI, as CM-TranCaF segments them."""

from __future__ import annotations

from autoseg.presets.values import Explained, LeftOut, Preset, explained

_PAPER = "CM-TranCaF, whole-heart segmentation (MM-WHS)"

CM_TRANCAF = Preset(
    name="cm_trancaf",
    summary="whole heart, seven structures: MAUNet, refined by where structures lie (SCN)",
    normalization=Explained(
        value="zscore+clahe", why="textures are enhanced; how is not published, so local contrast is", source="autoseg"
    ),
    spacing=Explained(value=(3.0, 3.0, 3.0), why="the whole heart fits into one patch", source=_PAPER),
    patch=Explained(value=(64, 64, 64), why="the region of the heart", source=_PAPER),
    network=Explained(value="scn", why="refines the logits of another network", source="Payer et al. 2019, " + _PAPER),
    network_options=(
        *explained(
            _PAPER,
            refines="maunet | four levels, residual encoder, attention between positions at the bottom",
            skip_gate="grid | attention gates on the skips",
        ),
        *explained("autoseg", deep_supervision="false | one output; the paper names no other"),
    ),
    settings=(
        *explained(
            _PAPER,
            loss="dice+0.1*focal | Dice and a tenth of the focal loss",
            optimizer="adam | Adam",
            learning_rate="1e-5 | low; try 1e-3 where time is short",
            batch_size="8 | patches of a batch",
            iterations="40000 | optimizer steps in all",
            augmentation="none+rotation+scaling+translation+mirror | scale, shift, flip, rotate",
        ),
        *explained("autoseg", schedule="constant | none is published", warmup="0 | none is published"),
    ),
    left_out=(
        LeftOut(
            what="a network that finds the heart and cuts 64x64x64 around it",
            instead="windows of 64x64x64 slide over the case, which at 3 mm holds few of them",
        ),
        LeftOut(what="images translated between CT and MRI by a 3D CycleGAN", instead="annotated images only"),
    ),
)
