"""Stages and patches that the rules of published networks give, on any spacing and size."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import PlanError
from autoseg.networks.catalog import network_rules
from autoseg.networks.rules import large_kernel_stages
from autoseg.planners.network_planning import plan_network, require_thick_enough, topology_for

LITERATURE = ("unetcnx", "uxnet", "acc_unet", "scnas", "swin_unetr", "mednext")
DIVISORS = {"unetcnx": 32, "uxnet": 16, "acc_unet": 16, "scnas": 8, "swin_unetr": 32, "mednext": 16}

spacings = st.lists(st.floats(0.3, 8.0), min_size=2, max_size=3)


@settings(max_examples=40, deadline=None)
@given(spacing=spacings, edges=st.lists(st.integers(4, 200), min_size=3, max_size=3))
@pytest.mark.parametrize("name", LITERATURE)
def test_patches_are_legal(name: str, spacing: list[float], edges: list[int]) -> None:
    rules, size = network_rules(name), edges[: len(spacing)]
    topology = topology_for(rules, spacing, size)
    plan = plan_network(name, rules, topology)
    assert all(patch >= n for patch, n in zip(topology.patch_size, size, strict=True))
    assert all(
        patch % d == 0 and DIVISORS[name] % d == 0 for patch, d in zip(topology.patch_size, plan.divisor, strict=True)
    )
    assert plan.strides[0] == (1,) * len(size)
    assert all(max(stride) > 1 for stride in plan.strides[1:])
    # Instance norms need more than one voxel at the bottom.
    assert math.prod(n // d for n, d in zip(topology.patch_size, plan.divisor, strict=True)) > 1
    if not rules.is_anisotropic:
        assert set(plan.divisor) == {DIVISORS[name]}
        assert max(topology.patch_size) >= 2 * DIVISORS[name]


@given(spacing=spacings, edges=st.lists(st.integers(16, 200), min_size=3, max_size=3))
def test_large_kernels_reach_equally_far_in_millimeters(spacing: list[float], edges: list[int]) -> None:
    stages = large_kernel_stages(1, 2, 2, 2)(spacing, edges[: len(spacing)])
    now = list(spacing)
    for stride, kernel in zip(stages.strides[1:], stages.kernel_sizes[1:], strict=True):
        now = [s * f for s, f in zip(now, stride, strict=True)]
        reach = 7 * min(now)
        for voxels, edge in zip(kernel, now, strict=True):
            assert voxels in (1, 3, 5, 7)
            assert voxels == 1 or voxels * edge <= reach * 1.000001
            assert voxels == 7 or (voxels + 2) * edge > reach * 0.999999


def test_published_strides_on_equal_voxels() -> None:
    found = {name: topology_for(network_rules(name), (1.0,) * 3, (96,) * 3).strides for name in LITERATURE}
    assert [s[0] for s in found["unetcnx"]] == [1, 4, 2, 2, 2]
    assert [s[0] for s in found["uxnet"]] == [1, 2, 2, 2, 2]
    assert [s[0] for s in found["acc_unet"]] == [1, 2, 2, 2, 2]
    assert [s[0] for s in found["scnas"]] == [1, 2, 2, 2]
    assert [s[0] for s in found["swin_unetr"]] == [1, 2, 2, 2, 2, 2]
    assert [s[0] for s in found["mednext"]] == [1, 2, 2, 2, 2]


def test_thick_slices_are_not_strided_before_the_others_are_as_thick() -> None:
    topology = topology_for(network_rules("unetcnx"), (8.0, 1.0, 1.0), (12, 128, 128))
    assert topology.strides[1] == (1, 4, 4)
    assert topology.kernel_sizes[0] == (1, 3, 3)
    uxnet = topology_for(network_rules("uxnet"), (8.0, 1.0, 1.0), (12, 128, 128))
    assert uxnet.kernel_sizes[1] == (1, 7, 7)
    assert uxnet.patch_size[0] == 12


@pytest.mark.parametrize(("name", "thinnest"), [("swin_unetr", 16), ("mednext", 8)])
def test_volumes_too_thin_for_networks_that_halve_every_axis_are_refused(name: str, thinnest: int) -> None:
    rules = network_rules(name)
    require_thick_enough(name, rules, (thinnest, 200, 200))
    with pytest.raises(PlanError, match=f"{name} needs at least {thinnest} voxels .* Use its 2d configuration"):
        require_thick_enough(name, rules, (thinnest - 1, 200, 200))


def test_narrower_networks_keep_the_ratios_of_their_stages() -> None:
    features = network_rules("swin_unetr").features(6, 3, width=0.5)
    assert features == (24, 24, 48, 96, 192, 384)
    assert network_rules("swin_unetr").features(6, 3, width=0.01) == (12, 12, 24, 48, 96, 192)
    assert network_rules("unetcnx").features(3, 2, width=0.25) == (12, 12, 24)
