"""SCNAS (https://arxiv.org/abs/1811.06246): a 3D network of cells whose operations an architecture search chose.

The cells are the published ones; they alternate with their resampling relatives on the way down and on the way up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.errors import SettingsError
from autoseg.networks.base import SegmentationNetwork
from autoseg.networks.blocks import NEGATIVE_SLOPE, SqueezeExcitation, convolution_class
from autoseg.networks.options import SCNASOptions
from autoseg.networks.rules import read_options
from autoseg.plan import NetworkPlan

Operation = Literal["identity", "average", "conv", "conv_dilated_2", "conv_dilated_3", "factorized_reduce"]
Source = Literal["s0", "s1", "n0", "n1", "n2"]
Node = Literal["n0", "n1", "n2", "n3"]

_NODES: tuple[Node, ...] = ("n0", "n1", "n2", "n3")
_JOINED = _NODES[1:]  # what leaves the cell
_CELLS_PER_STAGE = 2
_SQUEEZE = 6


@dataclass(frozen=True, slots=True)
class Edge:
    """One operation inside a cell; a node is the sum of its edges.

    Args:
        node: Which node it leads to.
        source: Where it begins: the input two cells back, one cell back, or an earlier node.
        operation: What happens on the way.
        is_strided: Whether it goes to the lower resolution.
    """

    node: Node
    source: Source
    operation: Operation
    is_strided: bool = False


Cell = tuple[Edge, ...]

REDUCTION: Cell = (
    Edge("n0", "s0", "factorized_reduce", is_strided=True),
    Edge("n0", "s1", "conv_dilated_2", is_strided=True),
    Edge("n1", "s0", "factorized_reduce", is_strided=True),
    Edge("n1", "n0", "average"),
    Edge("n2", "n0", "identity"),
    Edge("n2", "n1", "conv"),
    Edge("n3", "n0", "conv"),
    Edge("n3", "n2", "average"),
)
ENCODER_NORMAL: Cell = (
    Edge("n0", "s0", "conv"),
    Edge("n0", "s1", "conv_dilated_2"),
    Edge("n1", "s0", "average"),
    Edge("n1", "n0", "identity"),
    Edge("n2", "s0", "conv"),
    Edge("n2", "n0", "identity"),
    Edge("n3", "s0", "identity"),
)
EXPANSION: Cell = (
    Edge("n0", "s0", "conv"),
    Edge("n0", "s1", "conv_dilated_3"),
    Edge("n1", "s0", "identity"),
    Edge("n1", "n0", "identity"),
    Edge("n2", "s1", "conv_dilated_2"),
    Edge("n2", "n1", "identity"),
    Edge("n3", "s0", "identity"),
    Edge("n3", "s1", "average"),
)
DECODER_NORMAL: Cell = (
    Edge("n0", "s1", "conv_dilated_2"),
    Edge("n1", "s1", "identity"),
    Edge("n1", "n0", "identity"),
    Edge("n2", "s1", "conv_dilated_2"),
    Edge("n2", "n1", "identity"),
    Edge("n3", "s0", "identity"),
    Edge("n3", "n0", "average"),
)
"""The published cells. Sources are as the paper's figures name them: s0 two cells back, s1 one cell back."""


class FactorizedReduce(nn.Module):
    """Halve the resolution without losing voxels: two strided 1x1 convolutions, one of them shifted by a voxel.

    Args:
        num_inputs: Feature maps that come in.
        num_features: Feature maps that go out.
        stride: Step per axis.
    """

    def __init__(self, num_inputs: int, num_features: int, *, stride: Sequence[int]) -> None:
        super().__init__()
        convolution, half = convolution_class(len(stride)), num_features // 2
        self.stride = tuple(stride)
        self.straight = convolution(num_inputs, half, 1, self.stride, bias=False)
        self.shifted = convolution(num_inputs, num_features - half, 1, self.stride, bias=False)
        self.norm = _norm(num_features, len(stride))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, i, ...) to (b, f, ... / stride)."""
        x = F.leaky_relu(x, NEGATIVE_SLOPE)
        shift = (slice(None), slice(None), *(slice(min(1, s - 1), None) for s in self.stride))
        out: Tensor = self.norm(torch.cat((self.straight(x), self.shifted(x[shift])), dim=1))
        return out


class LocalMean(nn.Module):
    """Mean over the neighbors that lie in the image; unlike torch's, also where that is smaller than the window.

    Args:
        kernel_size: Odd number of voxels per axis.
    """

    def __init__(self, kernel_size: Sequence[int]) -> None:
        super().__init__()
        self.kernel_size = tuple(kernel_size)
        self.padding = tuple(k // 2 for k in reversed(kernel_size) for _ in range(2))  # last axis first, both sides

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, ...) to (b, c, ...)."""
        return self._sum_share(x) / self._sum_share(x.new_ones((1, 1, *x.shape[2:])))

    def _sum_share(self, x: Tensor) -> Tensor:
        pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool3d
        return pool(F.pad(x, self.padding), self.kernel_size, 1)


