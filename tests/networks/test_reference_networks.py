"""Equality with the library that nnU-Net takes its networks from, where it is installed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoseg.networks.factory import build_network
from autoseg.plan import NetworkPlan


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", ["unet", "resenc"])
def test_weights_move_over_and_outputs_stay(name: str, ndim: int) -> None:
    library = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    plan = NetworkPlan(
        name=name,
        features=(8, 16, 24, 24),
        strides=((1,) * ndim, (1, *(2,) * (ndim - 1)), (2,) * ndim, (2,) * ndim),
        kernel_sizes=((1, *(3,) * (ndim - 1)), *((3,) * ndim,) * 3),
        encoder_blocks=(2, 2, 2, 2) if name == "unet" else (1, 3, 2, 2),
        decoder_blocks=(2, 1, 2),
    )
    kind = library.PlainConvUNet if name == "unet" else library.ResidualEncoderUNet
    blocks_key = "n_conv_per_stage" if name == "unet" else "n_blocks_per_stage"
    theirs = kind(
        input_channels=2,
        n_stages=4,
        features_per_stage=plan.features,
        conv_op=nn.Conv2d if ndim == 2 else nn.Conv3d,
        kernel_sizes=plan.kernel_sizes,
        strides=plan.strides,
        num_classes=3,
        n_conv_per_stage_decoder=plan.decoder_blocks,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d if ndim == 2 else nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
        **{blocks_key: plan.encoder_blocks},
    )
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    weights = {
        key: value
        for key, value in theirs.state_dict().items()
        if "all_modules" not in key and not key.startswith("decoder.encoder")
    }
    ours = build_network(plan, num_channels=2, num_outputs=3)
    assert list(ours.state_dict()) == list(weights)
    # The optimizer's state goes by this order.
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    ours.load_state_dict(weights)
    x = torch.randn(2, 2, *(16, 32, 32)[:ndim])
    with torch.no_grad():
        for a, b in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
