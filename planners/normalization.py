"""How each channel's intensities are normalized, from its name and from how much of the images is empty border."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from autoseg.errors import PlanError
from autoseg.fingerprint import Fingerprint
from autoseg.plan import HistogramPlan, NormalizationPlan
from autoseg.planning import IntensityRequest

_DEFAULT_SCHEME = "zscore"
_SCHEMES = {
    "ct": "ct",
    "zscore": "zscore",
    "rescale_to_0_1": "rescale_to_0_1",
    "rgb_to_0_1": "rgb_to_0_1",
    "nonorm": "none",
}
"""nnU-Net's channel names, casefolded, and what they stand for; any other name gets the default."""

_MASK_BELOW = 0.75  # of the voxels left after cropping; then so much is empty that it would spoil the mean


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalizationChoice:
    """One plan per channel, why, and whether the empty border is left out."""

    plans: tuple[NormalizationPlan, ...]
    reason: str
    mask_note: str


def choose_normalization(
    channels: Sequence[str], fingerprint: Fingerprint, requests: Sequence[IntensityRequest] = ()
) -> NormalizationChoice:
    """Choose a scheme per channel by nnU-Net's names, and keep the intensity statistics of every channel.

    Statistics are kept for all schemes, so that the plan alone says everything about a channel.

    Args:
        channels: Channel names in order.
        fingerprint: Intensities of the foreground, and how much cropping removed.
        requests: What the user asked for instead.

    Raises:
        PlanError: When a CT channel has no foreground statistics, the fingerprint has other channels, or a request
            cannot be met.
    """
    intensities = fingerprint.intensities
    if intensities and len(intensities) != len(channels):
        raise PlanError(
            f"the fingerprint has {len(intensities)} channel(s), the dataset {len(channels)}: {', '.join(channels)}. "
            "Measure it again: delete fingerprint.json and run autoseg plan-and-preprocess"
        )
    _check_requests(requests, channels)
    is_cropped = fingerprint.median_relative_size < _MASK_BELOW
    plans, sentences = [], []
    for index, channel in enumerate(channels):
        mine = [r for r in requests if r.channel in (None, channel, str(index))]
        asked = next((r.scheme for r in reversed(mine) if r.scheme is not None), None)
        scheme = asked or _SCHEMES.get(channel.casefold(), _DEFAULT_SCHEME)
        statistics = intensities[index] if intensities else None
        if scheme == "ct" and statistics is None:
            raise PlanError(
                f"channel {index} ({channel!r}) is normalized with the intensities of the foreground, but no training "
                'case has any. Label some voxels, or name the channel "zscore" in dataset.json'
            )
        plan = NormalizationPlan(
            scheme=scheme,
            use_mask=is_cropped and scheme == "zscore",
            statistics=statistics,
            window=next((r.window for r in reversed(mine) if r.scheme == scheme), None),
        )
        plan = _with_steps(plan, mine, index, channel)
        plans.append(plan)
        sentences.append(f"channel {index}, {channel!r}: {_describe(plan, channel, is_asked_for=asked is not None)}")
    return NormalizationChoice(
        plans=tuple(plans),
        reason="; ".join(sentences),
        mask_note=_mask_note(plans, fingerprint.median_relative_size),
    )


def _check_requests(requests: Sequence[IntensityRequest], channels: Sequence[str]) -> None:
    known = {*channels, *map(str, range(len(channels)))}
    for request in requests:
        if request.channel is not None and request.channel not in known:
            raise PlanError(f"there is no channel {request.channel!r} to normalize; there are {', '.join(channels)}")


def _with_steps(
    plan: NormalizationPlan, requests: Sequence[IntensityRequest], index: int, channel: str
) -> NormalizationPlan:
    """The plan of a channel with the optional steps that were asked for."""
    for request in requests:
        try:
            plan = replace(plan, bias_field=request.bias_field or plan.bias_field)
            plan = replace(plan, contrast=request.contrast or plan.contrast)
            if request.reference is not None:
                landmarks = request.landmarks[index]
                plan = replace(plan, histogram=HistogramPlan(landmarks=landmarks, reference=request.reference))
        except ValueError as error:
            raise PlanError(f"channel {channel!r}: {error}") from None
    return plan


def _mask_note(plans: Sequence[NormalizationPlan], relative_size: float) -> str:
    if not any(plan.scheme == "zscore" for plan in plans):
        return "No channel is normalized by z-score, so no mask is used."
    left = f"Cropping to the nonzero voxels leaves {relative_size:.0%} of the median case"
    if any(plan.use_mask for plan in plans):
        return f"{left}, less than {_MASK_BELOW:.0%}: z-scores count and change only the nonzero voxels."
    return f"{left}, not less than {_MASK_BELOW:.0%}: z-scores count all voxels."


def _describe(plan: NormalizationPlan, channel: str, *, is_asked_for: bool) -> str:
    """The steps of a channel in words, in their order."""
    words = []
    if plan.bias_field is not None:
        coarser = f"planes {plan.bias_field.shrink} times coarser" if plan.bias_field.shrink > 1 else "full planes"
        words.append(f"bias field corrected by N4, estimated on {coarser}")
    if plan.histogram is not None:
        words.append(f"histogram of case {plan.histogram.reference}")
    words.append(_describe_scheme(plan, channel, is_asked_for=is_asked_for))
    if plan.contrast is not None:
        words.append(f"local contrast equalized, clip limit {plan.contrast.clip_limit:g}")
    return ", then ".join(words)


def _describe_scheme(plan: NormalizationPlan, channel: str, *, is_asked_for: bool) -> str:
    if plan.window is not None:
        return f"{plan.window[0]:g} to {plan.window[1]:g} mapped to 0..1 and clipped, as asked for"
    if plan.scheme == "ct" and plan.statistics is not None:
        s = plan.statistics
        return (
            f"clipped to the foreground's percentiles {s.percentile_00_5:.6g} to {s.percentile_99_5:.6g}, then minus "
            f"{s.mean:.6g}, divided by {s.std:.6g}, because CT values mean the same in every image"
        )
    if plan.scheme == "zscore":
        named = "" if is_asked_for or channel.casefold() in _SCHEMES else "no scheme has that name, so "
        inside = " over its nonzero voxels" if plan.use_mask else ""
        return f"{named}z-score per image{inside}"
    return {
        "rescale_to_0_1": "scaled to 0..1 per image",
        "rgb_to_0_1": "divided by 255",
        "none": "left as it is",
    }.get(plan.scheme, plan.scheme)
