"""Strides and kernels: nnU-Net's examples, and laws for any patch."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.planners.topology import SMALLEST_EDGE, network_topology


def compact(stages: tuple[tuple[int, ...], ...]) -> str:
    return "|".join("".join(map(str, stage)) for stage in stages)


@pytest.mark.parametrize(
    ("spacing", "size", "strides", "kernels"),
    [
        ((5.0, 1.5625, 1.5625), (18, 256, 216), "111|122|222|222|122|122", "133|333|333|333|333|333"),
        ((3.6, 0.62, 0.62), (20, 320, 256), "111|122|122|222|222|122|122", "133|133|333|333|333|333|333"),
        ((5.0, 0.6816, 0.6816), (40, 224, 192), "111|122|122|222|222|222", "133|133|333|333|333|333"),
        ((1.0, 1.0, 1.0), (128, 160, 112), "111|222|222|222|222|221", "333|333|333|333|333|333"),
        ((1.0, 1.0, 1.0), (36, 50, 35), "111|222|222|222", "333|333|333|333"),
        ((1.0, 1.0), (64, 64), "11|22|22|22|22", "33|33|33|33|33"),
        ((4.0, 1.0), (64, 64), "11|12|12|22|22|21", "13|13|33|33|33|33"),
    ],
    ids=["prostate", "heart", "colon", "brain", "hippocampus", "isotropic pixels", "oblong pixels"],
)
def test_topologies_of_known_data(
    spacing: tuple[float, ...], size: tuple[int, ...], strides: str, kernels: str
) -> None:
    topology = network_topology(spacing, size)
    assert compact(topology.strides) == strides
    assert compact(topology.kernel_sizes) == kernels


def test_the_patch_is_rounded_up_to_the_divisor() -> None:
    topology = network_topology((1.0, 1.0, 1.0), (36, 50.5, 35))
    assert topology.divisor == (8, 8, 8)
    assert topology.patch_size == (40, 56, 40)


def test_one_axis_alone_needs_twelve_voxels_to_be_halved() -> None:
    assert network_topology((1.0, 1.0), (12, 5)).divisor == (2, 1)
    assert network_topology((1.0, 1.0), (16, 8)).divisor == (2, 2)
    assert network_topology((1.0, 1.0), (24, 8)).divisor == (4, 2)


@pytest.mark.parametrize(
    ("size", "patch"),
    [((6, 6, 6), (6, 6, 6)), ((7, 5, 3), (8, 6, 3)), ((11, 7, 7), (12, 8, 8)), ((4, 4, 4), (4, 4, 4))],
)
def test_patches_too_small_to_be_halved_get_a_second_stage_all_the_same(
    size: tuple[int, ...], patch: tuple[int, ...]
) -> None:
    topology = network_topology((1.0, 1.0, 1.0), size)
    assert topology.is_forced
    assert len(topology.strides) == 2
    assert topology.patch_size == patch


def test_a_patch_of_three_voxels_has_one_stage() -> None:
    topology = network_topology((1.0, 1.0, 1.0), (3, 3, 2))
    assert compact(topology.strides) == "111"
    assert compact(topology.kernel_sizes) == "333"
    assert not topology.is_forced


@given(
    axes=st.integers(2, 3).flatmap(
        lambda ndim: st.tuples(
            st.lists(st.floats(0.2, 12), min_size=ndim, max_size=ndim),
            st.lists(st.integers(1, 700), min_size=ndim, max_size=ndim),
        )
    )
)
def test_laws_of_any_topology(axes: tuple[list[float], list[int]]) -> None:
    spacing, size = axes
    topology = network_topology(spacing, size)
    edge_after = [p // d for p, d in zip(topology.patch_size, topology.divisor, strict=True)]
    smallest = 2 if topology.is_forced else SMALLEST_EDGE
    for n, patch, divisor, edge in zip(size, topology.patch_size, topology.divisor, edge_after, strict=True):
        assert patch % divisor == 0
        assert n <= patch < n + divisor
        assert divisor == 1 or edge >= smallest
    assert topology.strides[0] == (1,) * len(size)
    assert topology.kernel_sizes[-1] == (3,) * len(size)
    assert len(topology.kernel_sizes) == len(topology.strides)
    for earlier, later in zip(topology.kernel_sizes, topology.kernel_sizes[1:], strict=False):
        assert all(a <= b for a, b in zip(earlier, later, strict=True))


@given(spacing=st.lists(st.floats(0.2, 12), min_size=3, max_size=3))
def test_stages_bring_spacings_together(spacing: list[float]) -> None:
    """Only axes of similar spacing are halved together, and none is left long."""
    topology = network_topology(spacing, (512, 512, 512))
    assert max(512 // d for d in topology.divisor) < 3 * SMALLEST_EDGE
    for stage in range(1, len(topology.strides)):
        strides_before = zip(*topology.strides[:stage], strict=True)
        voxel = [s * math.prod(before) for s, before in zip(spacing, strides_before, strict=True)]
        halved = [v for v, stride in zip(voxel, topology.strides[stage], strict=True) if stride == 2]
        assert max(halved) / min(halved) < 2
