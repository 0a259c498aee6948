"""Random mistakes in a previous stage's segmentation, so that the second stage learns not to trust it blindly.

The previous stage's errors on training cases are not those on new ones; nnU-Net's distortions stand in for them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autoseg.labels import LabelScheme

_MORPHOLOGY_CHANCE = 0.4
_REMOVAL_CHANCE = 0.2


def one_hot(segmentation: Tensor, labels: LabelScheme) -> Tensor:
    """Indicators (v, ...) float32 of each foreground label value of a segmentation (...)."""
    return torch.stack([segmentation == value for value in labels.foreground_values]).float()


def distort(channels: Tensor) -> Tensor:
    """Dilate, erode, open or close labels at random, and lose small components.

    Four patches in ten have labels changed by a ball of radius 1 to 8; two in ten lose, per chosen label, one
    component smaller than 15 % of the patch. Draws from NumPy's and torch's global random states.

    Args:
        channels: Indicators (v, ...) float32; may be modified.
    """
    from batchgeneratorsv2.transforms.nnunet.random_binary_operator import ApplyRandomBinaryOperatorTransform
    from batchgeneratorsv2.transforms.nnunet.remove_connected_components import (
        RemoveRandomConnectedComponentFromOneHotEncodingTransform,
    )

    # Made anew for every patch: the library shuffles its list of channels in place, so that a patch would depend on
    # how many came before it.
    indices = list(range(len(channels)))
    if float(torch.rand(1)) < _MORPHOLOGY_CHANCE:
        morphology = ApplyRandomBinaryOperatorTransform(channel_idx=list(indices), strel_size=(1, 8), p_per_label=0.5)
        channels = morphology(image=channels)["image"]
    if float(torch.rand(1)) < _REMOVAL_CHANCE:
        removal = RemoveRandomConnectedComponentFromOneHotEncodingTransform(
            channel_idx=list(indices),
            fill_with_other_class_p=0,
            dont_do_if_covers_more_than_x_percent=0.15,
            p_per_label=0.5,
        )
        channels = removal(image=channels)["image"]
    return channels
