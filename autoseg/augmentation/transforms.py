"""Random variations of training patches: nnU-Net's, in nnU-Net's order (batchgeneratorsv2 does the work).

The library draws from NumPy's and torch's global random states; whoever calls these transforms seeds both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from autoseg.augmentation.da5 import added_steps, da5_steps
from autoseg.augmentation.patch import is_anisotropic, rotation_range
from autoseg.augmentation.patch import mirror_axes as all_axes
from autoseg.augmentation.previous_stage import distort, one_hot
from autoseg.augmentation.recipe import NNUNET, OF_DA5, AugmentationRecipe
from autoseg.augmentation.targets import make_targets
from autoseg.errors import SettingsError
from autoseg.labels import LabelScheme
from autoseg.plan import Configuration

_BENDS = (0.1, 0.3)  # of the patch: width of a bend
_BENDING = (1.0, 4.0)  # voxels, at most


class PatchTransform:
    """From a patch as read to a training example.

    Args:
        configuration: Patch size, normalization and network.
        labels: What is segmented.
        variation: Random variation of image and segmentation, which also cuts to the final patch size; None leaves
            the patch as it is.
    """

    def __init__(
        self, configuration: Configuration, labels: LabelScheme, *, variation: Callable[..., Any] | None = None
    ) -> None:
        self._labels = labels
        self._has_previous = configuration.previous_stage is not None
        self._output_strides = configuration.network.output_strides
        context = configuration.context  # only of the middle slice is it known what lies outside the mask
        masked = [c for c, plan in enumerate(configuration.normalization) if plan.use_mask]
        self._masked_channels = [c * context + context // 2 for c in masked]
        self._variation = variation

    def __call__(self, image: Tensor, segmentation: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Transform a patch.

        Args:
            image: (c, ...) float32; may be modified.
            segmentation: (1, ...) int16 label values, -1 outside the image; may be modified. In a cascade (2, ...)
                with the previous stage's segmentation as the second.

        Returns:
            The image, in a cascade with one channel more per foreground label, and one target per output of the
            network, see :mod:`autoseg.losses.targets`.
        """
        if self._variation is not None:
            varied = self._variation(image=image, segmentation=segmentation)
            image, segmentation = varied["image"], varied["segmentation"]
            # Intensities outside the mask are zero by normalization, and must be again after noise and contrast.
            for channel in self._masked_channels:
                image[channel].masked_fill_(segmentation[0] < 0, 0.0)
        if self._has_previous:
            previous = one_hot(segmentation[1], self._labels)
            image = torch.cat([image, previous if self._variation is None else distort(previous)])
        return image, make_targets(segmentation[0], self._labels, self._output_strides)


def build_validation_transform(configuration: Configuration, labels: LabelScheme) -> PatchTransform:
    """Transform without randomness, for patches that already have the final size."""
    return PatchTransform(configuration, labels)


def build_training_transform(
    configuration: Configuration,
    labels: LabelScheme,
    *,
    recipe: AugmentationRecipe = NNUNET,
    mirror_axes: tuple[int, ...] | None = None,
) -> PatchTransform:
    """Random transform for patches of :func:`autoseg.augmentation.patch.initial_patch_size`.

    Rotation and zoom, noise, blur, brightness, contrast, low resolution, gamma (twice) and mirroring, in nnU-Net's
    order and with its ranges.

    Args:
        configuration: Patch size, normalization and network.
        labels: What is segmented.
        recipe: Which steps, and how often; the default is nnU-Net's.
        mirror_axes: Axes that are mirrored, where the recipe mirrors; None takes all.

    Raises:
        SettingsError: When the recipe has steps that would vary the slices of one stack each for itself.
    """
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

    axes = all_axes(configuration) if mirror_axes is None else mirror_axes
    mirror = [MirrorTransform(allowed_axes=axes)] if axes and recipe.chance("mirror") else []
    spatial = _spatial_steps(configuration, recipe)
    if configuration.slices is not None and any(recipe.chance(step) for step in OF_DA5):
        raise SettingsError("the steps of augmentation=da5 are not for slices with their neighbors as channels")
    if recipe.is_da5:
        steps = [*spatial, *da5_steps(configuration, recipe, mirror)]
    else:
        turns, changes = added_steps(configuration, recipe)
        steps = [*spatial, *turns, *_intensity_steps(configuration, recipe), *mirror, *changes]
    return PatchTransform(configuration, labels, variation=ComposeTransforms(steps))


