"""Laws of the blocks that the networks of the literature are made of."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from autoseg.networks.acc_unet import reaches
from autoseg.networks.convnext import ConvNextBlock, DropPath, GlobalResponseNorm, UxBlock
from autoseg.networks.hanc import PUBLISHED_STYLE, HancBlock, NeighborhoodContext
from autoseg.networks.scnas import DECODER_NORMAL, ENCODER_NORMAL, EXPANSION, REDUCTION, Cell, LocalMean


def test_plane_kernels_see_their_slice_alone() -> None:
    """Plane kernels see nothing of other slices before the strides join them."""
    block = UxBlock(4, kernel_size=(1, 7, 7), initial_scale=1.0)
    x = torch.zeros(1, 4, 5, 9, 9)
    x[:, :, 2, 4, 4] = torch.arange(1.0, 5.0)
    changed = (block(x) - block(torch.zeros_like(x))).abs().amax(dim=(0, 1))
    assert changed[2].count_nonzero() == 49
    assert changed[[0, 1, 3, 4]].max() == 0


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_ux_block_without_scale_is_the_identity(ndim: int) -> None:
    x = torch.randn(2, 6, *(5,) * ndim)
    assert torch.equal(UxBlock(6, kernel_size=(7,) * ndim, initial_scale=0.0)(x), x)
    assert not torch.allclose(UxBlock(6, kernel_size=(7,) * ndim, initial_scale=1.0)(x), x, atol=1e-2)


def test_a_ux_block_never_mixes_channels() -> None:
    block = UxBlock(4, kernel_size=(3, 3, 3), initial_scale=1.0)
    block.norm = nn.Identity()  # the only place where channels meet
    x, y = torch.randn(2, 1, 4, 5, 5, 5)
    y[:, 1:] = x[:, 1:]
    assert torch.equal(block(x)[:, 1:], block(y)[:, 1:])


def test_global_response_norm_begins_as_the_identity() -> None:
    norm, x = GlobalResponseNorm(5), torch.randn(2, 4, 3, 5)
    assert torch.equal(norm(x), x)
    nn.init.constant_(norm.weight, 2.0)
    nn.init.constant_(norm.bias, 0.5)
    response = x.square().sum(dim=(1, 2)).sqrt()  # (2, 5)
    share = response / response.mean(dim=1, keepdim=True)
    torch.testing.assert_close(norm(x), 2 * x * share[:, None, None] + 0.5 + x, rtol=1e-4, atol=1e-4)


def test_drop_path_keeps_the_mean_and_sleeps_in_prediction() -> None:
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 1, 2)
    kept = drop(x)
    assert kept.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert kept.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(drop.eval()(x), x)
    block = ConvNextBlock(3, kernel_size=(3, 3), drop_path=0.999999)
    image = torch.randn(2, 3, 6, 6)
    assert torch.equal(block(image), image)


def influence(module: nn.Module, num_features: int, ndim: int = 2, size: int = 33) -> int:
    """How many voxels away from the middle an output of the middle still depends on."""
    module.eval()
    x = torch.rand(1, num_features, *(size,) * ndim, requires_grad=True)
    middle = module(x)[(0, slice(None)) + (size // 2,) * ndim]
    (gradient,) = torch.autograd.grad(middle.sum(), x)
    seen = gradient.abs().sum(dim=(0, 1)).nonzero() - size // 2
    return int(seen.abs().max())


def without_squeezing(block: HancBlock) -> HancBlock:
    block.reweigh = nn.Identity()  # sees the whole image by design
    return block


@pytest.mark.parametrize(("ndim", "size"), [(2, 33), (3, 17)])
def test_hanc_looks_further_with_every_level(ndim: int, size: int) -> None:
    reach = []
    for levels in (1, 2, 3):
        torch.manual_seed(0)
        block = without_squeezing(HancBlock(2, 2, kernel_size=(3,) * ndim, reach=levels, expansion=4))
        reach.append(influence(block, 2, ndim, size))
    assert reach[0] == 1  # the depth-wise kernel alone
    assert reach[0] < reach[1] < reach[2]
    # A voxel, the block of four that holds it, and the kernel around its farthest corner.
    assert reach[2] <= 3 + 1


def test_hanc_does_not_pool_across_thick_slices() -> None:
    block = without_squeezing(HancBlock(2, 2, kernel_size=(1, 3, 3), reach=3))
    block.eval()
    x = torch.rand(1, 2, 6, 9, 9, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(x)[:, :, 2].sum(), x)
    assert gradient[:, :, 2].abs().max() > 0
    assert gradient[:, :, [0, 1, 3, 4, 5]].abs().max() == 0


def test_context_is_means_and_maxima_of_blocks() -> None:
    context = NeighborhoodContext(1, 1, reach=2, pooled=(True, True), style=PUBLISHED_STYLE)
    context.mix = nn.Identity()
    found = context(torch.tensor([[[[1.0, 2.0, 3.0], [5.0, 4.0, 7.0], [0.0, 2.0, 9.0]]]]))
    assert found.shape == (1, 3, 3, 3)
    assert found[0, 1].tolist() == [[3.0, 3.0, 5.0], [3.0, 3.0, 5.0], [1.0, 1.0, 9.0]]
    assert found[0, 2].tolist() == [[5.0, 5.0, 7.0], [5.0, 5.0, 7.0], [2.0, 2.0, 9.0]]


def test_a_hanc_block_of_reach_one_is_an_inverted_bottleneck() -> None:
    block = HancBlock(4, 6, kernel_size=(3, 3), reach=1)
    assert block.context.mix.conv.weight.shape == (4, 12, 1, 1)
    assert reaches(5, 3) == (3, 3, 3, 2, 1)
    assert reaches(5, 1) == (1,) * 5


@pytest.mark.parametrize(
    ("cell", "edges", "operations"),
    [
        (
            REDUCTION,
            (2, 2, 2, 2),
            {"factorized_reduce": 2, "conv_dilated_2": 1, "average": 2, "identity": 1, "conv": 2},
        ),
        (ENCODER_NORMAL, (2, 2, 2, 1), {"conv": 2, "conv_dilated_2": 1, "average": 1, "identity": 3}),
        (
            EXPANSION,
            (2, 2, 2, 2),
            {"conv": 1, "conv_dilated_3": 1, "identity": 4, "conv_dilated_2": 1, "average": 1},
        ),
        (DECODER_NORMAL, (1, 2, 2, 2), {"conv_dilated_2": 2, "identity": 4, "average": 1}),
    ],
    ids=["reduction", "encoder-normal", "expansion", "decoder-normal"],
)
def test_cells_have_the_published_edges(cell: Cell, edges: tuple[int, ...], operations: dict[str, int]) -> None:
    per_node = Counter(edge.node for edge in cell)
    assert tuple(per_node[node] for node in ("n0", "n1", "n2", "n3")) == edges
    assert Counter(edge.operation for edge in cell) == operations
    for edge in cell:  # no node reads one that is not there yet
        assert edge.source in ("s0", "s1") or edge.source < edge.node
    assert all(edge.is_strided == (cell is REDUCTION and edge.source in ("s0", "s1")) for edge in cell)


def test_the_local_mean_leaves_padding_out() -> None:
    image = torch.arange(6.0).reshape(1, 1, 2, 3)
    means = LocalMean((3, 3))(image)
    torch.testing.assert_close(means[0, 0, 0], torch.tensor([2.0, 2.5, 3.0]))
    torch.testing.assert_close(LocalMean((1, 1))(image), image)
