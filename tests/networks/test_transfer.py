"""Weights of another model: what fits is taken, and every key is accounted for."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from autoseg.errors import SettingsError
from autoseg.labels import LabelScheme
from autoseg.networks.catalog import network_rules
from autoseg.networks.factory import build_network
from autoseg.networks.transfer import PretrainedWeights, spread_channels, transfer
from autoseg.plan import NetworkPlan
from autoseg.planners.network_planning import plan_network, topology_for

AB = LabelScheme.from_table({"background": 0, "a": 1, "b": 2}, where="test")
AC = LabelScheme.from_table({"background": 0, "a": 1, "c": 2}, where="test")
ABC = LabelScheme.from_table({"background": 0, "a": 1, "b": 2, "c": 3}, where="test")


def build(name: str = "unet", *, num_channels: int = 1, labels: LabelScheme = AB, width: int = 4) -> nn.Module:
    plan = NetworkPlan(
        name=name,
        features=(4, width),
        strides=((1, 1, 1), (2, 2, 2)),
        kernel_sizes=((3, 3, 3),) * 2,
        encoder_blocks=(1, 1),
        decoder_blocks=(1,),
    )
    return build_network(plan, num_channels=num_channels, num_outputs=labels.num_outputs)


def given(weights: Mapping[str, Tensor], labels: LabelScheme = AB) -> PretrainedWeights:
    return PretrainedWeights(source="somewhere/model.pt", identity="model.pt 0123", weights=weights, labels=labels)


@pytest.mark.parametrize("name", ["unet", "resenc"])
def test_an_equal_network_takes_everything(name: str) -> None:
    source, network = build(name), build(name)
    report = transfer(given(source.state_dict()), network, AB)
    assert report.taken == tuple(source.state_dict())
    assert not report.adapted
    assert not report.random
    images = torch.randn(1, 1, 8, 8, 8)
    for mine, other in zip(network(images), source(images), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("name", ["unet", "resenc"])
@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 5)])
def test_other_channels_change_the_first_convolution_alone(name: str, before: int, after: int) -> None:
    source, network = build(name, num_channels=before), build(name, num_channels=after)
    report = transfer(given(source.state_dict()), network, AB)
    assert list(report.adapted.values()) == [f"changed from {before} to {after} channels"]
    assert not report.random
    same = torch.randn(1, 1, 8, 8, 8)  # an image whose channels are alike gives what it gave before
    with torch.no_grad():
        expected = source(same.expand(-1, before, -1, -1, -1))[0]
        torch.testing.assert_close(network(same.expand(-1, after, -1, -1, -1))[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("labels", [AC, ABC], ids=["other-names", "other-number"])
def test_output_layers_of_other_classes_stay_random(labels: LabelScheme) -> None:
    source, network = build(), build(labels=labels)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    report = transfer(given(source.state_dict()), network, labels)
    heads = {name for name in before if ".seg_layers." in name}
    assert set(report.random) == heads
    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in heads)
    assert all(torch.equal(after[name], source.state_dict()[name]) for name in report.taken)


@pytest.mark.parametrize(
    ("name", "heads"),
    [("acc_unet", {"seg_layers"}), ("scnas", {"seg_layers"}), ("mednext", {"out_0", "out_blocks"})],
)
def test_output_layers_are_known_in_every_network(name: str, heads: set[str]) -> None:
    rules = network_rules(name)
    plan = plan_network(name, rules, topology_for(rules, (1.0, 1.0), (32, 32)), width=0.01)
    source, network = (build_network(plan, num_channels=1, num_outputs=3) for _ in range(2))
    report = transfer(given(source.state_dict()), network, AC)
    assert {key.partition(".")[0] for key in report.random} == heads


def test_every_key_of_both_sides_is_in_the_report() -> None:
    source, network = build(width=8), build(width=4)
    weights = {**source.state_dict(), "decoder.extra.weight": torch.zeros(3)}
    weights.pop("encoder.stages.0.0.convs.0.norm.bias")
    report = transfer(given(weights), network, AB)
    assert {*report.taken, *report.adapted, *report.random} == set(network.state_dict())
    assert report.random["encoder.stages.0.0.convs.0.norm.bias"] == "not in the file"
    assert "(4, 4, 3, 3, 3), (8, 4, 3, 3, 3) in the file" in report.random["encoder.stages.1.0.convs.0.conv.weight"]
    assert report.unused == ("decoder.extra.weight",)
    assert f"{len(report.taken)} of {len(network.state_dict())} parameters taken" in report.summary()


def test_weights_of_another_kind_of_network_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"somewhere/model\.pt fits none"):
        transfer(given({"conv1.weight": torch.zeros(3)}), build(), AB)


def test_spreading_keeps_the_sum_over_channels() -> None:
    kernel = torch.randn(4, 3, 3, 3)
    spread = spread_channels(kernel, 7)
    assert spread.shape == (4, 7, 3, 3)
    torch.testing.assert_close(spread.sum(1), kernel.sum(1))
