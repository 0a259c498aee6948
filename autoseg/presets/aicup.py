"""CT of the heart with rare calcification, as in the AI CUP 2025 with CardiacSegV2's plain U-Net."""

from __future__ import annotations

from autoseg.presets.values import Explained, LeftOut, Preset, explained

_TEAM = "AI CUP 2025 entry (CT heart)"
_CODE = "CardiacSegV2 (github.com/cyt418/CardiacSegV2)"

AICUP = Preset(
    name="aicup",
    summary="CT of the heart: myocardium, aortic valve, rare calcification; CardiacSeg's plain U-Net",
    normalization=Explained(
        value="window(-42,423)", why="-42..423 HU become 0..1, what lies beyond is clipped", source=_TEAM
    ),
    spacing=Explained(value=(1.0, 0.7, 0.7), why="every scan on one grid, close to what scanners give", source=_TEAM),
    patch=Explained(
        value=(120, 128, 128), why="about the whole heart; published as 128x128x120 (x, y, z)", source=_TEAM
    ),
    network=Explained(
        value="cardiac_unet",
        why="64, 128, 256, 256 feature maps, one output: what was run, though a hybrid is described",
        source=_CODE,
    ),
    network_options=explained(_CODE, norm="batch | batch normalization", activation="relu | ReLU"),
    settings=(
        *explained(
            _TEAM,
            loss="dice_ce | Dice and cross-entropy",
            optimizer="adamw | AdamW",
            learning_rate="5e-4 | AdamW's largest rate",
            weight_decay="5e-4 | against learning 50 cases by heart",
            sampling="pos_neg | patches on foreground or on background",
            patches_per_case="2 | two crops of every case",
            batch_size="2 | one case, two crops",
            augmentation="light+noise+translation | rotation, flip, shift, scaling, noise, intensity",
            volume_every="5 | whole held-out volumes every 5 epochs",
            volume_patience="2 | stop after two of them in a row without a better Dice",
        ),
        *explained(
            "autoseg",
            schedule="cosine | the team names a scheduler, not which",
            warmup="0.05 | share of the run in which the rate rises first",
            epochs="1200 | early stopping ends it sooner",
            foreground_share="0.5 | as often foreground as background",
        ),
    ),
    views=Explained(value="none", why="windows are predicted once: nothing else is published", source="autoseg"),
    postprocessing=(
        Explained(
            value="keep_largest({label})",
            why="described, inert in the code; leave it out for calcification in several places",
            source=_TEAM,
        ),
        Explained(value="fill_holes({label})", why="described; other labels inside stay", source=_TEAM),
    ),
    left_out=(
        LeftOut(what="epochs of one pass over the cases", instead="250 steps; --set iterations_per_epoch changes it"),
    ),
)
