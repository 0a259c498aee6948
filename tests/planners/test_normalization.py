"""Schemes by channel name, masks by how much cropping removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from autoseg.errors import PlanError
from autoseg.fingerprint import Fingerprint
from autoseg.planners.normalization import choose_normalization

MakeFingerprint = Callable[..., Fingerprint]
GRIDS = [((1.0, 1.0, 1.0), (40, 40, 40))]


@pytest.mark.parametrize(
    ("channel", "scheme"),
    [
        ("CT", "ct"),
        ("ct", "ct"),
        ("noNorm", "none"),
        ("zscore", "zscore"),
        ("rescale_to_0_1", "rescale_to_0_1"),
        ("RGB_to_0_1", "rgb_to_0_1"),
        ("T1", "zscore"),
        ("rescale_0_1", "zscore"),
        ("none", "zscore"),
    ],
)
def test_the_name_of_a_channel_chooses(make_fingerprint: MakeFingerprint, channel: str, scheme: str) -> None:
    choice = choose_normalization([channel], make_fingerprint(GRIDS))
    assert choice.plans[0].scheme == scheme
    assert channel in choice.reason


def test_statistics_are_kept_for_every_channel(make_fingerprint: MakeFingerprint) -> None:
    """A plan must predict without the fingerprint."""
    fingerprint = make_fingerprint(GRIDS, num_channels=3)
    for plan in choose_normalization(["CT", "T1", "noNorm"], fingerprint).plans:
        assert plan.statistics == fingerprint.intensities[0]


@pytest.mark.parametrize(("relative_size", "use_mask"), [(0.749, True), (0.75, False), (1.0, False)])
def test_only_z_scores_of_much_cropped_images_use_the_mask(
    make_fingerprint: MakeFingerprint, relative_size: float, *, use_mask: bool
) -> None:
    fingerprint = make_fingerprint(GRIDS, num_channels=3, relative_size=relative_size)
    plans = choose_normalization(["T1", "CT", "rescale_to_0_1"], fingerprint).plans
    assert [plan.use_mask for plan in plans] == [use_mask, False, False]


def test_ct_without_any_foreground_is_refused_with_a_way_out(make_fingerprint: MakeFingerprint) -> None:
    without = replace(make_fingerprint(GRIDS), intensities=())
    with pytest.raises(PlanError, match=r"no training case has any.*zscore"):
        choose_normalization(["CT"], without)


def test_other_schemes_need_no_foreground(make_fingerprint: MakeFingerprint) -> None:
    without = replace(make_fingerprint(GRIDS), intensities=())
    plans = choose_normalization(["T1", "noNorm"], without).plans
    assert [(plan.scheme, plan.statistics) for plan in plans] == [("zscore", None), ("none", None)]


def test_a_fingerprint_of_other_channels_is_refused(make_fingerprint: MakeFingerprint) -> None:
    with pytest.raises(PlanError, match=r"2 channel\(s\), the dataset 1"):
        choose_normalization(["CT"], make_fingerprint(GRIDS, num_channels=2))