class SearchedCell(nn.Module):
    """A cell: two inputs, four nodes that each sum what their edges bring, the last three nodes joined.

    Args:
        cell: Its edges.
        num_before: Feature maps of the output two cells back.
        num_last: Feature maps of the output one cell back.
        num_features: Feature maps of a node; the cell gives three times as many.
        kernel_size: Odd number of voxels per axis of convolutions and pooling.
        stride: Step per axis of a reduction, factor of an expansion.
        before_is_finer: Whether the output two cells back has to be reduced first.
        has_dilation: False turns dilated convolutions into plain ones.
    """

    def __init__(
        self,
        cell: Cell,
        *,
        num_before: int,
        num_last: int,
        num_features: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        before_is_finer: bool,
        has_dilation: bool = True,
    ) -> None:
        super().__init__()
        ones = (1,) * len(kernel_size)
        self.cell = cell
        self.upsampling = tuple(stride) if cell is EXPANSION else ones
        self.before = (
            FactorizedReduce(num_before, num_features, stride=stride)
            if before_is_finer
            else _activated_conv(num_before, num_features, ones)
        )
        self.last = _activated_conv(num_last, num_features, ones)
        self.operations = nn.ModuleList(
            [
                _operation(
                    edge.operation,
                    num_features,
                    kernel_size=kernel_size,
                    stride=stride if edge.is_strided else ones,
                    has_dilation=has_dilation,
                )
                for edge in cell
            ]
        )
        self.attention = SqueezeExcitation(len(_JOINED) * num_features, len(kernel_size), reduction=_SQUEEZE)

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        """Map the outputs of the two cells before, (b, i, ...) and (b, j, ...), to (b, 3 f, ...)."""
        shape = tuple(n * f for n, f in zip(last.shape[2:], self.upsampling, strict=True))
        nodes: dict[str, Tensor] = {
            "s0": self.before(before if isinstance(self.before, FactorizedReduce) else _upsampled(before, shape)),
            "s1": self.last(_upsampled(last, shape)),
        }
        for edge, operation in zip(self.cell, self.operations, strict=True):
            brought = operation(nodes[edge.source])
            nodes[edge.node] = nodes[edge.node] + brought if edge.node in nodes else brought
        out: Tensor = self.attention(torch.cat([nodes[name] for name in _JOINED], dim=1))
        return out


