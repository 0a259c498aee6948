"""Nested U-Net, U-Net++ (Zhou et al., https://arxiv.org/abs/1912.05074)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autoseg.networks.base import SegmentationNetwork
from autoseg.networks.blocks import (
    BlockStyle,
    ConvStack,
    convolution_class,
    initialize_weights,
    transposed_convolution_class,
)
from autoseg.networks.options import UNetPlusPlusOptions
from autoseg.networks.rules import read_options
from autoseg.plan import NetworkPlan


class UNetPlusPlus(SegmentationNetwork):
    """U-Nets of every depth inside each other, all with an output at full resolution.

    Node (i, j) lies at resolution i and sees all nodes (i, 0) ... (i, j-1) and the upsampled node (i+1, j-1). Training
    supervises every column. Prediction averages the columns, or computes no more than the first few.

    Args:
        network: Topology, one encoder stage per resolution.
        num_channels: Channels of the image.
        num_outputs: Channels of the output.
    """

    def __init__(self, network: NetworkPlan, *, num_channels: int, num_outputs: int) -> None:
        super().__init__()
        options, style = read_options(network, UNetPlusPlusOptions), BlockStyle.of(network)
        ndim, self.depth = len(network.strides[0]), network.num_stages - 1
        ones, features = (1,) * ndim, network.features
        self.column = min(options.column, self.depth)
        self.deep_supervision = network.deep_supervision
        self.nodes, self.upsamplings = nn.ModuleDict(), nn.ModuleDict()
        pooling = nn.MaxPool2d if ndim == 2 else nn.MaxPool3d
        for i, stride in enumerate(network.strides):
            pools = options.downsampling == "max" and i > 0
            stack = ConvStack(
                features[i - 1] if i else num_channels,
                features[i],
                num_convs=network.encoder_blocks[i],
                kernel_size=network.kernel_sizes[i],
                stride=ones if pools else stride,
                style=style,
            )
            self.nodes[f"{i}_0"] = nn.Sequential(pooling(stride, stride), stack) if pools else stack
        for j in range(1, self.depth + 1):
            for i in range(self.depth + 1 - j):
                stride = network.strides[i + 1]
                self.upsamplings[f"{i}_{j}"] = transposed_convolution_class(ndim)(
                    features[i + 1], features[i], stride, stride
                )
                self.nodes[f"{i}_{j}"] = ConvStack(
                    (j + 1) * features[i],
                    features[i],
                    num_convs=network.decoder_blocks[self.depth - 1 - i],
                    kernel_size=network.kernel_sizes[i],
                    stride=ones,
                    style=style,
                )
        columns = range(1, self.depth + 1) if self.depth else [0]
        self.heads = nn.ModuleDict({str(j): convolution_class(ndim)(features[0], num_outputs, 1) for j in columns})
        initialize_weights(self)

    def forward(self, x: Tensor) -> list[Tensor] | Tensor:
        """Compute logits.

        Args:
            x: Images (b, c, ...), every edge a multiple of the network's divisor.

        Returns:
            With deep supervision the logits (b, k, ...) of every column, the deepest first. Otherwise those of the
            column that was chosen, or the mean over all columns.
        """
        if self.deep_supervision:
            return self._columns(x, self.depth)[::-1]
        if self.column:
            return self._columns(x, self.column)[-1]
        return torch.stack(self._columns(x, self.depth)).mean(dim=0)

    def _columns(self, x: Tensor, last: int) -> list[Tensor]:
        """Logits of the columns up to ``last``; nodes beyond it are not computed."""
        rows: list[list[Tensor]] = []  # by resolution, the nodes so far
        for i in range(last + 1):
            x = self.stage(self.nodes[f"{i}_0"], x)
            rows.append([x])
        for j in range(1, last + 1):
            for i in range(last + 1 - j):
                coarser = self.upsamplings[f"{i}_{j}"](rows[i + 1][j - 1])
                rows[i].append(self.stage(self.nodes[f"{i}_{j}"], torch.cat((*rows[i], coarser), dim=1)))
        return [self.heads[str(j)](rows[0][j]) for j in (range(1, last + 1) if last else [0])]

    def prune(self, column: int) -> None:
        """Remove what prediction with the first columns does not need.

        Args:
            column: The last column that stays, from 1.

        Raises:
            ValueError: When there is no such column.
        """
        if not 1 <= column <= self.depth:
            raise ValueError(f"columns are 1 to {self.depth}, got {column}")
        for parts in (self.nodes, self.upsamplings):
            for key in [k for k in parts if sum(map(int, k.split("_"))) > column]:
                del parts[key]
        for key in [k for k in self.heads if int(k) > column]:
            del self.heads[key]
        self.column = self.depth = column

    def tap_modules(self) -> Mapping[str, nn.Module]:
        """The deepest feature maps, and those before the last column's output layer."""
        return {"bottleneck": self.nodes[f"{self.depth}_0"], "last_decoder": self.nodes[f"0_{self.depth}"]}
