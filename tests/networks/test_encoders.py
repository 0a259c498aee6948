"""Encoders of classification networks: sizes as published, MONAI's numbers, weight files of other programs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor, nn

from autoseg.errors import ArtifactError, SettingsError
from autoseg.interop.pretrained import load_pretrained
from autoseg.labels import LabelScheme
from autoseg.networks.catalog import network_rules
from autoseg.networks.encoder_unet import EncoderUNet
from autoseg.networks.encoders import RESNETS, Encoder, ResNetEncoder
from autoseg.networks.factory import build_network
from autoseg.networks.monai_encoders import DenseNetEncoder, EfficientNetEncoder
from autoseg.networks.transfer import transfer
from autoseg.planners.network_planning import plan_network, topology_for

LABELS = LabelScheme.from_table({"background": 0, "vessel": 1}, where="test")


def unet(name: str, *, num_channels: int = 3, width: float = 1.0, encoder: str | None = None) -> EncoderUNet:
    rules = network_rules(name)
    choices = () if encoder is None else (f"encoder={encoder}",)
    plan = plan_network(name, rules, topology_for(rules, (1.0, 1.0), (32, 32)), width=width, choices=choices)
    network = build_network(plan, num_channels=num_channels, num_outputs=2)
    assert isinstance(network, EncoderUNet)
    return network


@pytest.mark.parametrize(
    ("make", "name", "published"),
    [
        (ResNetEncoder, "resnet34", 21_284_672),
        (ResNetEncoder, "resnet50", 23_508_032),
        (ResNetEncoder, "se_resnext50_32x4d", 25_510_896),
        (ResNetEncoder, "se_resnext101_32x4d", 46_906_416),
        (ResNetEncoder, "resnext101_32x8d", 86_742_336),
        (ResNetEncoder, "resnext101_32x16d", 191_977_792),
        # With the convolution before its classifier, which no decoder sees: 576 to 2304 features, and their norm.
        (EfficientNetEncoder, "b6", 40_735_704 - 576 * 2304 - 2 * 2304),
        (DenseNetEncoder, "densenet161", 26_472_000),
    ],
)
def test_encoders_have_as_many_parameters_as_published(make: Callable[..., Encoder], name: str, published: int) -> None:
    """R304: counts without classifiers of the competition's table."""
    with torch.device("meta"):
        encoder = make(name, num_channels=3)
    assert sum(p.numel() for p in encoder.parameters()) == published


