"""What every network of the registry keeps, present and future."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import Tensor, nn

from autoseg.codec import from_plain, to_plain
from autoseg.errors import SettingsError
from autoseg.networks.base import SegmentationNetwork
from autoseg.networks.catalog import NETWORKS, RULES, network_rules
from autoseg.networks.factory import build_network
from autoseg.networks.rules import STYLE, option_names
from autoseg.plan import NetworkPlan
from autoseg.planners.network_planning import plan_network, topology_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A network on a kind of data."""

    name: str
    label: str
    spacing: tuple[float, ...]
    size: tuple[int, ...]

    @property
    def id(self) -> str:
        return f"{self.name}-{self.label}"

    def plan(self) -> tuple[NetworkPlan, tuple[int, ...]]:
        """As small as the rules let it be, and the patch it is for."""
        rules = network_rules(self.name)
        topology = topology_for(rules, self.spacing, self.size)
        choices = CHEAPER.get(self.name, ())
        return plan_network(self.name, rules, topology, width=0.01, choices=choices), topology.patch_size


KINDS = (
    ("flat", (1.0, 1.0), (18, 27)),
    ("equal", (1.0, 1.0, 1.0), (17, 18, 16)),
    ("thick", (5.0, 1.0, 1.0), (6, 18, 22)),
    ("tiny", (1.0, 1.0, 1.0), (4, 4, 4)),
)
CHEAPER = {"swin_unetr": ("window=2",)}
"""Choices that spare seconds and change no law."""

FORMS = [
    Form(name=name, label=label, spacing=spacing, size=size)
    for name in NETWORKS.names()
    for label, spacing, size in KINDS
    if len(size) in network_rules(name).dims
    # Where axes are all treated alike, thick and tiny patches are padded to what a cube of voxels is padded to.
    and (network_rules(name).is_anisotropic or label in ("flat", "equal"))
]


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: form.id)
def form(request: pytest.FixtureRequest) -> Form:
    found: Form = request.param
    return found


@pytest.fixture(scope="module")
def plan(form: Form) -> NetworkPlan:
    return form.plan()[0]


