"""Options that only one network has: what ``NetworkPlan.options`` may hold. Imports no torch, so that planning can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Expansion = Literal["small", "base", "large"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetOptions:
    """Of ``unet`` and ``resenc``.

    Args:
        upsampling_bias: Whether transposed convolutions have a bias.
        head_bias: Whether output layers have a bias.
    """

    upsampling_bias: bool = True
    head_bias: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetCNXOptions:
    """Of ``unetcnx``.

    Args:
        drop_path: Probability of leaving out the branch of the last block in training; falls linearly to 0 at the
            first.
    """

    drop_path: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UXNetOptions:
    """Of ``uxnet``.

    Args:
        drop_path: Probability of leaving out the branch of a block in training.
        initial_scale: First value of the scale of every block's branch; small ones let it begin as the identity.
    """

    drop_path: float = 0.0
    initial_scale: float = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class ACCUNetOptions:
    """Of ``acc_unet``.

    Args:
        reach: Levels of pooling in the blocks of the highest resolution, the voxel itself included; 1 switches long
            range off.
    """

    reach: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SCNASOptions:
    """Of ``scnas``.

    Args:
        has_dilation: False turns dilated convolutions into plain ones.
    """

    has_dilation: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SwinUNETROptions:
    """Of ``swin_unetr``.

    Args:
        window: Edge of the attention windows in tokens.
        has_residual_blocks: Whether a residual convolution precedes every transformer stage (version 2).
        drop_path: Largest probability of leaving a transformer block out in training.
    """

    window: int = 7
    has_residual_blocks: bool = False
    drop_path: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MedNeXtOptions:
    """Of ``mednext``.

    Args:
        expansion: Inner feature maps per feature map: 2 everywhere ("small"), 2 to 4 ("base"), 3 to 8 ("large").
    """

    expansion: Expansion = "small"


@dataclass(frozen=True, slots=True, kw_only=True)
class MAUNetOptions(UNetOptions):
    """Of ``maunet``.

    Args:
        position_attention: Whether the positions of the deepest feature maps attend to each other.
    """

    position_attention: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetPlusPlusOptions:
    """Of ``unet_plus_plus``.

    Args:
        downsampling: By a strided convolution as in nnU-Net, or by the maximum.
        column: Which column predicts; 0 takes the mean of all, smaller ones are faster.
    """

    downsampling: Literal["stride", "max"] = "stride"
    column: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScnOptions:
    """Of ``scn``.

    Args:
        refines: The network whose logits are refined.
        train: "joint" trains both from the start; "frozen" leaves the other network as ``--pretrained`` brought it;
            "frozen_then_joint" does so for half of the run, then trains both.
    """

    refines: str = "unet"
    train: Literal["joint", "frozen", "frozen_then_joint"] = "joint"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpineHybridOptions:
    """Of ``spine_hybrid``; block and link are the rows of its published ablation.

    Args:
        block: Before every stride: a "ux" block or a residual one.
        link: What joins encoder and decoder: "hanc", a residual block ("res"), or "none".
        slice_convolutions: Whether residual blocks see neighboring slices.
        stem_kernel: Pixels that the first convolution sees along both axes; 27 as published.
    """

    block: Literal["ux", "res"] = "ux"
    link: Literal["hanc", "res", "none"] = "hanc"
    slice_convolutions: bool = True
    stem_kernel: int = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNetOptions:
    """Of ``resnet``.

    Args:
        encoder: Which one; the number counts its layers.
    """

    encoder: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = "resnet34"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNeXtOptions:
    """Of ``resnext``.

    Args:
        encoder: Which one: layers, groups and width of each group.
    """

    encoder: Literal["resnext50_32x4d", "resnext101_32x8d", "resnext101_32x16d"] = "resnext50_32x4d"


@dataclass(frozen=True, slots=True, kw_only=True)
class SEResNeXtOptions:
    """Of ``se_resnext``.

    Args:
        encoder: Which one: layers, groups and width of each group.
    """

    encoder: Literal["se_resnext50_32x4d", "se_resnext101_32x4d"] = "se_resnext50_32x4d"


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficientNetOptions:
    """Of ``efficientnet``.

    Args:
        encoder: Which one; the number stands for depth and width.
    """

    encoder: Literal["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"] = "b0"


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseNetOptions:
    """Of ``densenet``.

    Args:
        encoder: Which one; the number counts its layers.
    """

    encoder: Literal["densenet121", "densenet161", "densenet169", "densenet201"] = "densenet121"
