"""What every network of the registry keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autoseg.errors import SettingsError
from autoseg.networks.base import SegmentationNetwork
from autoseg.networks.factory import NETWORKS, build_network
from autoseg.plan import NetworkPlan


def make_plan(name: str, ndim: int, num_stages: int = 3) -> NetworkPlan:
    return NetworkPlan(
        name=name,
        features=(4, 6, 8)[:num_stages],
        strides=((1,) * ndim, (1, *(2,) * (ndim - 1)), (2,) * ndim)[:num_stages],
        kernel_sizes=((1, *(3,) * (ndim - 1)), (3,) * ndim, (3,) * ndim)[:num_stages],
        encoder_blocks=(1, 2, 2)[:num_stages],
        decoder_blocks=(1, 1)[: num_stages - 1],
    )


def make_images(plan: NetworkPlan, *, batch: int = 2) -> Tensor:
    shape = tuple(4 * d for d in plan.divisor)
    return torch.randn(batch, 2, *shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def ndim(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=[1, 2, 3], ids=lambda n: f"{n}-stages")
def plan(name: str, ndim: int, request: pytest.FixtureRequest) -> NetworkPlan:
    return make_plan(name, ndim, request.param)


@pytest.fixture(params=NETWORKS.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def network(plan: NetworkPlan) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(plan, num_channels=2, num_outputs=3)


def test_outputs_have_the_shapes_that_the_plan_says(plan: NetworkPlan, network: SegmentationNetwork) -> None:
    images = make_images(plan)
    outputs = network(images)
    assert isinstance(outputs, list)
    expected = [
        (2, 3, *(n // s for n, s in zip(images.shape[2:], stride, strict=True))) for stride in plan.output_strides
    ]
    assert [tuple(o.shape) for o in outputs] == expected
    assert expected[0][2:] == tuple(images.shape[2:])


def test_deep_supervision_can_be_switched(plan: NetworkPlan, network: SegmentationNetwork) -> None:
    images = make_images(plan)
    network.eval()
    names = list(network.state_dict())
    with torch.no_grad():
        full = network(images)[0]
        network.deep_supervision = False
        alone = network(images)
    assert isinstance(alone, Tensor)
    assert torch.equal(alone, full)
    assert list(network.state_dict()) == names


def test_the_plan_may_do_without_deep_supervision(name: str, ndim: int) -> None:
    plan = replace(make_plan(name, ndim), deep_supervision=False)
    assert len(plan.output_strides) == 1
    assert isinstance(build_network(plan, num_channels=2, num_outputs=3)(make_images(plan)), Tensor)


def test_every_parameter_learns(plan: NetworkPlan, network: SegmentationNetwork) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)  # residual branches start at zero, where their first convolution has no gradient
    sum(output.square().mean() for output in network(make_images(plan))).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
    moved = [n for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    # A bias before an instance normalization is subtracted again; every other parameter matters.
    assert {n for n, _ in network.named_parameters() if not n.endswith("conv.bias")} <= set(moved)


def test_examples_of_a_batch_do_not_mix(plan: NetworkPlan, network: SegmentationNetwork) -> None:
    images = make_images(plan)
    with torch.no_grad():
        together = network(images)
        apart = [network(images[i : i + 1]) for i in range(2)]
    for scale, logits in enumerate(together):
        torch.testing.assert_close(logits, torch.cat([a[scale] for a in apart]), rtol=1e-4, atol=1e-4)


def test_training_and_prediction_compute_the_same(plan: NetworkPlan, network: SegmentationNetwork) -> None:
    images = make_images(plan)
    with torch.no_grad():
        training = network.train()(images)[0]
        torch.testing.assert_close(network.eval()(images)[0], training)


def test_images_are_not_modified(plan: NetworkPlan, network: SegmentationNetwork) -> None:
    images = make_images(plan)
    network(images)
    assert torch.equal(images, make_images(plan))


def test_the_seed_decides_the_weights(plan: NetworkPlan, network: SegmentationNetwork) -> None:
    torch.manual_seed(0)
    again = build_network(plan, num_channels=2, num_outputs=3)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_any_multiple_of_the_divisor_fits(plan: NetworkPlan, network: SegmentationNetwork) -> None:
    shape = tuple(d * n for d, n in zip(plan.divisor, (3, 4, 5), strict=False))
    with torch.no_grad():
        assert network(torch.randn(1, 2, *shape))[0].shape == (1, 3, *shape)


def test_an_unknown_network_names_close_ones() -> None:
    with pytest.raises(SettingsError, match="resenc"):
        build_network(replace(make_plan("unet", 2), name="resence"), num_channels=1, num_outputs=2)


def test_four_axes_are_refused() -> None:
    with pytest.raises(SettingsError, match="two or three axes"):
        build_network(make_plan("unet", 4), num_channels=1, num_outputs=2)
