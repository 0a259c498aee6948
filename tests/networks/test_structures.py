"""Networks of the planner's own blocks: published sizes, a second implementation, and the laws of their parts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autoseg.errors import SettingsError
from autoseg.networks.attention import GridGate, PositionAttention, SameGate
from autoseg.networks.blocks import BlockStyle
from autoseg.networks.catalog import network_rules
from autoseg.networks.factory import build_network
from autoseg.networks.scn import SpatialConfiguration
from autoseg.networks.spine_hybrid import HierarchicalLink, ResidualBlock3D, UpBlock
from autoseg.networks.unet_plus_plus import UNetPlusPlus
from autoseg.plan import NetworkPlan
from autoseg.planners.network_planning import plan_network, topology_for


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def stages_of_two(name: str, ndim: int, features: tuple[int, ...], *, convs: int = 2) -> NetworkPlan:
    """Every stage halves every axis."""
    stages = len(features)
    return NetworkPlan(
        name=name,
        features=features,
        strides=((1,) * ndim, *((2,) * ndim,) * (stages - 1)),
        kernel_sizes=((3,) * ndim,) * stages,
        encoder_blocks=(convs,) * stages,
        decoder_blocks=(convs,) * (stages - 1),
    )


def build(plan: NetworkPlan, *, num_channels: int = 1, num_outputs: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return build_network(plan, num_channels=num_channels, num_outputs=num_outputs)


def moved(network: nn.Module) -> nn.Module:
    """Every parameter away from the value at which it might do nothing."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def test_baseline_2_has_its_published_size() -> None:
    """Generic_UNet of the M&Ms-2 winner's repository: six halvings, 32 to 480 features, batch normalization."""
    plan = replace(
        stages_of_two("unet", 2, tuple(min(480, 32 * 2**i) for i in range(7))),
        norm="batch",
        options={"upsampling_bias": False, "head_bias": False},
    )
    network = build(plan, num_outputs=4)
    assert count(network) == 29_968_992
    outputs = network(torch.zeros(2, 1, 256, 256))
    assert [o.shape[-1] for o in outputs] == [256, 128, 64, 32, 16, 8]


@pytest.mark.parametrize(("ndim", "size"), [(3, 6_979_976), (2, 2_410_312)])
def test_nested_network_has_the_published_size(ndim: int, size: int) -> None:
    plan = replace(stages_of_two("unet_plus_plus", ndim, (32, 32, 64, 128, 256)), supervision="nested")
    assert count(build(plan)) == size


def test_refinement_has_the_published_size() -> None:
    assert count(SpatialConfiguration(4, (2, 4, 4))) == 165_992


def test_the_cardiac_baseline_is_monais_network_of_its_published_size() -> None:
    nets = pytest.importorskip("monai.networks.nets")
    rules = network_rules("cardiac_unet")
    topology = topology_for(rules, (1.0, 1.0, 1.0), (32, 32, 32))
    plan = plan_network("cardiac_unet", rules, topology)
    assert plan.features == (64, 128, 256, 256)
    torch.manual_seed(0)
    ours = build_network(plan, num_channels=1, num_outputs=4)
    assert count(ours) == 5_105_476
    theirs = nets.UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=4,
        channels=(64, 128, 256, 256),
        strides=(2, 2, 2),
        num_res_units=0,
        norm="BATCH",
        act="RELU",
    )
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        with torch.no_grad():
            other.copy_(own + 0.05 * torch.randn_like(own))
            own.copy_(other)
    images = torch.randn(2, 1, 16, 24, 16)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ndim", [2, 3])
