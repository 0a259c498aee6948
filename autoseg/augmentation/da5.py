"""The wide variations of nnU-Net's trainer DA5, all together or one by one beside another strength.

Quarter turns and exchanged axes, median filter, rectangles of one value, gradients of brightness, gamma that varies
from place to place, sharpening, and wider ranges of what the default recipe has. The values are those of nnU-Net 2.8's
``nnUNetTrainerDA5``; batchgeneratorsv2 does the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from autoseg.augmentation.patch import is_anisotropic
from autoseg.augmentation.recipe import OF_DA5, AugmentationRecipe
from autoseg.plan import Configuration

_PER_CHANNEL = 0.5  # of the channels of a patch that gets a step


def da5_steps(configuration: Configuration, recipe: AugmentationRecipe, mirror: Sequence[Any]) -> list[Any]:
    """Everything after rotation and zoom, in nnU-Net's order.

    Args:
        configuration: Its patch.
        recipe: Which steps, and how often.
        mirror: The step that mirrors, or none.
    """
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform

    half = {"synchronize_channels": False, "p_per_channel": _PER_CHANNEL}
    blur = GaussianBlurTransform((0.3, 1.5), synchronize_axes=True, **half)
    contrasts = [
        ContrastTransform(contrast_range=BGContrast((0.5, 2)), preserve_range=kept, **half) for kept in (True, False)
    ]
    low_resolution = SimulateLowResolutionTransform(
        scale=(0.25, 1),
        synchronize_axes=True,
        ignore_axes=(0,) if is_anisotropic(configuration, recipe) else None,
        **half,
    )
    gamma = GammaTransform(
        gamma=BGContrast((0.7, 1.5)), p_invert_image=1, synchronize_channels=False, p_per_channel=1, p_retain_stats=1
    )
    steps = {
        "noise": GaussianNoiseTransform(noise_variance=(0, 0.1), p_per_channel=1, synchronize_channels=True),
        "low_resolution": low_resolution,
        "inverted_gamma": gamma,
        **_makers(configuration),
    }

    def sometimes(*names: str) -> list[Any]:
        return [_sometimes(steps[name], recipe.chance(name)) for name in names if recipe.chance(name)]

    smoothing = [("median", steps["median"]), ("blur", blur)]
    return [
        *sometimes("rot90", "transpose"),
        *_one_of([_sometimes(step, recipe.chance(name)) for name, step in smoothing if recipe.chance(name)]),
        *sometimes("noise", "additive_brightness"),
        *_one_of([_sometimes(step, recipe.chance("contrast")) for step in contrasts if recipe.chance("contrast")]),
        *sometimes("low_resolution", "inverted_gamma", "inverted_gamma"),
        *mirror,
        *sometimes("rectangles", "brightness_gradient", "local_gamma", "sharpening"),
    ]


def added_steps(configuration: Configuration, recipe: AugmentationRecipe) -> tuple[list[Any], list[Any]]:
    """Steps of DA5 that are asked for beside those of another strength.

    Args:
        configuration: Its patch.
        recipe: Which steps, and how often.

    Returns:
        Those that turn the patch, and those that change its intensities.
    """
    if not any(recipe.chance(name) for name in OF_DA5):
        return [], []
    made = {name: step for name, step in _makers(configuration).items() if recipe.chance(name)}
    steps = {name: _sometimes(step, recipe.chance(name)) for name, step in made.items()}
    turns = [steps.pop(name) for name in ("rot90", "transpose") if name in steps]
    return turns, list(steps.values())


def _makers(configuration: Configuration) -> dict[str, Any]:
    """What no other strength has, by name."""
    from batchgeneratorsv2.transforms.intensity.brightness import BrightnessAdditiveTransform
    from batchgeneratorsv2.transforms.local.brightness_gradient import BrightnessGradientAdditiveTransform
    from batchgeneratorsv2.transforms.local.local_gamma import LocalGammaTransform
    from batchgeneratorsv2.transforms.noise.blank_rectangle import BlankRectangleTransform
    from batchgeneratorsv2.transforms.noise.median_filter import MedianFilterTransform
    from batchgeneratorsv2.transforms.noise.sharpen import SharpeningTransform

    place: dict[str, Any] = {"scale": _extent, "loc": (-0.5, 1.5), "same_for_all_channels": False}
    return {
        **_turning(configuration.patch_size),
        "median": MedianFilterTransform((2, 8), p_same_for_each_channel=0, p_per_channel=_PER_CHANNEL),
        "additive_brightness": BrightnessAdditiveTransform(
            mu=0, sigma=0.5, synchronize_channels=False, p_per_channel=_PER_CHANNEL
        ),
        "rectangles": BlankRectangleTransform(
            rectangle_size=[[max(1, edge // 10), max(2, edge // 3)] for edge in configuration.patch_size],
            rectangle_value=torch.mean,
            num_rectangles=(1, 5),
            force_square=False,
            p_per_channel=_PER_CHANNEL,
        ),
        "brightness_gradient": BrightnessGradientAdditiveTransform(
            max_strength=_strength, mean_centered=False, p_per_channel=_PER_CHANNEL, **place
        ),
        "local_gamma": LocalGammaTransform(gamma=_gamma, p_per_channel=_PER_CHANNEL, **place),
        "sharpening": SharpeningTransform(strength=(0.1, 1), p_same_for_each_channel=0, p_per_channel=_PER_CHANNEL),
    }


def _turning(patch: Sequence[int]) -> dict[str, Any]:
    """Quarter turns and exchanged axes, among the axes of the commonest length; nothing where all lengths differ."""
    from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
    from batchgeneratorsv2.transforms.spatial.transpose import TransposeAxesTransform

    counts = [sum(edge == other for other in patch) for edge in patch]
    if max(counts) == 1:
        return {"rot90": None, "transpose": None}
    axes = {axis for axis, count in enumerate(counts) if count == max(counts)}
    turn = Rot90Transform(num_axis_combinations=1, num_rot_per_combination=(0, 1, 2, 3), allowed_axes=axes)
    return {"rot90": turn, "transpose": TransposeAxesTransform(allowed_axes=axes)}


def _sometimes(step: Any, chance: float) -> Any:  # noqa: ANN401 - the library has no types
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    return ComposeTransforms([]) if step is None else RandomTransform(step, apply_probability=chance)


def _one_of(steps: Sequence[Any]) -> list[Any]:
    from batchgeneratorsv2.transforms.utils.random import OneOfTransform

    return [OneOfTransform(list(steps))] if steps else []


def _extent(shape: Sequence[int], axis: int) -> float:
    """Width of a gradient along an axis, in voxels."""
    return float(np.exp(np.random.uniform(np.log(max(1, shape[axis] // 6)), np.log(shape[axis]))))


def _strength(_image: object, _gradient: object) -> float:
    """What the gradient adds at most; never next to nothing."""
    return _either((-5, -1), (1, 5))


def _gamma() -> float:
    """Clearly darker or clearly brighter."""
    return _either((0.01, 0.8), (1.5, 4))


def _either(low: tuple[float, float], high: tuple[float, float]) -> float:
    return float(np.random.uniform(*(low if np.random.uniform() < 0.5 else high)))
