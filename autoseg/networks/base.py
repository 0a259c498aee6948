"""What every network is."""

from __future__ import annotations

from torch import nn


class SegmentationNetwork(nn.Module):
    """Maps images (b, c, ...) to logits (b, k, ...).

    Attributes:
        deep_supervision: Whether ``forward`` answers with a list of logits, full resolution first, or with the full
            resolution's logits alone. May be switched at any time; the parameters stay the same.
    """

    deep_supervision: bool