def test_nested_network_equals_monais(ndim: int) -> None:
    nets = pytest.importorskip("monai.networks.nets")
    features = (4, 4, 8, 16, 32)
    plan = replace(
        stages_of_two("unet_plus_plus", ndim, features), supervision="nested", options={"downsampling": "max"}
    )
    ours = moved(build(plan)).eval()
    theirs = nets.BasicUNetPlusPlus(
        spatial_dims=ndim,
        features=(*features, features[0]),
        deep_supervision=True,
        act=("LeakyReLU", {"negative_slope": 0.01, "inplace": True}),
    ).eval()
    own = ours.state_dict()
    weights: dict[str, Tensor] = {}
    for name, tensor in theirs.state_dict().items():
        part, _, rest = name.partition(".")
        if part.startswith("final_conv_0_"):
            weights[name] = own[f"heads.{part[-1]}.{rest.removeprefix('conv.')}"]
            continue
        i, j = part.removeprefix("upcat_").removeprefix("conv_").split("_")
        if rest.startswith("upsample.deconv"):
            weights[name] = own[f"upsamplings.{i}_{j}.{rest.rpartition('.')[2]}"]
            continue
        number, kind = rest.split("conv_")[1][0], ("conv" if ".conv." in rest else "norm")
        inner = "1." if j == "0" and i != "0" else ""  # after the pooling
        weights[name] = own[f"nodes.{i}_{j}.{inner}convs.{number}.{kind}.{rest.rpartition('.')[2]}"]
        assert weights[name].shape == tensor.shape
    theirs.load_state_dict(weights)
    images = torch.randn(2, 1, *(32,) * ndim)
    with torch.no_grad():
        for found, expected in zip(ours(images)[::-1], theirs(images), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_pruned_network_answers_the_same_with_fewer_parameters() -> None:
    plan = replace(stages_of_two("unet_plus_plus", 2, (4, 8, 16, 32)), supervision="nested")
    network = moved(build(plan)).eval()
    assert isinstance(network, UNetPlusPlus)
    images, before = torch.randn(2, 1, 32, 32), count(network)
    with torch.no_grad():
        columns = network(images)[::-1]
        network.deep_supervision = False
        torch.testing.assert_close(network(images), torch.stack(columns).mean(dim=0))
        for column in (2, 1):
            network.prune(column)
            assert torch.equal(network(images), columns[column - 1])
            assert count(network) < before
            before = count(network)
        with pytest.raises(ValueError, match="columns are 1 to 1"):
            network.prune(3)


def test_the_plan_chooses_the_column_that_predicts() -> None:
    plan = replace(stages_of_two("unet_plus_plus", 2, (4, 8, 16)), supervision="nested", options={"column": 1})
    network = build(plan).eval()
    images = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        columns = network(images)
        network.deep_supervision = False
        assert torch.equal(network(images), columns[-1])


@pytest.mark.parametrize("ndim", [2, 3])
def test_same_gate_equals_monais(ndim: int) -> None:
    blocks = pytest.importorskip("monai.networks.nets.attentionunet")
    ours = moved(SameGate(8, ndim, BlockStyle(norm="batch"))).eval()
    theirs = blocks.AttentionBlock(spatial_dims=ndim, f_int=4, f_g=8, f_l=8, dropout=0.0).eval()
    parts = {"W_g": ours.of_upsampled, "W_x": ours.of_skip, "psi": ours.join}
    for name, part in parts.items():
        sequence = getattr(theirs, name)
        sequence[0].conv.load_state_dict(part[0].state_dict())
        sequence[1].load_state_dict(part[1].state_dict())
    skip, upsampled = torch.randn(2, 2, 8, *(6,) * ndim)
    with torch.no_grad():
        torch.testing.assert_close(ours(skip, upsampled, upsampled), theirs(upsampled, skip), rtol=0, atol=1e-6)


def test_grid_gate_weighs_by_the_coarser_features() -> None:
    """Written out with loops for one voxel of the coarser grid and its four of the skip."""
    gate = GridGate(2, 4, (1, 2), BlockStyle(norm="batch")).eval()
    gate.out = nn.Sequential(nn.Identity())
    skip, coarser = torch.randn(1, 2, 3, 2), torch.randn(1, 4, 3, 1)
    with torch.no_grad():
        found = gate(skip, coarser, skip)
        for row in range(3):
            hidden = torch.relu(
                torch.einsum("hck,ck->h", gate.of_skip.weight[:, :, 0], skip[0, :, row])
                + gate.of_coarser.weight[:, :, 0, 0] @ coarser[0, :, row, 0]
                + gate.of_coarser.bias
            )
            attention = torch.sigmoid(gate.join.weight[0, :, 0, 0] @ hidden + gate.join.bias)
            torch.testing.assert_close(found[0, :, row], attention * skip[0, :, row])


@pytest.mark.parametrize(("gate", "gated"), [("grid", 2), ("same", 3), ("none", 0)])
def test_attention_maps_can_be_looked_at(gate: str, gated: int) -> None:
    plan = replace(stages_of_two("unet", 3, (4, 8, 8, 8), convs=1), skip_gate=gate)  # type: ignore[arg-type]
    _, taps = build_network(plan, num_channels=1, num_outputs=2).forward_features(torch.randn(1, 1, 16, 16, 16))
    maps = [features for name, features in taps.items() if name.startswith("attention")]
    assert len(maps) == gated  # the grid variant leaves the full resolution without a gate
    assert all(m.shape[1] == 1 and m.min() >= 0 and m.max() <= 1 for m in maps)


@pytest.mark.parametrize("ndim", [2, 3])
def test_position_attention_is_its_formula(ndim: int) -> None:
    layer = PositionAttention(16, ndim)
    x = torch.randn(2, 16, *(4,) * ndim)
    assert torch.equal(layer(x), x)  # it begins as nothing
    layer.gamma.data.fill_(0.7)
    query, key, value = (part(x).flatten(2) for part in (layer.query, layer.key, layer.value))
    weights = torch.softmax(query.transpose(1, 2) @ key, dim=-1)
    expected = x + 0.7 * (value @ weights.transpose(1, 2)).reshape(x.shape)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_position_attention_of_many_positions_pools() -> None:
    layer = PositionAttention(8, 2)
    layer.gamma.data.fill_(1.0)
    assert layer(torch.randn(1, 8, 65, 64)).shape == (1, 8, 65, 64)


def test_ablations_of_maunet_differ_by_what_they_leave_out() -> None:
    plan = replace(stages_of_two("maunet", 3, (8, 16, 32, 64), convs=1), skip_gate="grid")
    sizes = {
        (gate, attends): count(build(replace(plan, skip_gate=gate, options={"position_attention": attends})))  # type: ignore[arg-type]
        for gate in ("grid", "none")
        for attends in (True, False)
    }
    of_attention = count(PositionAttention(64, 3))
    assert sizes["grid", True] - sizes["grid", False] == of_attention
    assert sizes["none", True] - sizes["none", False] == of_attention
    gates = sum(count(GridGate(f, 2 * f, (2, 2, 2), BlockStyle())) for f in (16, 32))
    assert sizes["grid", True] - sizes["none", True] == gates


def test_untrained_attention_changes_nothing() -> None:
    plan = stages_of_two("maunet", 2, (8, 16, 16), convs=1)
    with_it = build(plan).eval()
    without = build(replace(plan, options={"position_attention": False})).eval()
    names = set(without.state_dict())
    without.load_state_dict({k: v for k, v in with_it.state_dict().items() if k in names})
    images = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(with_it(images)[0], without(images)[0])


def test_refinement_begins_as_nothing_and_may_leave_the_segmenter_alone() -> None:
    plan = replace(stages_of_two("scn", 3, (4, 8, 8), convs=1), options={"refines": "resenc", "train": "frozen"})
    network = build(plan, num_outputs=3)
    images = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        assert torch.equal(network(images)[0], network.segmenter(images)[0])
    learning = {name.partition(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert learning == {"refinement"}
    assert type(network.segmenter).__name__ == "ResidualEncoderUNet"
    with pytest.raises(SettingsError, match="not itself"):
        build(replace(plan, options={"refines": "scn"}))


@pytest.mark.parametrize("downsampling", [(2, 4, 4), (1, 3), (4, 4, 4)])
def test_refinement_keeps_any_shape(downsampling: tuple[int, ...]) -> None:
    logits = torch.randn(1, 3, *(7, 13, 10)[: len(downsampling)])
    refined = moved(SpatialConfiguration(3, downsampling))(logits)
    assert refined.shape == logits.shape
    assert not torch.equal(refined, logits)


def spine(**options: bool | int | float | str) -> nn.Module:
    plan = NetworkPlan(
        name="spine_hybrid",
        features=(4, 4, 4, 4, 4, 4),
        strides=((1, 1, 1), *((1, 2, 2),) * 5),
        kernel_sizes=((1, 3, 3),) * 6,
        encoder_blocks=(1,) * 6,
        decoder_blocks=(1,) * 5,
        deep_supervision=False,
        options=options,
    )
    return build(plan)


@pytest.mark.parametrize(
    ("options", "reaches"),
    [
        ({"link": "none", "slice_convolutions": False}, False),
        ({"link": "none"}, True),
        ({"link": "hanc", "slice_convolutions": False}, True),
        ({"link": "res"}, True),
    ],
)
def test_slices_meet_only_in_links_and_slice_convolutions(options: dict[str, bool | str], *, reaches: bool) -> None:
    """A link reaches three slices. Group normalization looks at all of them, so it is taken out."""
    network = spine(**options).eval()
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.GroupNorm):
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, nn.Identity())
    images = torch.randn(1, 1, 9, 32, 32)
    other = images.clone()
    other[:, :, 4] += 1
    with torch.no_grad():
        change = (network(images) - network(other)).abs().amax(dim=(0, 1, 3, 4))
    assert change[4] > 0
    assert bool(change[7] > 0) is reaches


def test_blocks_keep_their_scale() -> None:
    """A sum of two independent signals is divided by the root of two."""
    x = torch.randn(1, 4, 3, 8, 8)
    down, up, link = ResidualBlock3D(4, 6, (1, 2, 2), 3), UpBlock(4, 6), HierarchicalLink(4, 2)
    assert down(x).shape == (1, 6, 3, 4, 4)
    assert up(x).shape == (1, 6, 3, 16, 16)
    torch.testing.assert_close(down(x), (down.convs(x) + down.shortcut(x)) / 2**0.5)
    torch.testing.assert_close(up(x), (up.convs(x) + up.shortcut(x)) / 2**0.5)
    link.join.weight.data.zero_()
    link.join.bias.data.zero_()
    torch.testing.assert_close(link(x), x / 2**0.5)


def test_a_link_sees_three_slices_to_both_sides() -> None:
    link = moved(HierarchicalLink(2, 1)).eval()
    x = torch.zeros(1, 2, 11, 5, 5)
    other = x.clone()
    other[:, :, 5, 2, 2] = 1
    with torch.no_grad():
        changed = (link(x) - link(other)).abs().amax(dim=(0, 1, 3, 4)) > 0
    assert changed.nonzero().flatten().tolist() == [2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("name", ["unet", "resenc"])
@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("norm", "batch", nn.BatchNorm3d),
        ("norm", "group", nn.GroupNorm),
        ("norm", "layer", nn.GroupNorm),
        ("activation", "gelu", nn.GELU),
        ("activation", "silu", nn.SiLU),
        ("dropout", 0.2, nn.Dropout3d),
    ],
)
def test_options_change_what_blocks_are_made_of(name: str, field: str, value: object, kind: type) -> None:
    plan = replace(stages_of_two(name, 3, (8, 16), convs=1), **{field: value})  # type: ignore[arg-type]
    network = build(plan)
    assert any(isinstance(module, kind) for module in network.modules())
    assert not any(isinstance(m, nn.InstanceNorm3d) for m in network.modules()) or field != "norm"
    groups = {m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)}
    assert groups == {"group": {8}, "layer": {1}}.get(str(value), set())
    assert network(torch.randn(2, 1, 8, 8, 8))[0].shape == (2, 2, 8, 8, 8)


@pytest.mark.parametrize("name", ["unet", "resenc"])
def test_squeeze_and_excitation_adds_its_parameters_and_heeds_the_image(name: str) -> None:
    plan = stages_of_two(name, 2, (16, 32), convs=1)
    plain, squeezed = build(plan), build(replace(plan, squeeze_excitation=True))
    # Hidden units are a sixteenth: (16 x 1 + 1) + (1 x 16 + 16) at 16 features, twice two hidden units at 32.
    of_16, of_32 = 17 + 32, 2 * 32 + 2 + 2 * 32 + 32
    assert count(squeezed) - count(plain) == 2 * of_16 + of_32
