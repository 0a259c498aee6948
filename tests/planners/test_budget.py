"""Memory estimate, patch shrinking and batch size."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import PlanError
from autoseg.plan import NetworkPlan
from autoseg.planners.budget import Sizer, feature_map_elements, network_plan, shrink_one_step, starting_patch_size
from autoseg.planners.preset import PlannerPreset, repeat_last
from autoseg.planners.resenc import RESENC_L, RESENC_M, RESENC_XL
from autoseg.planners.topology import network_topology
from autoseg.planners.unet import UNET

PRESETS = (UNET, RESENC_M, RESENC_L, RESENC_XL)


def sizer(preset: PlannerPreset = UNET, *, memory_gb: float | None = None, num_labels: int = 3) -> Sizer:
    return Sizer(preset=preset, memory_gb=memory_gb or preset.memory_gb, num_labels=num_labels)


@pytest.mark.parametrize(
    ("preset", "patch_size", "elements"),
    [
        (UNET, (128, 128, 128), 452_796_416),
        (RESENC_M, (128, 128, 128), 557_420_544),
        (UNET, (512, 512), 82_771_968),
        (RESENC_M, (512, 512), 129_531_904),
    ],
)
def test_the_estimate_of_the_reference_networks(
    preset: PlannerPreset, patch_size: tuple[int, ...], elements: int
) -> None:
    num_stages = 6 if len(patch_size) == 3 else 7  # the reference networks' own depth, not a planned one
    network = network_plan(network_topology((1.0,) * len(patch_size), patch_size), preset)
    shallower = NetworkPlan(
        name=network.name,
        features=network.features[:num_stages],
        strides=network.strides[:num_stages],
        kernel_sizes=network.kernel_sizes[:num_stages],
        encoder_blocks=network.encoder_blocks[:num_stages],
        decoder_blocks=network.decoder_blocks[: num_stages - 1],
    )
    assert feature_map_elements(shallower, patch_size, num_outputs=3) == elements


@pytest.mark.parametrize("preset", [UNET, RESENC_M])
@pytest.mark.parametrize(
    ("spacing", "patch_size"),
    [((1.0, 1.0, 1.0), (16, 24, 16)), ((5.0, 1.0, 1.0), (8, 32, 32)), ((1.0, 1.0), (64, 48)), ((1.0, 1.0), (6, 6))],
)
def test_the_estimate_counts_what_the_network_computes(
    preset: PlannerPreset, spacing: tuple[float, ...], patch_size: tuple[int, ...]
) -> None:
    """Second implementation: run the network and count the outputs of its convolutions."""
    torch = pytest.importorskip("torch")
    from autoseg.networks.factory import build_network

    network = replace(network_plan(network_topology(spacing, patch_size), preset), deep_supervision=False)
    module = build_network(network, num_channels=2, num_outputs=4)
    counts: list[int] = []
    kinds = (torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)
    for part in module.modules():
        if isinstance(part, kinds):
            part.register_forward_hook(lambda _module, _inputs, output: counts.append(output.numel()))
    with torch.no_grad():
        module(torch.zeros(1, 2, *patch_size))
    assert feature_map_elements(network, patch_size, num_outputs=4) == sum(counts)


def test_deeper_networks_than_any_table_repeat_its_last_entry() -> None:
    topology = network_topology((1.0, 1.0), (2**17, 2**17))
    network = network_plan(topology, RESENC_M)
    assert network.num_stages == 16
    assert network.encoder_blocks == (1, 3, 4, *(6,) * 13)
    assert network.decoder_blocks == (1,) * 15
    assert repeat_last((2,), 0) == ()


def test_features_double_up_to_the_limit_of_the_dimension() -> None:
    in_3d = network_plan(network_topology((1.0,) * 3, (256,) * 3), UNET)
    in_2d = network_plan(network_topology((1.0,) * 2, (256,) * 2), UNET)
    assert in_3d.features == (32, 64, 128, 256, 320, 320, 320)
    assert in_2d.features == (32, 64, 128, 256, 512, 512, 512)


@pytest.mark.parametrize(("size", "deep_supervision"), [((3, 3), False), ((8, 8), False), ((16, 16), True)])
def test_deep_supervision_needs_a_coarser_output(size: tuple[int, int], *, deep_supervision: bool) -> None:
    network = network_plan(network_topology((1.0, 1.0), size), UNET)
    assert network.deep_supervision is deep_supervision


def test_the_starting_patch_has_equal_millimeters() -> None:
    assert starting_patch_size((4.0, 1.0, 1.0), (500, 1000, 1000), 256**3) == (102, 406, 406)
    assert starting_patch_size((1.0, 1.0), (300.5, 9000), 2048**2) == (300.5, 2048)
    assert starting_patch_size((1e9, 1.0, 1.0), (5, 400, 400), 256**3)[0] == 1


def test_shrinking_takes_the_axis_that_covers_most_and_the_last_among_equals() -> None:
    spacing = (1.0, 1.0, 1.0)
    start = network_topology(spacing, (128, 128, 128))
    smaller = shrink_one_step(start, spacing, (256, 200, 200), exclude=())
    assert smaller is not None
    assert smaller.patch_size == (128, 128, 112)


def test_shrinking_steps_by_the_divisor_of_the_smaller_patch() -> None:
    """256 is divided by 64, but 224, which is divided by 32, is not skipped."""
    start = network_topology((1.0, 1.0), (256, 256))
    smaller = shrink_one_step(start, (1.0, 1.0), (300, 300), exclude=())
    assert start.divisor == (64, 64)
    assert smaller is not None
    assert smaller.patch_size == (256, 224)


def test_an_axis_of_one_voxel_is_not_shrunk_away() -> None:
    """nnU-Net would take the first axis, which covers most of the case, down to nothing."""
    start = network_topology((10.0, 0.1, 0.1), (1, 320, 320))
    smaller = shrink_one_step(start, (10.0, 0.1, 0.1), (1, 3000, 3000), exclude=())
    assert smaller is not None
    assert smaller.patch_size[0] == 1
    assert math.prod(smaller.patch_size) < math.prod(start.patch_size)


def test_two_very_large_slices_can_be_planned() -> None:
    sizing = sizer().size((10.0, 0.1, 0.1), (2.0, 3000.0, 3000.0), dataset_voxels=1e12)
    assert min(sizing.patch_size) >= 1
    assert sizing.elements * 2 <= sizing.capacity


def test_too_little_memory_is_an_error_that_names_the_option() -> None:
    with pytest.raises(PlanError, match="--gpu-memory"):
        sizer(memory_gb=1e-7).size((1.0, 1.0, 1.0), (64.0, 64.0, 64.0), dataset_voxels=1e9)


@pytest.mark.parametrize(
    ("preset", "dataset_voxels", "batch_size"),
    [(UNET, 1e12, 12), (UNET, 40e6, 8), (UNET, 1e6, 2), (RESENC_M, 2e6, 8)],
    ids=["memory", "a twentieth of the dataset", "never less than two", "the whole dataset"],
)
def test_the_smallest_limit_decides_the_batch(preset: PlannerPreset, dataset_voxels: float, batch_size: int) -> None:
    assert sizer(preset).size((1.0, 1.0), (512.0, 512.0), dataset_voxels=dataset_voxels).batch_size == batch_size


def test_more_memory_never_gives_a_smaller_patch() -> None:
    sizes = [
        math.prod(sizer(memory_gb=gb).size((1.0, 0.8, 0.8), (400.0, 500.0, 500.0), dataset_voxels=1e12).patch_size)
        for gb in (1, 2, 4, 8, 16, 32)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


@settings(max_examples=60, deadline=None)
@given(
    preset=st.sampled_from(PRESETS),
    memory_gb=st.floats(0.5, 40),
    num_labels=st.integers(2, 40),
    axes=st.integers(2, 3).flatmap(
        lambda ndim: st.lists(
            st.tuples(st.floats(0.3, 8), st.integers(2, 1200).map(lambda halves: halves / 2)),
            min_size=ndim,
            max_size=ndim,
        )
    ),
)
def test_laws_of_any_size(
    preset: PlannerPreset, memory_gb: float, num_labels: int, axes: list[tuple[float, float]]
) -> None:
    spacing, shape = [s for s, _ in axes], [n for _, n in axes]
    sizing = sizer(preset, memory_gb=memory_gb, num_labels=num_labels).size(spacing, shape, dataset_voxels=1e9)
    assert sizing.elements * sizing.batch_to_fit <= sizing.capacity
    assert sizing.batch_size == 2 or sizing.elements * (sizing.batch_size - 0.5) <= sizing.capacity * (1 + 1e-9)
    for patch, n, divisor in zip(sizing.patch_size, shape, sizing.network.divisor, strict=True):
        assert patch % divisor == 0
        # Rounding up to the divisor adds less than a third, because at least four voxels are left at the bottom.
        assert patch < n * 4 / 3 + 2
