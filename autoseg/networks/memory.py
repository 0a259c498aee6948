"""What a training step of a network takes in memory, found without a GPU and without computing.

The step runs on tensors that have a shape and a device but no values. A record of what is alive at every moment gives
the feature maps that the backward pass needs, and the peak. Counting feature maps by hand, as nnU-Net's planner does,
is wrong by a factor of three and more for networks other than its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoseg.labels import LabelScheme
from autoseg.losses.factory import build_loss
from autoseg.networks.factory import build_network
from autoseg.plan import NetworkPlan

GIB = 1024**3
_OPTIMIZER_STATES = 2  # values per parameter that Adam keeps; SGD keeps one
_CONTEXT = 1.0 * GIB  # the driver's own and the convolutions' workspaces; differs between devices, a guess
_SLACK = 1.05  # of what is alive: the allocator rounds up and leaves gaps

StepPrecision = Literal["float32", "half"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes that a training step takes.

    Args:
        saved: Feature maps that wait for the backward pass.
        peak: Most that is alive at a time, gradients included, weights and optimizer not.
        parameters: Of the weights, in float32.
    """

    saved: int
    peak: int
    parameters: int

    @property
    def total(self) -> float:
        """Everything together, as a GPU's memory has to hold it."""
        fixed = self.parameters * (1 + _OPTIMIZER_STATES)
        return fixed + _SLACK * max(self.peak, 2 * self.parameters) + _CONTEXT

    @property
    def gigabytes(self) -> float:
        """The total in GiB."""
        return self.total / GIB

    def scaled(self, factor: float) -> MemoryEstimate:
        """For so many times the voxels, in the patch or in the batch: feature maps grow with them, weights do not."""
        return replace(self, saved=round(self.saved * factor), peak=round(self.peak * factor))


class _AliveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives it no types
    """Counts the bytes of all tensors that operations made and that are still referenced."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run an operation and watch what it made."""
        outputs = func(*args, **(kwargs or {}))
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor):
                self.watch(output)
        return outputs

    def watch(self, tensor: Tensor) -> None:
        """Count a tensor until it is gone; views of what is known count nothing."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()

        def gone(_reference: object) -> None:
            self.now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)

    def forget(self, tensors: Sequence[Tensor]) -> None:
        """Never count these: they are there anyway."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._known[storage._cdata] = storage


def estimate_memory(
    network: NetworkPlan,
    *,
    patch_size: Sequence[int],
    batch_size: int,
    num_channels: int,
    labels: LabelScheme,
    precision: StepPrecision = "half",
) -> MemoryEstimate:
    """Memory of a training step with the default loss.

    Args:
        network: The network.
        patch_size: Voxels per axis.
        batch_size: Patches per step.
        num_channels: Channels of the network's input.
        labels: What its outputs mean.
        precision: "half" computes as a GPU does by default.
    """
    module = _build(network, num_channels, labels.num_outputs).train()
    criterion = build_loss(
        "dice_ce",
        labels=labels,
        batch_dice=True,
        num_scales=len(network.output_strides),
        supervision=network.supervision,
        auxiliary_weight=network.auxiliary_weight,
    )
    shapes = [tuple(n // s for n, s in zip(patch_size, stride, strict=True)) for stride in network.output_strides]
    channels = len(labels.targets) + (labels.ignore_value is not None) if labels.has_regions else 1
    kind = torch.bool if labels.has_regions else torch.int16
    # A GPU computes in float16; a CPU's bfloat16 keeps the same tensors in as many bytes.
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "half")
    with FakeTensorMode(allow_non_fake_inputs=True), autocast:
        weights = _without_values(module)
        images = torch.empty(batch_size, num_channels, *patch_size)
        targets = [torch.empty(batch_size, channels, *shape, dtype=kind) for shape in shapes]
        alive = _AliveBytes()
        alive.forget([*weights, images, *targets])
        with alive:
            outputs = module(images)
            saved = alive.now
            loss = criterion(outputs, targets)
            loss.backward()
    parameters = sum(p.numel() * p.element_size() for p in module.parameters())
    return MemoryEstimate(saved=saved, peak=alive.peak, parameters=parameters)


def _build(network: NetworkPlan, num_channels: int, num_outputs: int) -> nn.Module:
    """Build without drawing weights where the network allows it; some compute while they are built."""
    try:
        with torch.device("meta"):
            return build_network(network, num_channels=num_channels, num_outputs=num_outputs)
    except (RuntimeError, NotImplementedError):
        return build_network(network, num_channels=num_channels, num_outputs=num_outputs)


def _without_values(module: nn.Module) -> list[Tensor]:
    """Put tensors of the same shape into a module, where tensors have no values; return all of them."""
    made: list[Tensor] = []
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(torch.empty(parameter.shape), requires_grad=parameter.requires_grad))
            made.append(getattr(part, name))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype))
            made.append(getattr(part, name))
    return made