@pytest.fixture(scope="module")
def images(form: Form) -> Tensor:
    return torch.randn(2, 2, *form.plan()[1], generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network(plan: NetworkPlan) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(plan, num_channels=2, num_outputs=3)


def as_list(outputs: Tensor | list[Tensor]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else outputs


def test_outputs_have_the_shapes_that_the_plan_says(
    plan: NetworkPlan, network: SegmentationNetwork, images: Tensor
) -> None:
    before = images.clone()
    outputs = network(images)
    assert isinstance(outputs, list) is plan.deep_supervision
    expected = [
        (2, 3, *(n // s for n, s in zip(images.shape[2:], stride, strict=True))) for stride in plan.output_strides
    ]
    assert [tuple(o.shape) for o in as_list(outputs)] == expected
    assert expected[0][2:] == tuple(images.shape[2:])
    assert torch.equal(images, before)


def test_deep_supervision_can_be_switched(plan: NetworkPlan, network: SegmentationNetwork, images: Tensor) -> None:
    network.eval()
    names = list(network.state_dict())
    with torch.no_grad():
        full = as_list(network(images))[0]
        network.deep_supervision = False
        alone = network(images)
    assert isinstance(alone, Tensor)
    # What a nested network answers alone may be the mean of its outputs.
    assert torch.equal(alone, full) or plan.supervision == "nested"
    assert list(network.state_dict()) == names


def test_the_plan_may_do_without_deep_supervision(plan: NetworkPlan, images: Tensor) -> None:
    without = replace(plan, deep_supervision=False)
    assert len(without.output_strides) == 1
    assert isinstance(build_network(without, num_channels=2, num_outputs=3)(images), Tensor)


def test_every_parameter_learns(network: SegmentationNetwork, images: Tensor) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():  # branches that start at zero have no gradient there
            parameter.add_(0.1 * torch.rand(parameter.shape, generator=generator))
    outputs = as_list(network(images))
    sum((output * torch.randn(output.shape, generator=generator)).mean() for output in outputs).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        # A bias before a normalization is subtracted again; every kernel matters.
        assert parameter.ndim < 2 or parameter.grad.abs().max() > 0, parameter_name


def test_examples_of_a_batch_do_not_mix(network: SegmentationNetwork, images: Tensor) -> None:
    network.eval()
    with torch.no_grad():
        together = as_list(network(images))
        apart = [as_list(network(images[i : i + 1])) for i in range(2)]
    for scale, logits in enumerate(together):
        torch.testing.assert_close(logits, torch.cat([a[scale] for a in apart]), rtol=1e-4, atol=1e-4)


def test_training_and_prediction_compute_the_same(network: SegmentationNetwork, images: Tensor) -> None:
    differing = (nn.BatchNorm2d, nn.BatchNorm3d, nn.Dropout, nn.Dropout2d, nn.Dropout3d)
    if any(isinstance(m, differing) and getattr(m, "p", 1) > 0 for m in network.modules()):
        pytest.skip("it is made of layers that compute differently in training")
    with torch.no_grad():
        training = as_list(network.train()(images))[0]
        torch.testing.assert_close(as_list(network.eval()(images))[0], training)


def test_the_seed_decides_the_weights(plan: NetworkPlan, network: SegmentationNetwork) -> None:
    torch.manual_seed(0)
    again = build_network(plan, num_channels=2, num_outputs=3)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_a_larger_multiple_of_the_divisor_fits(plan: NetworkPlan, network: SegmentationNetwork, images: Tensor) -> None:
    """Sliding windows of another size than in training."""
    shape = (images.shape[2] + plan.divisor[0], *images.shape[3:])
    with torch.no_grad():
        assert as_list(network.eval()(torch.randn(1, 2, *shape)))[0].shape == (1, 3, *shape)


def test_checkpointing_changes_no_gradient(plan: NetworkPlan, images: Tensor) -> None:
    if "checkpointing" not in network_rules(plan.name).heeds:
        pytest.skip("it does not checkpoint")
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = build_network(replace(plan, checkpointing=checkpointing), num_channels=2, num_outputs=3)
        torch.manual_seed(1)
        sum(output.square().mean() for output in as_list(network(images))).backward()
        gradients.append([p.grad for p in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_taps_show_features(plan: NetworkPlan, network: SegmentationNetwork, images: Tensor) -> None:
    with torch.no_grad():
        outputs, taps = network.eval().forward_features(images)
    assert set(network_rules(plan.name).taps) <= set(taps)
    assert as_list(outputs)[0].shape == (2, 3, *images.shape[2:])
    assert all(len(features) == 2 for features in taps.values())


def test_the_memory_layout_can_be_changed(network: SegmentationNetwork, images: Tensor) -> None:
    """Training keeps channels last where that is faster; torch refuses parameters with one axis less than a kernel."""
    layout = torch.channels_last if images.ndim == 4 else torch.channels_last_3d
    with torch.no_grad():
        before = as_list(network.eval()(images))[0]
        after = as_list(network.to(memory_format=layout)(images))[0]  # type: ignore[call-overload]  # stubs lack 3d
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)


def test_the_plan_survives_its_file(plan: NetworkPlan) -> None:
    assert from_plain(NetworkPlan, to_plain(plan)) == plan


@pytest.mark.parametrize("name", NETWORKS.names())
def test_rules_are_complete(name: str) -> None:
    rules = network_rules(name)
    assert set(rules.heeds) <= set(STYLE)
    assert set(rules.style) <= set(STYLE)
    assert len(set(option_names(rules))) == len(option_names(rules))
    assert rules.options is None or rules.options() is not None  # every option has a default
    plain = {f.name for f in fields(NetworkPlan)}
    assert rules.options is None or not plain & {f.name for f in fields(rules.options)}
    if name in RULES:
        assert len(rules.summary) > 10
        assert len(rules.source) > 10


def test_rules_are_read_without_torch() -> None:
    program = (
        "import sys\n"
        "from autoseg.networks.catalog import RULES, network_rules\n"
        "from autoseg.planners.network_planning import plan_network, topology_for\n"
        "for name in RULES:\n"
        "    rules = network_rules(name)\n"
        "    for ndim in rules.dims:\n"
        "        plan_network(name, rules, topology_for(rules, (1.0,) * ndim, (64,) * ndim))\n"
        "print([m for m in ('torch', 'monai') if m in sys.modules])\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_an_unknown_network_names_close_ones() -> None:
    plan = Form(name="unet", label="", spacing=(1.0, 1.0), size=(8, 8)).plan()[0]
    with pytest.raises(SettingsError, match="resenc"):
        build_network(replace(plan, name="resence"), num_channels=1, num_outputs=2)
