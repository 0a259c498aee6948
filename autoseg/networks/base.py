"""What every network is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class SegmentationNetwork(nn.Module):
    """Maps images (b, c, ...) to logits (b, k, ...).

    Attributes:
        deep_supervision: Whether ``forward`` answers with a list of logits, full resolution first, or with the full
            resolution's logits alone. May be switched at any time; the parameters stay the same.
        checkpointing: Whether training computes what :meth:`stage` runs a second time instead of keeping it.
    """

    deep_supervision: bool = False
    checkpointing: bool = False

    def resting_parameters(self, fraction: float) -> Iterable[nn.Parameter]:  # noqa: ARG002 - most have none
        """Parameters that are to stay as they are for now.

        Args:
            fraction: Share of the training run that lies behind, from 0 to 1.
        """
        return ()

    def stage(self, module: nn.Module, *inputs: Tensor) -> Any:  # noqa: ANN401 - whatever the module answers
        """Run a part of the network, whose insides are not kept for the backward pass where checkpointing is on."""
        if not (self.checkpointing and self.training and torch.is_grad_enabled()):
            return module(*inputs)
        return checkpoint(module, *inputs, use_reentrant=False)

    def tap_modules(self) -> Mapping[str, nn.Module]:
        """Modules whose outputs may be looked at, by the names that the network's rules list as taps."""
        return {}

    def published_names(self) -> Mapping[str, str]:
        """Parameter -> its name in files of published weights, where that is another one."""
        return {}

    def forward_features(self, x: Tensor) -> tuple[list[Tensor] | Tensor, dict[str, Tensor]]:
        """Compute logits, and what the tapped modules gave on the way.

        Args:
            x: Images (b, c, ...).

        Returns:
            What ``forward`` returns, and tap name -> features (b, f, ...).
        """
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Any:  # noqa: ANN401 - torch's hook type
            return lambda _module, _inputs, output: found.__setitem__(name, output)

        hooks = [module.register_forward_hook(keep(name)) for name, module in self.tap_modules().items()]
        try:
            outputs = cast("list[Tensor] | Tensor", self(x))
        finally:
            for hook in hooks:
                hook.remove()
        return outputs, found
