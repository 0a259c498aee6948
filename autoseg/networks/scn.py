"""Refinement of a network's logits by where structures lie to each other (SpatialConfiguration-Net).

After Payer et al., https://doi.org/10.1016/j.media.2019.03.007, as a stage that follows any network.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg.errors import SettingsError
from autoseg.networks.base import SegmentationNetwork
from autoseg.networks.blocks import NEGATIVE_SLOPE, convolution_class
from autoseg.networks.catalog import NETWORKS, network_rules
from autoseg.networks.options import ScnOptions
from autoseg.networks.rules import read_options, with_options_of
from autoseg.plan import NetworkPlan

_FINE_KERNEL, _COARSE_KERNEL = 9, 5
_HIDDEN = 32
_RESTS_UNTIL = {"joint": 0.0, "frozen_then_joint": 0.5, "frozen": math.inf}  # share of the run


class SpatialConfiguration(nn.Module):
    """Adds to logits the product of a local and of a far-seeing map per class; adds nothing at the start.

    Args:
        num_classes: Channels of the logits.
        downsampling: Voxels that the far-seeing part averages, per axis; its kernels have 9 voxels along the axes
            that are averaged most and 5 along others.
    """

    def __init__(self, num_classes: int, downsampling: Sequence[int]) -> None:
        super().__init__()
        ndim = len(downsampling)
        convolution = convolution_class(ndim)
        self.downsampling = tuple(downsampling)
        kernel = tuple(_FINE_KERNEL if d == max(downsampling) else _COARSE_KERNEL for d in downsampling)
        padding = tuple(k // 2 for k in kernel)
        widths = (num_classes, _HIDDEN, _HIDDEN, _HIDDEN, num_classes)
        local: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            local += [convolution(before, after, 3, padding=1), nn.LeakyReLU(NEGATIVE_SLOPE)]
        self.local = nn.Sequential(*local[:-1])
        self.spatial = nn.Sequential(
            convolution(num_classes, _HIDDEN, kernel, padding=padding, bias=False),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            convolution(_HIDDEN, num_classes, kernel, padding=padding),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.zeros_(cast("nn.Conv3d", self.spatial[-1]).weight)

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits (b, k, ...) to refined ones of the same shape."""
        local = self.local(torch.softmax(logits, dim=1))
        pool = functional.avg_pool2d if logits.ndim == 4 else functional.avg_pool3d
        far = self.spatial(pool(local, self.downsampling, ceil_mode=True))
        mode = "bilinear" if logits.ndim == 4 else "trilinear"
        refined: Tensor = logits + local * functional.interpolate(far, logits.shape[2:], mode=mode)
        return refined


class RefinedNetwork(SegmentationNetwork):
    """Another network, and the refinement of its full-resolution logits.

    Args:
        network: Topology of the other network, whose name stands in the options. Where it has an auxiliary weight, the
            outputs that were refined are supervised as well.
        num_channels: Channels of the image.
        num_outputs: Channels of the output.
    """

    def __init__(self, network: NetworkPlan, *, num_channels: int, num_outputs: int) -> None:
        super().__init__()
        options = read_options(with_options_of(ScnOptions, network), ScnOptions)
        if options.refines == network.name:
            raise SettingsError("scn refines another network, not itself: --network-option refines=unet, for instance")
        own = {field.name for field in fields(ScnOptions)}
        others = {name: value for name, value in network.options.items() if name not in own}
        is_deep = network.deep_supervision and network_rules(options.refines).supervision != "none"
        inner = replace(network, name=options.refines, options=others, auxiliary_weight=0.0, deep_supervision=is_deep)
        self.segmenter = NETWORKS.get(options.refines)(inner, num_channels=num_channels, num_outputs=num_outputs)
        self.refinement = SpatialConfiguration(num_outputs, _two_stages_down(network))
        self.deep_supervision = network.deep_supervision
        self._inner_is_deep = is_deep
        self._is_nested = network.supervision == "nested"
        self._has_auxiliary = network.auxiliary_weight > 0
        self._rests_until = _RESTS_UNTIL[options.train]
        if options.train == "frozen":
            self.segmenter.requires_grad_(False)  # noqa: FBT003 - torch's own signature

    def forward(self, x: Tensor) -> list[Tensor] | Tensor:
        """Compute logits.

        Args:
            x: Images (b, c, ...).

        Returns:
            With deep supervision a list: the refined logits (b, k, ...), then the other network's outputs, of which
            the full resolution is left out where it is not supervised. Otherwise the refined logits alone.
        """
        self.segmenter.deep_supervision = self.deep_supervision and self._inner_is_deep
        self.segmenter.checkpointing = self.checkpointing
        outputs = cast("list[Tensor] | Tensor", self.segmenter(x))
        if isinstance(outputs, Tensor):
            outputs = [outputs]
        # Nested networks answer alone with the mean of their outputs: the refinement learns on what it will be given.
        logits = torch.stack(outputs).mean(dim=0) if self._is_nested else outputs[0]
        refined = cast("Tensor", self.stage(self.refinement, logits))
        if not self.deep_supervision:
            return refined
        return [refined, *(outputs if self._has_auxiliary else outputs[1:])]

    def resting_parameters(self, fraction: float) -> Iterable[nn.Parameter]:
        """Those of the other network, as long as the options say."""
        return self.segmenter.parameters() if fraction < self._rests_until else ()

    def published_names(self) -> Mapping[str, str]:
        """Weights of the other network alone fit the part that it is here."""
        return {f"segmenter.{name}": name for name in self.segmenter.state_dict()}

    def tap_modules(self) -> Mapping[str, nn.Module]:
        """Those of the other network."""
        return self.segmenter.tap_modules()


def _two_stages_down(network: NetworkPlan) -> tuple[int, ...]:
    """Voxels of the patch per voxel of the third stage."""
    return tuple(math.prod(along_axis) for along_axis in zip(*network.strides[:3], strict=True))
