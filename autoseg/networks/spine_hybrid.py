"""2D encoder and decoder over thick slices, joined by links that look at neighboring slices (ACC-UXNet).

Slices keep their number: only the plane is strided. Blocks after UX-Net (https://arxiv.org/abs/2209.15076) and
ACC-UNet (https://arxiv.org/abs/2308.13680), both from their descriptions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks.base import SegmentationNetwork
from autoseg.networks.options import SpineHybridOptions
from autoseg.networks.rules import read_options
from autoseg.plan import NetworkPlan

_PLANE = (1, 2, 2)
_REACHES = (3, 5, 7)  # slices that the maps of a link see


def _normalized(num_features: int) -> nn.Module:
    """Normalization over features and voxels of an image, then GELU."""
    return nn.Sequential(nn.GroupNorm(1, num_features), nn.GELU())


class UXBlock(nn.Module):
    """Depth-wise convolution over the plane and depth-wise scaling, added to the input.

    Args:
        num_features: Feature maps.
        kernel: Voxels along both axes of the plane.
    """

    def __init__(self, num_features: int, kernel: int = 7) -> None:
        super().__init__()
        f = num_features
        self.block = nn.Sequential(
            nn.Conv3d(f, f, (1, kernel, kernel), padding=(0, kernel // 2, kernel // 2), groups=f),
            nn.GroupNorm(1, f),
            nn.Conv3d(f, 4 * f, 1, groups=f),
            nn.GELU(),
            nn.Conv3d(4 * f, f, 1, groups=f),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, f, z, y, x) to the same shape."""
        out: Tensor = x + self.block(x)
        return out