class SCNAS(SegmentationNetwork):
    """Stem, reduction and normal cells by turns, one normal cell as the bridge, normal and expansion cells by turns.

    The published network has strides 1, 2, 2, 2 and features 8, 16, 32, 64; what travels between cells has three times
    as many. The encoder's outputs are added to the decoder's.

    Args:
        network: Topology; every stage but the first has two cells on either side.
        num_channels: Channels of the image.
        num_outputs: Channels of the output.

    Raises:
        SettingsError: When the plan asks for another number of cells.
    """

    def __init__(self, network: NetworkPlan, *, num_channels: int, num_outputs: int) -> None:
        super().__init__()
        has_dilation = read_options(network, SCNASOptions).has_dilation
        if {*network.encoder_blocks[1:], *network.decoder_blocks} - {_CELLS_PER_STAGE}:
            raise SettingsError(
                f"scnas has {_CELLS_PER_STAGE} cells per stage, the plan says {network.encoder_blocks[1:]} in the "
                f"encoder and {network.decoder_blocks} in the decoder"
            )
        self.deep_supervision = network.deep_supervision
        ndim, joined = len(network.strides[0]), len(_JOINED)
        stem_features = joined * network.features[0]
        kernel = network.kernel_sizes[0]
        self.stem = nn.Sequential(
            convolution_class(ndim)(num_channels, stem_features, kernel, padding=tuple(k // 2 for k in kernel)),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            SqueezeExcitation(stem_features, ndim, reduction=_SQUEEZE),
            _norm(stem_features, ndim),
        )
        # Features and level of the outputs two cells back and one cell back.
        self._trace = [(network.features[0], 0), (network.features[0], 0)]
        encoder, decoder = [], []
        for level in range(1, network.num_stages):
            encoder.append(self._cell(REDUCTION, network, level, has_dilation=has_dilation))
            encoder.append(self._cell(ENCODER_NORMAL, network, level, has_dilation=has_dilation))
        self.encoder = nn.ModuleList(encoder)
        self.bridge = self._cell(ENCODER_NORMAL, network, network.num_stages - 1, has_dilation=has_dilation)
        for level in reversed(range(network.num_stages - 1)):
            decoder.append(self._cell(DECODER_NORMAL, network, level + 1, has_dilation=has_dilation))
            decoder.append(self._cell(EXPANSION, network, level, has_dilation=has_dilation))
        self.decoder = nn.ModuleList(decoder)
        self.seg_layers = nn.ModuleList(
            [
                convolution_class(ndim)(joined * network.features[level], num_outputs, 1)
                for level in reversed(range(len(network.output_strides)))
            ]
        )

    def _cell(self, cell: Cell, network: NetworkPlan, level: int, *, has_dilation: bool) -> SearchedCell:
        """A cell that gives the resolution of a level, after the cells made so far."""
        joined = len(_JOINED)
        (before, before_level), (last, _) = self._trace[-2:]
        self._trace.append((network.features[level], level))
        # A reduction reads its inputs at the resolution above its own.
        inner_level = level - 1 if cell is REDUCTION else level
        return SearchedCell(
            cell,
            num_before=joined * before,
            num_last=joined * last,
            num_features=network.features[level],
            kernel_size=network.kernel_sizes[level],
            stride=network.strides[level + 1 if cell is EXPANSION else level],
            before_is_finer=before_level < inner_level,
            has_dilation=has_dilation,
        )

    def forward(self, x: Tensor) -> list[Tensor] | Tensor:
        """Compute logits.

        Args:
            x: Images (b, c, ...), every edge a multiple of the network's divisor.

        Returns:
            With deep supervision a list, full resolution (b, k, ...) first; otherwise its first entry alone.
        """
        stem = self.stem(x)
        before, last, skips = stem, stem, [stem]
        for cell in self.encoder:
            before, last = last, self.stage(cell, before, last)
            skips.append(last)
        before, last = last, self.stage(self.bridge, before, last)
        skips.pop()  # the bridge has read it
        decoded = []
        for cell in self.decoder:
            before, last = last, self.stage(cell, before, last) + skips.pop()
            decoded.append(last)
        if not self.deep_supervision:
            logits: Tensor = self.seg_layers[-1](last)
            return logits
        # The last cell at each resolution, coarse ones first: normal cells, and the expansion at the very end.
        finished = [*decoded[2::_CELLS_PER_STAGE], last][-len(self.seg_layers) :]
        return [head(f) for head, f in zip(self.seg_layers, finished, strict=True)][::-1]

    def tap_modules(self) -> Mapping[str, nn.Module]:
        """The deepest feature maps, and the last cell's."""
        return {"bottleneck": self.bridge, "last_decoder": self.decoder[-1]}


def _operation(
    kind: Operation, num_features: int, *, kernel_size: Sequence[int], stride: Sequence[int], has_dilation: bool
) -> nn.Module:
    """An operation that keeps the number of feature maps."""
    if kind == "identity":
        return nn.Identity()
    if kind == "average":
        return LocalMean(kernel_size)
    if kind == "factorized_reduce":
        return FactorizedReduce(num_features, num_features, stride=stride)
    dilation = _DILATIONS[kind] if has_dilation else 1
    return _activated_conv(num_features, num_features, kernel_size, stride=stride, dilation=dilation)


_DILATIONS: dict[Operation, int] = {"conv": 1, "conv_dilated_2": 2, "conv_dilated_3": 3}


def _activated_conv(
    num_inputs: int,
    num_features: int,
    kernel_size: Sequence[int],
    *,
    stride: Sequence[int] | None = None,
    dilation: int = 1,
) -> nn.Module:
    """Leaky ReLU, convolution, instance norm: activation comes first."""
    ndim = len(kernel_size)
    convolution = convolution_class(ndim)(
        num_inputs,
        num_features,
        tuple(kernel_size),
        tuple(stride or (1,) * ndim),
        padding=tuple(dilation * (k // 2) for k in kernel_size),
        dilation=dilation,
        bias=False,
    )
    return nn.Sequential(nn.LeakyReLU(NEGATIVE_SLOPE), convolution, _norm(num_features, ndim))


def _norm(num_features: int, ndim: int) -> nn.Module:
    return (nn.InstanceNorm2d if ndim == 2 else nn.InstanceNorm3d)(num_features)


def _upsampled(x: Tensor, shape: Sequence[int]) -> Tensor:
    if tuple(x.shape[2:]) == tuple(shape):
        return x
    return F.interpolate(x, size=tuple(shape), mode="bilinear" if x.ndim == 4 else "trilinear", align_corners=False)
