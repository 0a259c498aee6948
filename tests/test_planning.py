"""Which preprocessed arrays configurations share."""

from __future__ import annotations

from dataclasses import replace

from autoseg.plan import Configuration, NetworkPlan, NormalizationPlan
from autoseg.planning import share_data


def configuration(name: str, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Configuration:
    ones = (1,) * len(spacing)
    return Configuration(
        name=name,
        data=name,
        spacing=spacing,
        median_shape=tuple(40.0 for _ in spacing),
        patch_size=tuple(32 for _ in spacing),
        batch_size=2,
        batch_dice=False,
        normalization=(NormalizationPlan(scheme="zscore"),),
        network=NetworkPlan(
            name="unet", features=(32,), strides=(ones,), kernel_sizes=(ones,), encoder_blocks=(2,), decoder_blocks=()
        ),
    )


def folders(*configurations: Configuration) -> list[str]:
    return [c.data for c in share_data(configurations)]


def test_configurations_prepared_alike_share_the_folder_of_the_first() -> None:
    full = configuration("3d_fullres")
    cascade = replace(full, name="3d_cascade_fullres", previous_stage="3d_lowres")
    large = replace(configuration("3d_fullres@resenc_l"), batch_size=8)
    assert folders(configuration("2d", (1.0, 1.0)), full, cascade, large) == ["2d", *["3d_fullres"] * 3]


def test_another_spacing_or_normalization_needs_a_folder_of_its_own() -> None:
    full = configuration("3d_fullres")
    coarse = configuration("3d_fullres@coarse", (2.0, 1.0, 1.0))
    masked = replace(
        configuration("3d_fullres@masked"), normalization=(NormalizationPlan(scheme="zscore", use_mask=True),)
    )
    smooth = replace(configuration("3d_fullres@smooth"), resampling=replace(full.resampling, image_order=1))
    assert folders(full, coarse, masked, smooth) == [full.name, coarse.name, masked.name, smooth.name]


def test_a_folder_is_no_longer_shared_once_it_holds_something_else() -> None:
    full, large = configuration("3d_fullres"), configuration("3d_fullres@resenc_l")
    shared = share_data([full, large])
    assert "shared with 3d_fullres" in shared[1].reasons["data"]
    again = share_data([configuration("3d_fullres", (2.0, 1.0, 1.0)), shared[1]])
    assert [c.data for c in again] == ["3d_fullres", "3d_fullres@resenc_l"]
    assert "data" not in again[1].reasons
