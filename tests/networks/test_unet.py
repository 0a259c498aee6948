from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from autoseg.errors import SettingsError
from autoseg.networks.factory import build_network
from autoseg.plan import NetworkPlan

PLAIN_3D = NetworkPlan(
    name="unet",
    features=(4, 6, 8),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    encoder_blocks=(2, 1, 2),
    decoder_blocks=(1, 2),
)
RESIDUAL_3D = NetworkPlan(
    name="resenc",
    features=(4, 6, 6),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    encoder_blocks=(1, 3, 2),
    decoder_blocks=(1, 2),
)
PLAIN_2D = NetworkPlan(
    name="unet",
    features=(4, 6, 8),
    strides=((1, 1), (2, 2), (2, 1)),
    kernel_sizes=((3, 3),) * 3,
    encoder_blocks=(2, 2, 2),
    decoder_blocks=(2, 2),
)
RESIDUAL_2D = NetworkPlan(
    name="resenc",
    features=(4, 6, 8),
    strides=((1, 1), (2, 2), (2, 1)),
    kernel_sizes=((3, 3),) * 3,
    encoder_blocks=(1, 2, 2),
    decoder_blocks=(1, 1),
)
PLANS = (PLAIN_3D, RESIDUAL_3D, PLAIN_2D, RESIDUAL_2D)


def six_stages(name: str, encoder_blocks: tuple[int, ...], decoder_blocks: tuple[int, ...]) -> NetworkPlan:
    """nnU-Net's network for a patch of 128 voxels along every axis."""
    return NetworkPlan(
        name=name,
        features=(32, 64, 128, 256, 320, 320),
        strides=((1, 1, 1), *((2, 2, 2),) * 5),
        kernel_sizes=((3, 3, 3),) * 6,
        encoder_blocks=encoder_blocks,
        decoder_blocks=decoder_blocks,
    )


