"""A refinement stage on the logits of any other network: how it is planned, supervised and trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autoseg.errors import SettingsError
from autoseg.labels import LabelScheme
from autoseg.losses.deep_supervision import scale_weights
from autoseg.losses.factory import build_loss
from autoseg.networks.catalog import NETWORKS, network_rules, planned_rules, rules_of
from autoseg.networks.factory import build_network
from autoseg.networks.scn import RefinedNetwork
from autoseg.networks.transfer import PretrainedWeights, transfer
from autoseg.plan import NetworkPlan
from autoseg.planners.network_planning import plan_network, topology_for

LABELS = LabelScheme.from_table({"background": 0, "left": 1, "right": 2}, where="dataset.json")
OTHERS = [name for name in NETWORKS.names() if name != "scn"]


def planned(name: str, *choices: str, edge: int = 32) -> tuple[NetworkPlan, tuple[int, ...]]:
    """A narrow network for isotropic voxels, and its patch."""
    rules = planned_rules(name, choices)
    ndim = min(rules.dims)
    topology = topology_for(rules, (1.0,) * ndim, (edge,) * ndim)
    return plan_network(name, rules, topology, width=0.01, choices=choices), topology.patch_size


def built(plan: NetworkPlan) -> RefinedNetwork:
    torch.manual_seed(0)
    network = build_network(plan, num_channels=1, num_outputs=3)
    assert isinstance(network, RefinedNetwork)
    return network


@pytest.mark.parametrize("name", OTHERS)
def test_any_network_can_be_refined(name: str) -> None:
    """Stages and patch are the other network's, and before training nothing is changed."""
    alone, alone_patch = planned(name)
    plan, patch = planned("scn", f"refines={name}")
    assert (plan.strides, plan.kernel_sizes, plan.features, patch) == (
        *(alone.strides, alone.kernel_sizes, alone.features),
        alone_patch,
    )
    assert rules_of(plan).feature_multiple == network_rules(name).feature_multiple
    network = built(plan).eval()
    with torch.no_grad():
        outputs = network(torch.randn(2, 1, *patch))
    assert isinstance(outputs, list)
    shapes = [(2, 3, *(n // s for n, s in zip(patch, stride, strict=True))) for stride in plan.output_strides]
    assert [tuple(o.shape) for o in outputs] == shapes
    given = torch.stack(outputs[1:]).mean(dim=0) if plan.supervision == "nested" else outputs[1]
    assert torch.equal(outputs[0], given)


def test_what_was_refined_is_supervised_too() -> None:
    """Full weight on the refined logits, 0.4 on those before it; there the pyramid's weights."""
    plan, patch = planned("scn")
    assert plan.auxiliary_weight == 0.4
    assert scale_weights(3, "nested", 0.4) == (1.0, 0.2, 0.2)
    criterion = build_loss(
        "cross_entropy",
        labels=LABELS,
        batch_dice=False,
        num_scales=len(plan.output_strides),
        auxiliary_weight=plan.auxiliary_weight,
    )
    outputs = [
        torch.randn(2, 3, *(n // s for n, s in zip(patch, stride, strict=True))) for stride in plan.output_strides
    ]
    targets = [torch.randint(0, 3, (2, 1, *o.shape[2:]), dtype=torch.int16) for o in outputs]
    by_hand = [
        torch.nn.functional.cross_entropy(o, t[:, 0].long()).item() for o, t in zip(outputs, targets, strict=True)
    ]
    pyramid = scale_weights(len(outputs) - 1)
    expected = by_hand[0] + 0.4 * sum(w * loss for w, loss in zip(pyramid, by_hand[1:], strict=True))
    assert criterion(outputs, targets).item() == pytest.approx(expected, rel=1e-5)


def test_the_auxiliary_loss_can_be_left_out() -> None:
    plan, patch = planned("scn", "auxiliary_weight=0")
    with_it, _ = planned("scn")
    assert plan.output_strides == with_it.output_strides[1:]
    assert len(built(plan)(torch.randn(2, 1, *patch))) == len(plan.output_strides)


def test_half_of_the_run_leaves_the_other_network_alone() -> None:
    network = built(planned("scn", "train=frozen_then_joint")[0])
    resting = {id(p) for p in network.resting_parameters(0.49)}
    assert resting == {id(p) for p in network.segmenter.parameters()}
    assert not list(network.resting_parameters(0.5))
    assert all(p.requires_grad for p in network.parameters())
    assert not list(built(planned("scn")[0]).resting_parameters(0.0))


def test_weights_of_the_other_network_alone_fit() -> None:
    """``--pretrained`` takes a model that was trained without refinement."""
    torch.manual_seed(1)
    before = build_network(planned("unet")[0], num_channels=1, num_outputs=3)
    network = built(planned("scn")[0])
    report = transfer(
        PretrainedWeights(source="unet", identity="unet", weights=before.state_dict(), labels=LABELS), network, LABELS
    )
    assert {name.partition(".")[0] for name in report.taken} == {"segmenter"}
    assert {name.partition(".")[0] for name in report.random} == {"refinement"}
    assert not report.unused
    for name, tensor in before.state_dict().items():
        assert torch.equal(network.segmenter.state_dict()[name], tensor)


def test_it_refines_another_network_not_itself() -> None:
    with pytest.raises(SettingsError, match="not itself"):
        built(replace(planned("scn")[0], options={"refines": "scn"}))
    with pytest.raises(SettingsError, match="did you mean unet"):
        planned_rules("scn", ["refines=unett"])


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="auxiliary_weight"):
        replace(planned("scn")[0], auxiliary_weight=-1.0)
