"""Slices of cardiac MRI in two phases, as Baseline_2 for M&Ms-2."""

from __future__ import annotations

from autoseg.presets.values import Explained, LeftOut, Preset, explained

_CODE = "Baseline_2 (github.com/manigalati/MnMs2)"

MNMS2 = Preset(
    name="mnms2",
    summary="cardiac MRI, short and long axis: a 2D U-Net per view, over slices of both phases",
    configuration="2d",
    by_view=Explained(value=True, why="a model of each view; images go to that of their view", source=_CODE),
    normalization=Explained(value="zscore", why="mean 0, deviation 1 of every image", source=_CODE),
    patch=Explained(
        value=(1, 256, 256), why="whole slices, padded or cut; spacing is the median in the plane", source=_CODE
    ),
    network=Explained(value="unet", why="nnU-Net's Generic_UNet: six halvings of 256, leaky ReLU", source=_CODE),
    network_options=explained(
        _CODE,
        norm="batch | batches of 20 slices bear it",
        upsampling_bias="false | as in Generic_UNet",
        head_bias="false | as in Generic_UNet",
        max_features="480 | Generic_UNet's largest number in 2D",
    ),
    settings=explained(
        _CODE,
        loss="dice_ce | Dice over the batch and cross-entropy",
        optimizer="sgd | SGD with Nesterov's momentum",
        momentum="0.99 | momentum",
        learning_rate="0.01 | the first rate",
        weight_decay="3e-5 | weight decay",
        gradient_clip="12 | largest norm of the gradient",
        schedule="poly | 0.01 (1 - e/E)^0.9",
        epochs="1000 | the E of the schedule; the code stopped at 250 of them",
        batch_size="20 | slices of a batch",
        keep_best="5 | weights of the five best epochs are kept",
    ),
    left_out=(LeftOut(what="a snapshot every 10 epochs", instead="one to go on with, and the best ones"),),
)