def disturbed(plan: NetworkPlan) -> torch.nn.Module:
    """Network none of whose parameters is zero or one, so that each of them matters."""
    torch.manual_seed(0)
    network = build_network(plan, num_channels=2, num_outputs=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def test_parameter_names_of_the_plain_unet() -> None:
    names = list(build_network(PLAIN_2D, num_channels=1, num_outputs=2).state_dict())
    block = ("conv.weight", "conv.bias", "norm.weight", "norm.bias")
    expected = [f"encoder.stages.{s}.0.convs.{c}.{name}" for s in range(3) for c in range(2) for name in block]
    expected += [f"decoder.stages.{s}.convs.{c}.{name}" for s in range(2) for c in range(2) for name in block]
    expected += [
        f"decoder.{part}.{s}.{n}"
        for part in ("transpconvs", "seg_layers")
        for s in range(2)
        for n in ("weight", "bias")
    ]
    assert names == expected


def test_parameter_names_of_the_residual_unet() -> None:
    names = list(build_network(RESIDUAL_3D, num_channels=1, num_outputs=2).state_dict())
    block = ("conv.weight", "conv.bias", "norm.weight", "norm.bias")
    expected = [f"encoder.stem.convs.0.{name}" for name in block]
    for stage, num_blocks in enumerate((1, 3, 2)):
        for index in range(num_blocks):
            expected += [f"encoder.stages.{stage}.blocks.{index}.conv{c}.{name}" for c in (1, 2) for name in block]
            if stage == 1 and index == 0:  # the only change of features; averaging comes first, without parameters
                expected += [
                    f"encoder.stages.1.blocks.0.skip.1.{n}" for n in ("conv.weight", "norm.weight", "norm.bias")
                ]
    expected += [
        f"decoder.stages.{s}.convs.{c}.{name}" for s, n in enumerate((1, 2)) for c in range(n) for name in block
    ]
    expected += [
        f"decoder.{part}.{s}.{n}"
        for part in ("transpconvs", "seg_layers")
        for s in range(2)
        for n in ("weight", "bias")
    ]
    assert names == expected


def test_a_projection_without_stride_comes_first_in_the_shortcut() -> None:
    plan = NetworkPlan(
        name="resenc",
        features=(4, 8),
        strides=((1, 1), (1, 1)),
        kernel_sizes=((3, 3), (3, 3)),
        encoder_blocks=(1, 1),
        decoder_blocks=(1,),
    )
    names = build_network(plan, num_channels=1, num_outputs=2).state_dict()
    assert "encoder.stages.1.blocks.0.skip.0.conv.weight" in names


def test_tensor_counts_of_six_stages() -> None:
    # nnU-Net's checkpoints hold each encoder tensor four times and each decoder convolution twice: 292 and 956 keys.
    plain = build_network(six_stages("unet", (2,) * 6, (2,) * 5), num_channels=1, num_outputs=3).state_dict()
    residual = build_network(
        six_stages("resenc", (1, 3, 4, 6, 6, 6), (1,) * 5), num_channels=1, num_outputs=3
    ).state_dict()
    for state, num_tensors, num_keys in ((plain, 108, 292), (residual, 264, 956)):
        assert len(state) == num_tensors
        encoder = sum(name.startswith("encoder") for name in state)
        convolutions = sum(name.startswith("decoder.stages") for name in state)
        assert 4 * encoder + 2 * convolutions + (len(state) - encoder - convolutions) == num_keys


def block_size(inputs: int, features: int, voxels: int) -> int:
    """Numbers in a convolution with bias and its normalization."""
    return inputs * features * voxels + 3 * features


def test_parameter_count_of_the_plain_unet() -> None:
    plan = six_stages("unet", (2,) * 6, (2,) * 5)
    f = (1, *plan.features)
    expected = sum(block_size(a, b, 27) + block_size(b, b, 27) for a, b in itertools.pairwise(f))
    for below, skip in zip(f[:1:-1], f[-2:0:-1], strict=True):
        expected += below * skip * 8 + skip + block_size(2 * skip, skip, 27) + block_size(skip, skip, 27)
        expected += 3 * skip + 3
    found = sum(p.numel() for p in build_network(plan, num_channels=1, num_outputs=3).parameters())
    assert found == expected
    assert found == pytest.approx(31.2e6, rel=0.01)  # the figure that is usually quoted for nnU-Net


def test_parameter_count_of_the_residual_unet() -> None:
    plan = six_stages("resenc", (1, 3, 4, 6, 6, 6), (1,) * 5)
    f = (32, *plan.features)
    expected = block_size(1, 32, 27)
    for before, features, num_blocks in zip(f[:-1], f[1:], plan.encoder_blocks, strict=True):
        expected += block_size(before, features, 27) + (2 * num_blocks - 1) * block_size(features, features, 27)
        expected += (before * features + 2 * features) * (before != features)
    for below, skip in zip(f[:1:-1], f[-2:0:-1], strict=True):
        expected += below * skip * 8 + skip + block_size(2 * skip, skip, 27) + 3 * skip + 3
    found = sum(p.numel() for p in build_network(plan, num_channels=1, num_outputs=3).parameters())
    assert found == expected
    assert found == pytest.approx(102.4e6, rel=0.01)  # as published for the L preset


def convolve(state: dict[str, Tensor], name: str, x: Tensor, stride: Any = 1, *, activate: bool = True) -> Tensor:  # noqa: ANN401
    """Convolution block written down anew from its parameters."""
    weight = state[f"{name}.conv.weight"]
    operation = {2: F.conv2d, 3: F.conv3d}[weight.ndim - 2]
    x = operation(x, weight, state.get(f"{name}.conv.bias"), stride, padding=[n // 2 for n in weight.shape[2:]])
    over = tuple(range(2, x.ndim))
    x = (x - x.mean(over, keepdim=True)) / (x.var(over, correction=0, keepdim=True) + 1e-5).sqrt()
    per_feature = (1, -1, *(1 for _ in over))
    x = x * state[f"{name}.norm.weight"].view(per_feature) + state[f"{name}.norm.bias"].view(per_feature)
    return torch.where(x > 0, x, 0.01 * x) if activate else x


def residual(state: dict[str, Tensor], name: str, x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Residual block written down anew from its parameters."""
    out = convolve(state, f"{name}.conv2", convolve(state, f"{name}.conv1", x, stride), activate=False)
    if math.prod(stride) > 1:
        x = {2: F.avg_pool2d, 3: F.avg_pool3d}[len(stride)](x, stride)  # type: ignore[operator]  # two signatures
    for index in (0, 1):
        if f"{name}.skip.{index}.conv.weight" in state:
            x = convolve(state, f"{name}.skip.{index}", x, activate=False)
    out = out + x
    return torch.where(out > 0, out, 0.01 * out)


def compute_again(plan: NetworkPlan, state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """The network's outputs by functions of its parameters only."""
    ones = (1,) * len(plan.strides[0])
    skips = []
    if plan.name == "resenc":
        x = convolve(state, "encoder.stem.convs.0", x)
    for stage, (stride, num_blocks) in enumerate(zip(plan.strides, plan.encoder_blocks, strict=True)):
        for index in range(num_blocks):
            step = stride if index == 0 else ones
            if plan.name == "resenc":
                x = residual(state, f"encoder.stages.{stage}.blocks.{index}", x, step)
            else:
                x = convolve(state, f"encoder.stages.{stage}.0.convs.{index}", x, step)
        skips.append(x)
    upsample = {2: F.conv_transpose2d, 3: F.conv_transpose3d}[len(ones)]
    pointwise = {2: F.conv2d, 3: F.conv3d}[len(ones)]
    outputs = []
    for depth, num_blocks in enumerate(plan.decoder_blocks):
        up = f"decoder.transpconvs.{depth}"
        x = upsample(x, state[f"{up}.weight"], state[f"{up}.bias"], plan.strides[-1 - depth])
        x = torch.cat((x, skips[-2 - depth]), dim=1)
        for index in range(num_blocks):
            x = convolve(state, f"decoder.stages.{depth}.convs.{index}", x)
        head = f"decoder.seg_layers.{depth}"
        outputs.append(pointwise(x, state[f"{head}.weight"], state[f"{head}.bias"]))
    return outputs[::-1]


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: f"{p.name}-{len(p.strides[0])}d")
def test_outputs_equal_a_second_implementation(plan: NetworkPlan) -> None:
    network = disturbed(plan).double()
    x = torch.randn(2, 2, *(8, 12, 16)[-len(plan.strides[0]) :], dtype=torch.float64)
    with torch.no_grad():
        outputs = network(x)
        expected = compute_again(plan, network.state_dict(), x)
    assert len(outputs) == len(expected) == 2
    for a, b in zip(outputs, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_weights_start_as_he_says() -> None:
    torch.manual_seed(0)
    network = build_network(six_stages("unet", (2,) * 6, (2,) * 5), num_channels=1, num_outputs=3)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        elif parameter.numel() > 10000:
            fan_in = parameter.shape[1] * math.prod(parameter.shape[2:])
            expected = math.sqrt(2 / (1 + 0.01**2) / fan_in)
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name


def test_residual_blocks_start_as_their_shortcut() -> None:
    torch.manual_seed(0)
    network = build_network(RESIDUAL_3D, num_channels=1, num_outputs=2)
    state = network.state_dict()
    zeroed = [name for name in state if ".conv2.norm." in name]
    assert len(zeroed) == 2 * 6
    assert all((state[name] == 0).all() for name in zeroed)
    assert all((state[name] == 1).all() for name in state if ".conv1.norm.weight" in name)
    block = network.encoder.stages[1].blocks[1]  # type: ignore[union-attr,index]  # torch's modules are untyped
    x = torch.randn(1, 6, 4, 4, 4).abs()
    torch.testing.assert_close(block(x), x)  # type: ignore[operator]  # as above


def test_four_axes_are_refused() -> None:
    plan = NetworkPlan(
        name="unet",
        features=(4, 4),
        strides=((1,) * 4, (2,) * 4),
        kernel_sizes=((3,) * 4,) * 2,
        encoder_blocks=(1, 1),
        decoder_blocks=(1,),
    )
    with pytest.raises(SettingsError, match="two or three axes"):
        build_network(plan, num_channels=1, num_outputs=2)
