"""Weights of another model as the start of a training run: what fits is taken, and every key is accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autoseg.errors import SettingsError
from autoseg.labels import LabelScheme
from autoseg.networks.base import SegmentationNetwork

SCHEMA_VERSION = 1
_HEADS = {"seg_layers", "out", "out_0", "out_blocks"}  # output layers, in nnU-Net's names and ours and in MONAI's


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PretrainedWeights:
    """Weights to begin with.

    Args:
        source: Where they come from, for people.
        identity: File name and digest of the weights: which ones they are, whatever folder they lie in.
        weights: Parameter name -> tensor.
        labels: What the outputs of the model meant; None where it did not segment.
    """

    source: str
    identity: str
    weights: Mapping[str, Tensor]
    labels: LabelScheme | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferReport:
    """pretrained.json: what became of every parameter.

    Args:
        source: Where the weights came from.
        taken: Parameters that were copied as they are.
        adapted: Parameter -> how it was changed to fit.
        random: Parameter of the network -> why it keeps its random start.
        unused: Parameters of the file that the network does not have.
    """

    schema_version: int = SCHEMA_VERSION
    source: str
    taken: tuple[str, ...]
    adapted: dict[str, str] = field(default_factory=dict)
    random: dict[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def summary(self) -> str:
        """One sentence for people."""
        total = len(self.taken) + len(self.adapted) + len(self.random)
        changed = "".join(f"; {name} {how}" for name, how in self.adapted.items())
        kept = f"; {len(self.random)} begin at random" if self.random else ""
        unused = f"; {len(self.unused)} of the file are not used" if self.unused else ""
        return f"weights from {self.source}: {len(self.taken)} of {total} parameters taken{changed}{kept}{unused}"


def transfer(pretrained: PretrainedWeights, network: nn.Module, labels: LabelScheme) -> TransferReport:
    """Put weights of another model into a network where they fit.

    Parameters of the same name and shape are copied. Output layers are copied only where both models segment the same
    things. Weights of a network that this one refines go to that part of it. A first convolution made for another
    number of channels is repeated over the new ones, so that an image whose channels are alike gives the features that
    it gave before.

    Args:
        pretrained: The weights.
        network: Changed in place.
        labels: What the outputs of the network mean.

    Raises:
        SettingsError: When nothing fits.
    """
    own = network.state_dict()
    names = network.published_names() if isinstance(network, SegmentationNetwork) else {}
    used = {name: name if name in pretrained.weights else names.get(name, name) for name in own}
    first = next((name for name, tensor in own.items() if tensor.ndim >= 4), None)
    same_outputs = pretrained.labels is not None and _outputs(pretrained.labels) == _outputs(labels)
    taken, adapted, random = {}, dict[str, Tensor](), dict[str, str]()
    for name, tensor in own.items():
        found = pretrained.weights.get(used[name])
        if found is None:
            random[name] = "not in the file"
        elif _HEADS & set(name.split(".")) and not same_outputs:
            random[name] = "an output layer, for other classes"
        elif found.shape == tensor.shape or _are_one_matrix(found, tensor):
            taken[name] = found.reshape(tensor.shape)
        elif name == first and found.ndim == tensor.ndim and _without_channels(found) == _without_channels(tensor):
            adapted[name] = spread_channels(found, tensor.shape[1])
        else:
            random[name] = f"shape {tuple(tensor.shape)}, {tuple(found.shape)} in the file"
    if not taken:
        raise SettingsError(
            f"{pretrained.source} fits none of the network's {len(own)} parameters: it was made for another network"
        )
    network.load_state_dict({**own, **taken, **adapted})
    return TransferReport(
        source=pretrained.source,
        taken=tuple(taken),
        adapted={
            n: f"changed from {pretrained.weights[used[n]].shape[1]} to {t.shape[1]} channels"
            for n, t in adapted.items()
        },
        random=random,
        unused=tuple(name for name in pretrained.weights if name not in set(used.values())),
    )


def spread_channels(kernel: Tensor, num_channels: int) -> Tensor:
    """Turn a convolution kernel (f, c, ...) into one for another number of input channels.

    The old channels are repeated, 1 2 3 1 2, each divided by how often it occurs, so that their sum stays; fewer new
    ones share the mean.

    Args:
        kernel: As in the file.
        num_channels: Of the new one.

    Example:
        >>> spread_channels(torch.tensor([[[2.0]]]), 2)
        tensor([[[1.],
                 [1.]]])
    """
    before = kernel.shape[1]
    if num_channels < before:
        return torch.cat([kernel.sum(dim=1, keepdim=True) / num_channels] * num_channels, dim=1)
    places = torch.arange(num_channels, device=kernel.device) % before
    counts = torch.bincount(places, minlength=before)[places]
    return kernel[:, places] / counts.reshape(1, -1, *(1,) * (kernel.ndim - 2))


def _are_one_matrix(*layers: Tensor) -> bool:
    """Whether layers see single voxels only, so that it matters not with how many axes of one voxel."""
    are_pointwise = all(layer.ndim >= 2 and all(n == 1 for n in layer.shape[2:]) for layer in layers)
    return are_pointwise and len({layer.shape[:2] for layer in layers}) == 1


def _without_channels(tensor: Tensor) -> tuple[int, ...]:
    return (tensor.shape[0], *tensor.shape[2:])


def _outputs(labels: LabelScheme) -> tuple[object, ...]:
    return (labels.has_regions, *(target.name for target in labels.targets))