class ResidualBlock3D(nn.Module):
    """A convolution in the plane, which may stride, and one in three dimensions, added to a pooled shortcut.

    Args:
        num_inputs: Feature maps that come in.
        num_features: Feature maps that go out.
        stride: (1, 2, 2) or all ones.
        reach: Slices that the second convolution sees, 3 or 1.
    """

    def __init__(self, num_inputs: int, num_features: int, stride: tuple[int, int, int], reach: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv3d(num_inputs, num_features, (1, 3, 3), stride, padding=(0, 1, 1)),
            _normalized(num_features),
            nn.Conv3d(num_features, num_features, (reach, 3, 3), padding=(reach // 2, 1, 1)),
            _normalized(num_features),
        )
        self.shortcut = nn.Sequential(nn.Conv3d(num_inputs, num_features, 1), nn.MaxPool3d(stride, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, i, z, y, x) to (b, f, z, y / stride, x / stride)."""
        out: Tensor = (self.convs(x) + self.shortcut(x)) / math.sqrt(2)
        return out


class HierarchicalLink(nn.Module):
    """Sums up neighborhoods of 3, 5 and 7 slices by convolution, maximum and mean, added to the input.

    Args:
        num_features: Feature maps.
        widening: Times that the maps are more than the features.
    """

    def __init__(self, num_features: int, widening: int) -> None:
        super().__init__()
        wide = widening * num_features
        self.widen = nn.Conv3d(num_features, wide, (1, 3, 3), padding=(0, 1, 1))
        self.convs = nn.ModuleList(nn.Conv3d(wide, wide, (n, 3, 3), padding=(n // 2, 1, 1)) for n in _REACHES)
        self.join = nn.Conv3d(9 * wide, num_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, f, z, y, x) to the same shape."""
        wide = self.widen(x)
        maps = [conv(wide) for conv in self.convs]
        for n in _REACHES:
            # Pooling windows are cut to the image: torch refuses longer ones.
            window = tuple(min(w, (edge - 1) // 2 * 2 + 1) for w, edge in zip((n, 3, 3), x.shape[2:], strict=True))
            padding = tuple(w // 2 for w in window)
            maps.append(functional.max_pool3d(wide, window, 1, padding))
            maps.append(functional.avg_pool3d(wide, window, 1, padding, count_include_pad=False))
        out: Tensor = (self.join(torch.cat(maps, dim=1)) + x) / math.sqrt(2)
        return out


class UpBlock(nn.Module):
    """Twice the resolution of the plane: a transposed and a plain convolution, added to the enlarged input.

    Args:
        num_inputs: Feature maps that come in.
        num_features: Feature maps that go out.
    """

    def __init__(self, num_inputs: int, num_features: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.ConvTranspose3d(num_inputs, num_features, _PLANE, _PLANE),
            _normalized(num_features),
            nn.Conv3d(num_features, num_features, (1, 3, 3), padding=(0, 1, 1)),
            _normalized(num_features),
        )
        self.shortcut = nn.Sequential(nn.Conv3d(num_inputs, num_features, 1), nn.Upsample(scale_factor=_PLANE))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, i, z, y, x) to (b, f, z, 2 y, 2 x)."""
        out: Tensor = (self.convs(x) + self.shortcut(x)) / math.sqrt(2)
        return out


class SpineHybrid(SegmentationNetwork):
    """The stem and four stages down, five links, and five stages up.

    Args:
        network: Six stages that stride the plane; the first entry of ``features`` is the width of the stem.
        num_channels: Channels of the image.
        num_outputs: Channels of the output.
    """

    def __init__(self, network: NetworkPlan, *, num_channels: int, num_outputs: int) -> None:
        super().__init__()
        options = read_options(network, SpineHybridOptions)
        width, reach = network.features[0], 3 if options.slice_convolutions else 1
        widths = [width * 2**level for level in range(network.num_stages - 1)]
        k = options.stem_kernel
        self.stem = nn.Sequential(
            nn.Conv3d(num_channels, width, (1, k, k), _PLANE, padding=(0, k // 2, k // 2)), _normalized(width)
        )
        self.down = nn.ModuleList()
        for before, after in itertools.pairwise(widths):
            first = UXBlock(before) if options.block == "ux" else ResidualBlock3D(before, before, (1, 1, 1), reach)
            self.down.append(nn.Sequential(first, ResidualBlock3D(before, after, _PLANE, reach)))
        self.links = nn.ModuleList(
            _make_link(options.link, f, widening=2 if f == widths[-1] else 1, reach=reach) for f in widths
        )
        inputs = [widths[-1], *(2 * f for f in reversed(widths[:-1]))]
        outputs = [*reversed(widths[:-1]), width]
        self.up = nn.ModuleList(UpBlock(i, o) for i, o in zip(inputs, outputs, strict=True))
        self.last = ResidualBlock3D(width, width, (1, 1, 1), reach)
        self.heads = nn.ModuleList(nn.Conv3d(f, num_outputs, 1) for f in outputs[:-1])
        self.head = ResidualBlock3DHead(width, num_outputs, reach)
        self.deep_supervision = network.deep_supervision

    def forward(self, x: Tensor) -> list[Tensor] | Tensor:
        """Compute logits.

        Args:
            x: Images (b, c, z, y, x), y and x multiples of 32.

        Returns:
            With deep supervision a list, full resolution (b, k, z, y, x) first; otherwise its first entry alone.
        """
        x = self.stage(self.stem, x)
        levels = [x]
        for down in self.down:
            x = self.stage(down, x)
            levels.append(x)
        linked = [self.stage(link, level) for link, level in zip(self.links, levels, strict=True)]
        x, outputs = linked[-1], []
        for depth, up in enumerate(self.up):
            x = self.stage(up, x if depth == 0 else torch.cat((x, linked[-1 - depth]), dim=1))
            if self.deep_supervision and depth < len(self.heads):
                outputs.append(self.heads[depth](x))
        full: Tensor = self.head(self.stage(self.last, x))
        return [full, *outputs[::-1]] if self.deep_supervision else full

    def tap_modules(self) -> Mapping[str, nn.Module]:
        """The deepest link's answer, and what comes before the output."""
        return {"bottleneck": self.links[-1], "last_decoder": self.last}


class ResidualBlock3DHead(nn.Module):
    """The last residual block, whose sum are the logits and therefore is not normalized.

    Args:
        num_inputs: Feature maps that come in.
        num_outputs: Channels of the output.
        reach: Slices that the second convolution sees, 3 or 1.
    """

    def __init__(self, num_inputs: int, num_outputs: int, reach: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv3d(num_inputs, num_inputs, (1, 3, 3), padding=(0, 1, 1)),
            _normalized(num_inputs),
            nn.Conv3d(num_inputs, num_outputs, (reach, 3, 3), padding=(reach // 2, 1, 1)),
        )
        self.shortcut = nn.Conv3d(num_inputs, num_outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, f, z, y, x) to logits (b, k, z, y, x)."""
        out: Tensor = (self.convs(x) + self.shortcut(x)) / math.sqrt(2)
        return out


def _make_link(kind: str, num_features: int, *, widening: int, reach: int) -> nn.Module:
    if kind == "hanc":
        return HierarchicalLink(num_features, widening)
    return ResidualBlock3D(num_features, num_features, (1, 1, 1), reach) if kind == "res" else nn.Identity()
