"""MRI of the spine in thick slices, as the 2D/3D hybrid ACC-UXNet segments it."""

from __future__ import annotations

from autoseg.presets.values import Explained, LeftOut, Preset, explained

_PAPER = "2D/3D hybrid U-Net for the spine"
_CODE = "github.com/MurasameDaisuki/mip_scut_course_design"

SPINE = Preset(
    name="spine",
    summary="MRI of the spine in thick slices: bias field corrected, a 2D network with links between slices",
    normalization=Explained(
        value="n4+rescale_to_0_1",
        why="N4 removes the coil's field; then divided by the largest intensity",
        source=_CODE,
    ),
    patch=Explained(value=(12, 128, 128), why="all slices, a piece of the plane", source=_PAPER),
    network=Explained(value="spine_hybrid", why="slices are never strided and meet in links", source=_PAPER),
    network_options=explained(
        _PAPER,
        block="ux | depth-wise 7x7 convolutions before every stride",
        link="hanc | pooled neighborhoods across slices",
        stem_kernel="27 | what the first convolution sees",
    ),
    settings=(
        *explained(
            _PAPER,
            loss="mse | squared error of the outputs",
            optimizer="adam | Adam",
            learning_rate="1e-3 | as the text says; the code has 5e-4",
            warmup="0 | none",
            schedule="decay | a factor every few epochs",
            decay_every="10 | epochs, as the text says; the code has 1",
            decay_factor="0.9 | factor",
            epochs="200 | passes",
            batch_size="8 | windows of a batch",
            sampling="windows | random windows of some of the cases",
            cases_per_epoch="0.4 | share of the cases in an epoch",
            windows_per_case="16 | windows of each of them",
        ),
        *explained(
            _CODE,
            window_image_share="0.7 | a window is drawn again where less of it is image",
            window_foreground_share="0.01 | or where less of it is foreground",
            augmentation="none+mirror | flips only",
        ),
    ),
    postprocessing=(
        Explained(value="threshold({label}, threshold=0.6)", why="a squared error is no probability", source=_CODE),
    ),
    left_out=(
        LeftOut(what="64 feature maps at first (778 million weights)", instead="16, fewer where memory is short"),
        LeftOut(what="layer normalization tied to 12x128x128", instead="over channels, so that any window can be used"),
        LeftOut(what="flips with a chance of 0.3 per axis", instead="nnU-Net's 0.5 of the patches"),
        LeftOut(what="squared error of the raw output", instead="of probabilities, so that they can be averaged"),
    ),
)
