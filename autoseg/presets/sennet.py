"""Vessels of the kidney in volumes of X-rays: how the models of the SenNet + HOA competition were trained."""

from __future__ import annotations

from autoseg.presets.values import Explained, LeftOut, Preset, explained

_CODE = "github.com/KU-BIG/KUBIG_2023_FALL, SenNet+HOA"
_RULES = "kaggle.com/competitions/blood-vessel-segmentation"

SENNET = Preset(
    name="sennet",
    summary="vessels in a kidney, TIFF stacks, some sparsely annotated: 2.5D along three axes, bounded by the organ",
    configuration="2p5d",
    slices=Explained(value=5, why="neighboring slices as channels, the middle one is segmented", source=_CODE),
    normalization=Explained(value="window(0,65535)", why="16 bits as shares of their largest value", source=_CODE),
    patch=Explained(value=(256, 256, 256), why="crops of 256x256 pixels, along whichever axis", source=_CODE),
    network=Explained(value="se_resnext", why="U-Net on an encoder of photographs", source=_CODE),
    network_options=explained(_CODE, encoder="se_resnext50_32x4d | the source's; others did better, at more cost"),
    settings=explained(
        _CODE,
        loss="dice | Dice .556, binary cross-entropy .431, focal .252 in the source's table",
        optimizer="adamw | AdamW",
        learning_rate="6e-5 | the top of the cycle",
        schedule="one_cycle | OneCycleLR",
        epochs="30 | between 15 and 40 in the source",
        batch_size="16 | crops of a batch",
        foreground_share="0 | crops lie anywhere",
        case_weights="annotated | cases count by how much of them is annotated",
    ),
    views=Explained(value="six", why="unchanged, two mirrored and three turned slices, along each axis", source=_CODE),
    postprocessing=(
        Explained(
            value="inside({vessel}, organ={kidney}, largest=2)",
            why="a second head finds the kidney; of every slice its largest piece holds the vessels",
            source=_CODE,
        ),
    ),
    outputs=(Explained(value="run-lengths=runs.csv", why="one row per slice, an empty one is 1 0", source=_RULES),),
    metrics=Explained(value="nsd@0mm", why="surface Dice at tolerance 0, the competition's score", source=_RULES),
    left_out=(
        LeftOut(what="weights of ImageNet, downloaded", instead="random ones, or --pretrained with a local file"),
        LeftOut(what="its own flips and brightness", instead="nnU-Net's augmentation, without a turn before slicing"),
        LeftOut(what="probabilities of the axes averaged", instead="logits, as everywhere here"),
    ),
)