def _as_stack(context: int, **example: Any) -> dict[str, Any]:  # noqa: ANN401 - the library has no types
    """Channels (c * context, rows, columns) as volumes (c, context, rows, columns)."""
    return {**example, "image": example["image"].unflatten(0, (-1, context))}


def _as_channels(**example: Any) -> dict[str, Any]:  # noqa: ANN401 - the library has no types
    """The way back."""
    return {**example, "image": example["image"].flatten(0, 1)}


def _spatial_steps(configuration: Configuration, recipe: AugmentationRecipe) -> list[Any]:
    """Rotation, zoom, shift and bending; within the planes only where the patch is anisotropic."""
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform

    angle = rotation_range(configuration, recipe)
    is_flat = is_anisotropic(configuration, recipe)
    patch = configuration.patch_size[1:] if is_flat else configuration.patch_size
    shifts = recipe.chance("translation") > 0
    spatial = SpatialTransform(
        patch,
        # Shifted patches stay within what was read.
        patch_center_dist_from_border=[n / 2 for n in patch] if shifts else 0,
        random_crop=shifts,
        p_elastic_deform=recipe.chance("elastic"),
        elastic_deform_scale=_BENDS,
        elastic_deform_magnitude=_BENDING,
        p_synchronize_def_scale_across_axes=1,
        p_rotation=recipe.chance("rotation"),
        rotation=(-angle, angle),
        p_rot_per_axis=0.5 if recipe.is_da5 else 1,
        p_scaling=recipe.chance("scaling"),
        scaling=(0.7, 1.43) if recipe.is_da5 else (0.7, 1.4),
        p_synchronize_scaling_across_axes=0 if recipe.is_da5 else 1,
        mode_seg="nearest" if recipe.nearest_labels else "bilinear",
        border_mode_seg="constant",
        padding_value_seg=-1,
    )
    return [Convert3DTo2DTransform(), spatial, Convert2DTo3DTransform()] if is_flat else [spatial]


def _intensity_steps(configuration: Configuration, recipe: AugmentationRecipe) -> list[Any]:
    """Changes of intensity with their chances, in nnU-Net's order."""
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    def gamma(*, p_invert_image: float) -> Any:  # noqa: ANN401 - the library has no types
        return GammaTransform(
            gamma=BGContrast((0.7, 1.5)),
            p_invert_image=p_invert_image,
            synchronize_channels=False,
            p_per_channel=1,
            p_retain_stats=1,
        )

    per_channel = {"synchronize_channels": False, "p_per_channel": 1}
    noise = GaussianNoiseTransform(noise_variance=(0, 0.1), p_per_channel=1, synchronize_channels=True)
    # Not benchmark=True as in nnU-Net: it picks the algorithm by a stopwatch, so that runs would not repeat.
    blur = GaussianBlurTransform(
        blur_sigma=(0.5, 1.0), synchronize_channels=False, synchronize_axes=False, p_per_channel=0.5, benchmark=False
    )
    brightness = MultiplicativeBrightnessTransform(multiplier_range=BGContrast((0.75, 1.25)), **per_channel)
    contrast = ContrastTransform(contrast_range=BGContrast((0.75, 1.25)), preserve_range=True, **per_channel)
    low_resolution = SimulateLowResolutionTransform(
        scale=(0.5, 1),
        synchronize_channels=False,
        synchronize_axes=True,
        ignore_axes=(0,) if is_anisotropic(configuration, recipe) or configuration.slices is not None else None,
        p_per_channel=0.5,
    )
    in_slices = {"noise": noise, "blur": blur}
    in_stacks = {
        "brightness": brightness,
        "contrast": contrast,
        "low_resolution": low_resolution,
        "inverted_gamma": gamma(p_invert_image=1),
        "gamma": gamma(p_invert_image=0),
    }
    first, then = (
        [RandomTransform(s, apply_probability=recipe.chance(n)) for n, s in steps.items() if recipe.chance(n)]
        for steps in (in_slices, in_stacks)
    )
    if configuration.slices is None:
        return [*first, *then]
    # All slices of a stack are of one image: what makes one brighter makes all so.
    return [*first, partial(_as_stack, configuration.context), *then, _as_channels]