@pytest.mark.parametrize(
    "encoder",
    [
        ResNetEncoder("resnext50_32x4d", num_channels=2, scale=0.25),
        EfficientNetEncoder("b1", num_channels=2, scale=0.25),
        DenseNetEncoder("densenet121", num_channels=2, scale=0.25),
    ],
    ids=lambda encoder: type(encoder).__name__,
)
def test_features_are_what_the_encoder_says(encoder: Encoder) -> None:
    x, found = torch.randn(2, 2, 64, 96), []
    for level in encoder.levels():
        x = level(x)
        found.append(tuple(x.shape[1:]))
    assert found == [(c, 64 // s, 96 // s) for c, s in zip(encoder.channels, (2, 4, 8, 16, 32), strict=True)]


def of_monai(name: str) -> tuple[nn.Module, Callable[[str], str]]:
    """MONAI's network, and what our parameter is called in it."""
    from monai.networks.nets import DenseNet121, EfficientNetBN, SEResNext50, resnet50

    if name == "resnet50":
        net = resnet50(spatial_dims=2, n_input_channels=3, conv1_t_stride=2, bias_downsample=False, feed_forward=False)
        return net, lambda own: own
    if name == "se_resnext50_32x4d":
        return SEResNext50(spatial_dims=2, in_channels=3), _monai_squeeze
    if name == "b0":
        net = EfficientNetBN("efficientnet-b0", pretrained=False)
        net.set_swish(memory_efficient=False)
        return net, lambda own: own
    return DenseNet121(spatial_dims=2, in_channels=3, out_channels=1), lambda own: own


def _monai_squeeze(own: str) -> str:
    if own.startswith(("conv1", "bn1")):
        return f"layer0.{own}"
    own = re.sub(r"\.conv(\d)\.", r".conv\1.conv.", own)
    own = re.sub(r"\.bn(\d)\.", r".conv\1.adn.N.", own)
    own = own.replace("se_module.fc1", "se_layer.fc.0").replace("se_module.fc2", "se_layer.fc.2")
    return own.replace("downsample.0", "project.conv").replace("downsample.1", "project.adn.N")


@pytest.mark.parametrize(
    ("make", "name", "last"),
    [
        (ResNetEncoder, "resnet50", lambda net, x: _until_layer4(net, x)),
        (ResNetEncoder, "se_resnext50_32x4d", lambda net, x: net.features(x)),
        (EfficientNetEncoder, "b0", lambda net, x: _blocks(net, x)),
        (DenseNetEncoder, "densenet121", lambda net, x: net.features(x)),
    ],
)
def test_the_deepest_features_are_monais(
    make: Callable[..., Encoder], name: str, last: Callable[[nn.Module, Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    theirs, called = of_monai(name)
    encoder = make(name, num_channels=3)
    state = theirs.state_dict()
    own = encoder.state_dict()
    encoder.load_state_dict({key: state[called(key)].reshape(value.shape) for key, value in own.items()})
    x = torch.randn(2, 3, 64, 64)
    encoder.eval()
    theirs.eval()
    with torch.no_grad():
        expected, found = last(theirs, x), x
        for level in encoder.levels():
            found = level(found)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def _until_layer4(net: nn.Module, x: Tensor) -> Tensor:
    x = net.maxpool(net.act(net.bn1(net.conv1(x))))  # type: ignore[operator]  # torch's modules are typed so
    for number in (1, 2, 3, 4):
        x = net.get_submodule(f"layer{number}")(x)
    return x


def _blocks(net: nn.Module, x: Tensor) -> Tensor:
    x = net._swish(net._bn0(net._conv_stem(net._conv_stem_padding(x))))  # type: ignore[operator]
    return net._blocks(x)  # type: ignore[operator,no-any-return]


def as_published(network: EncoderUNet, *, num_channels: int = 3) -> dict[str, Tensor]:
    """Random weights under their published names, with a classifier besides; some shapes as old programs wrote them."""
    generator = torch.Generator().manual_seed(7)
    names, found = network.published_names(), {}
    for own, tensor in network.state_dict().items():
        if own not in names:
            continue
        shape = list(tensor.shape)
        if tensor.ndim == 4 and own == next(k for k, v in network.state_dict().items() if v.ndim == 4):
            shape[1] = num_channels
        value = torch.rand(shape, generator=generator) if tensor.is_floating_point() else tensor
        found[names[own]] = value
    found["fc.weight"] = torch.rand(10, 4)
    return found


EXPECTED_NAMES = {
    "resnet": ("conv1.weight", "layer2.0.downsample.0.weight", "layer4.1.bn2.running_var"),
    "resnext": ("conv1.weight", "layer2.0.downsample.0.weight", "layer4.1.bn3.running_var"),
    "se_resnext": ("layer0.conv1.weight", "layer2.0.se_module.fc1.weight", "layer1.0.downsample.1.bias"),
    "efficientnet": ("_conv_stem.weight", "_blocks.3._depthwise_conv.weight", "_blocks.15._bn2.bias"),
    "densenet": ("features.conv0.weight", "features.denseblock2.denselayer3.conv2.weight", "features.norm5.weight"),
}


@pytest.mark.parametrize("name", list(EXPECTED_NAMES))
@pytest.mark.parametrize("wrapped", ["", "state_dict"])
def test_published_files_fill_the_encoder_and_every_key_is_accounted_for(
    name: str, wrapped: str, tmp_path: Path
) -> None:
    """R304: a local file, no download; five slices instead of three colors."""
    network = unet(name, num_channels=5, width=0.25)
    weights: Mapping[str, Tensor] = as_published(network)
    assert set(EXPECTED_NAMES[name]) <= set(weights)
    prefix = "module." if wrapped else ""
    content = {f"{prefix}{key}": value for key, value in weights.items()}
    torch.save({wrapped: content, "epoch": 3} if wrapped else content, tmp_path / "published.pth")
    pretrained = load_pretrained(tmp_path / "published.pth")
    report = transfer(pretrained, network, LABELS)
    own = {key for key in network.state_dict() if key.startswith("encoder.")}
    assert {*report.taken, *report.adapted} == own
    assert list(report.adapted.values()) == ["changed from 3 to 5 channels"]
    assert report.unused == ("fc.weight",)
    assert set(report.random) == set(network.state_dict()) - own
    after = network.state_dict()
    names = network.published_names()
    assert all(torch.equal(after[key], weights[names[key]]) for key in report.taken)
    # A gray image, which is the same in every channel, gives what it gave before.
    (first,) = report.adapted
    torch.testing.assert_close(after[first].sum(dim=1), weights[names[first]].sum(dim=1))
    assert not torch.equal(after[first][:, 0], after[first][:, 1])  # repeated, not averaged


def test_layers_of_single_voxels_may_be_matrices_in_the_file(tmp_path: Path) -> None:
    network = unet("se_resnext", width=0.25)
    weights = as_published(network)
    key = "layer1.0.se_module.fc1.weight"
    weights[key] = weights[key][:, :, 0, 0]
    torch.save(weights, tmp_path / "published.pth")
    report = transfer(load_pretrained(tmp_path / "published.pth"), network, LABELS)
    assert "encoder.layer1.0.se_module.fc1.weight" in report.taken


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "nothing.pth")
    with pytest.raises(ArtifactError, match="no weights to begin with"):
        load_pretrained(tmp_path / "nothing.pth")


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.rand(4, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(SettingsError, match="made for another network"):
        transfer(load_pretrained(tmp_path / "other.pth"), unet("resnet", width=0.25), LABELS)


def test_every_resnet_can_be_chosen() -> None:
    from autoseg.networks.options import ResNetOptions, ResNeXtOptions, SEResNeXtOptions

    offered = [
        *get_args(get_type_hints(ResNetOptions)["encoder"]),
        *get_args(get_type_hints(ResNeXtOptions)["encoder"]),
        *get_args(get_type_hints(SEResNeXtOptions)["encoder"]),
    ]
    assert sorted(offered) == sorted(RESNETS)
    with pytest.raises(SettingsError, match="encoder"):
        unet("resnet", encoder="resnet19")
