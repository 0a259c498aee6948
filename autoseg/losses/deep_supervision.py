"""One loss over the outputs of several resolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from autoseg.plan import Supervision


def scale_weights(
    num_scales: int, supervision: Supervision = "pyramid", auxiliary_weight: float = 0.0
) -> tuple[float, ...]:
    """Weight of each output, full resolution first; they sum to one.

    In a pyramid they are halved from scale to scale, and the last has none. A single output keeps its weight (nnU-Net's
    rule would divide zero by zero there). Nested outputs, which all have full resolution, weigh the same.

    Args:
        num_scales: How many outputs there are.
        supervision: What they are.
        auxiliary_weight: Where the first output is another network's refined one and the others are that network's,
            what those weigh together; the refined one has 1. Otherwise 0.

    Raises:
        ValueError: When there is no output.

    Example:
        >>> scale_weights(3)
        (0.6666666666666666, 0.3333333333333333, 0.0)
        >>> scale_weights(4, "nested")
        (0.25, 0.25, 0.25, 0.25)
        >>> scale_weights(2, auxiliary_weight=0.4)
        (1.0, 0.4)
    """
    if num_scales < 1:
        raise ValueError(f"num_scales must be positive, got {num_scales}")
    if auxiliary_weight and num_scales > 1:
        return (1.0, *(auxiliary_weight * weight for weight in scale_weights(num_scales - 1, supervision)))
    raw = [0.5**i if supervision == "pyramid" else 1.0 for i in range(num_scales)]
    if num_scales > 1 and supervision == "pyramid":
        raw[-1] = 0.0
    return tuple(w / sum(raw) for w in raw)


class DeepSupervisionLoss(nn.Module):
    """Weighted sum of a loss over the outputs of several resolutions.

    Args:
        loss: Maps logits and target of one resolution to a scalar.
        num_scales: How many outputs there will be.
        supervision: Whether they are a pyramid of falling resolution or nested.
        auxiliary_weight: See :func:`scale_weights`.
    """

    def __init__(
        self,
        loss: nn.Module,
        *,
        num_scales: int,
        supervision: Supervision = "pyramid",
        auxiliary_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.weights = scale_weights(num_scales, supervision, auxiliary_weight)

    @property
    def is_mean_over_samples(self) -> bool:
        """Whether the loss of a batch is the mean of the losses of its patches; a loss that does not say is not."""
        return bool(getattr(self.loss, "is_mean_over_samples", False))

    def forward(self, outputs: Sequence[Tensor] | Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Compute the loss.

        Args:
            outputs: Logits (b, k, ...) per scale, full resolution first; a tensor is one scale.
            targets: Targets of the same resolutions, see :mod:`autoseg.losses.targets`.

        Raises:
            ValueError: When there are not as many outputs and targets as scales.
        """
        if isinstance(outputs, Tensor):
            outputs = [outputs]
        # Outputs of weight zero are left out: zero times infinity would be NaN.
        pairs = zip(self.weights, outputs, targets, strict=True)
        losses: list[Tensor] = [weight * self.loss(logits, target) for weight, logits, target in pairs if weight]
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss
        return total
