"""Networks of the literature: published numbers of parameters, MONAI's outputs, and laws of their blocks."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autoseg.errors import SettingsError
from autoseg.networks.factory import build_network
from autoseg.networks.scnas import DECODER_NORMAL, ENCODER_NORMAL, EXPANSION, REDUCTION, LocalMean
from autoseg.networks.unetr import ResidualUnit, UnetrDecoder
from autoseg.plan import NetworkPlan

Axes = tuple[int, ...]


def strides(*steps: int, ndim: int) -> tuple[Axes, ...]:
    """The same step along every axis."""
    return tuple((step,) * ndim for step in steps)


def kernels(first: int, others: int, num_stages: int, ndim: int) -> tuple[Axes, ...]:
    """One kernel for the first stage, another one for all that follow."""
    return ((first,) * ndim, *((others,) * ndim,) * (num_stages - 1))


def unetcnx(
    *, ndim: int = 3, width: int = 48, blocks: Axes = (3, 3, 9, 3), kernel: int = 7, deep_supervision: bool = False
) -> NetworkPlan:
    return NetworkPlan(
        name="unetcnx",
        features=(width, width, 2 * width, 4 * width, 8 * width),
        strides=strides(1, 4, 2, 2, 2, ndim=ndim),
        kernel_sizes=kernels(3, kernel, 5, ndim),
        encoder_blocks=(1, *blocks),
        decoder_blocks=(1,) * 4,
        deep_supervision=deep_supervision,
    )


def uxnet(*, ndim: int = 3, width: int = 48, kernel: int = 7, deep_supervision: bool = False) -> NetworkPlan:
    return NetworkPlan(
        name="uxnet",
        features=tuple(width * 2**stage for stage in range(5)),
        strides=strides(1, 2, 2, 2, 2, ndim=ndim),
        kernel_sizes=kernels(3, kernel, 5, ndim),
        encoder_blocks=(1, 2, 2, 2, 2),
        decoder_blocks=(1,) * 4,
        deep_supervision=deep_supervision,
    )


def swin_unetr(*, ndim: int = 3, width: int = 48, deep_supervision: bool = False) -> NetworkPlan:
    return NetworkPlan(
        name="swin_unetr",
        features=(width, *(width * 2**stage for stage in range(5))),
        strides=strides(1, 2, 2, 2, 2, 2, ndim=ndim),
        kernel_sizes=kernels(3, 3, 6, ndim),
        encoder_blocks=(1, 2, 2, 2, 2, 1),
        decoder_blocks=(1,) * 5,
        deep_supervision=deep_supervision,
    )


def mednext(
    *, ndim: int = 3, width: int = 32, blocks: Axes = (2,) * 5, kernel: int = 3, deep_supervision: bool = False
) -> NetworkPlan:
    return NetworkPlan(
        name="mednext",
        features=tuple(width * 2**stage for stage in range(5)),
        strides=strides(1, 2, 2, 2, 2, ndim=ndim),
        kernel_sizes=kernels(kernel, kernel, 5, ndim),
        encoder_blocks=blocks,
        decoder_blocks=blocks[-2::-1],
        deep_supervision=deep_supervision,
    )


def acc_unet(*, ndim: int = 2, width: int = 32, deep_supervision: bool = False) -> NetworkPlan:
    return NetworkPlan(
        name="acc_unet",
        features=tuple(width * 2**stage for stage in range(5)),
        strides=strides(1, 2, 2, 2, 2, ndim=ndim),
        kernel_sizes=kernels(3, 3, 5, ndim),
        encoder_blocks=(2,) * 5,
        decoder_blocks=(2,) * 4,
        deep_supervision=deep_supervision,
    )


def scnas(*, ndim: int = 3, width: int = 8, step: Axes | None = None, deep_supervision: bool = False) -> NetworkPlan:
    return NetworkPlan(
        name="scnas",
        features=tuple(width * 2**stage for stage in range(4)),
        strides=((1,) * ndim, *(step or (2,) * ndim,) * 3),
        kernel_sizes=kernels(3, 3, 4, ndim),
        encoder_blocks=(1, 2, 2, 2),
        decoder_blocks=(2,) * 3,
        deep_supervision=deep_supervision,
    )


SMALL = {
    "unetcnx": lambda ndim: unetcnx(ndim=ndim, width=4, blocks=(1, 1, 1, 1), deep_supervision=True),
    "uxnet": lambda ndim: uxnet(ndim=ndim, width=4, deep_supervision=True),
    "acc_unet": lambda ndim: replace(acc_unet(ndim=ndim, width=4, deep_supervision=True), norm="batch"),
    "scnas": lambda ndim: scnas(ndim=ndim, width=4, deep_supervision=True),
    "mednext": lambda ndim: mednext(ndim=ndim, width=4, deep_supervision=True),
}


def num_parameters(plan: NetworkPlan, *, num_channels: int = 1, num_outputs: int) -> int:
    with torch.device("meta"):
        network = build_network(plan, num_channels=num_channels, num_outputs=num_outputs)
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("plan", "num_channels", "num_outputs", "expected"),
    [
        (unetcnx(blocks=(3, 3, 9, 3)), 1, 4, 13_629_796),
        (unetcnx(blocks=(2, 2, 2, 2)), 1, 4, 9_621_556),
        (unetcnx(blocks=(4, 4, 12, 4)), 1, 4, 16_182_676),
        (uxnet(), 1, 13, 53_006_461),
        (uxnet(), 1, 14, 53_006_510),
        (uxnet(), 1, 16, 53_006_608),
        (replace(acc_unet(), norm="batch"), 3, 1, 16_771_245),
        (scnas(), 1, 1, 1_796_945),  # 1.80 million
        (mednext(), 1, 3, 5_550_947),
        (replace(mednext(), options={"expansion": "base"}), 1, 3, 10_510_883),
        (replace(mednext(blocks=(3, 4, 4, 4, 4)), options={"expansion": "base"}), 1, 3, 17_533_539),
        (replace(mednext(blocks=(3, 4, 8, 8, 8)), options={"expansion": "large"}), 1, 3, 61_726_787),
    ],
    ids=lambda value: f"{value.name}" if isinstance(value, NetworkPlan) else None,
)
def test_as_many_parameters_as_published(plan: NetworkPlan, num_channels: int, num_outputs: int, expected: int) -> None:
    assert num_parameters(plan, num_channels=num_channels, num_outputs=num_outputs) == expected


@pytest.mark.parametrize(
    ("plan", "num_channels", "num_outputs", "expected"),
    [
        (swin_unetr(), 1, 14, 62_187_296),
        (swin_unetr(), 4, 3, 62_191_941),
        (swin_unetr(width=24), 1, 14, 15_703_304),
        (replace(swin_unetr(), options={"has_residual_blocks": True}), 1, 14, 72_762_656),
    ],
    ids=["1-14", "4-3", "small", "version-2"],
)
def test_swin_unetr_has_as_many_parameters_as_published(
    plan: NetworkPlan, num_channels: int, num_outputs: int, expected: int
) -> None:
    network = build_network(plan, num_channels=num_channels, num_outputs=num_outputs)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_every_network_answers_on_every_scale(name: str, ndim: int) -> None:
    plan = SMALL[name](ndim)
    shape = (*(2 * d for d in plan.divisor[:-1]), plan.divisor[-1])
    network = build_network(plan, num_channels=2, num_outputs=3)
    outputs = network(torch.randn(2, 2, *shape))
    expected = [(2, 3, *(n // s for n, s in zip(shape, stride, strict=True))) for stride in plan.output_strides]
    assert [tuple(output.shape) for output in outputs] == expected
    sum(output.square().mean() for output in outputs).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("plan", "shape"),
    [
        (
            replace(
                unetcnx(width=4, blocks=(1, 1, 1, 1)),
                strides=((1, 1, 1), (1, 4, 4), (1, 2, 2), (2, 2, 2), (2, 2, 2)),
                kernel_sizes=((1, 3, 3), (3, 7, 7), (3, 7, 7), (7, 7, 7), (7, 7, 7)),
            ),
            (12, 64, 32),
        ),
        (
            replace(
                uxnet(width=4),
                strides=((1, 1, 1), *((1, 2, 2),) * 4),
                kernel_sizes=((1, 3, 3), *((1, 7, 7),) * 4),
            ),
            (12, 32, 16),
        ),
        (scnas(width=4, step=(1, 2, 2)), (5, 24, 16)),
        (
            replace(acc_unet(ndim=3, width=4), strides=((1, 1, 1), *((1, 2, 2),) * 4), norm="batch"),
            (5, 30, 33),
        ),
    ],
    ids=["unetcnx", "uxnet", "scnas", "acc_unet"],
)
def test_thick_slices(plan: NetworkPlan, shape: tuple[int, ...]) -> None:
    network = build_network(plan, num_channels=1, num_outputs=2)
    assert network(torch.randn(1, 1, *shape)).shape == (1, 2, *shape)


@pytest.mark.parametrize("shape", [(31, 45), (13, 30, 30), (17, 16, 19)])
def test_acc_unet_does_not_ask_for_even_division(shape: tuple[int, ...]) -> None:
    plan = replace(acc_unet(ndim=len(shape), width=4), norm="batch")
    network = build_network(plan, num_channels=1, num_outputs=2)
    assert network(torch.randn(2, 1, *shape)).shape == (2, 2, *shape)


def test_scnas_is_built_of_as_many_operations_as_its_tables_say() -> None:
    network = build_network(scnas(), num_channels=1, num_outputs=1)
    cells = [*(REDUCTION, ENCODER_NORMAL) * 3, ENCODER_NORMAL, *(DECODER_NORMAL, EXPANSION) * 3]
    expected = Counter(edge.operation for cell in cells for edge in cell)
    dilations = Counter(
        module.dilation[0]
        for module in network.modules()
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] == 3
    )
    assert dilations == {
        1: expected["conv"] + 1,  # the stem
        2: expected["conv_dilated_2"],
        3: expected["conv_dilated_3"],
    }
    assert sum(isinstance(module, LocalMean) for module in network.modules()) == expected["average"]


def test_scnas_without_dilation_has_none() -> None:
    plan = replace(scnas(width=4), options={"has_dilation": False})
    network = build_network(plan, num_channels=1, num_outputs=2)
    assert all(m.dilation == (1, 1, 1) for m in network.modules() if isinstance(m, nn.Conv3d))
    assert num_parameters(plan, num_outputs=2) == num_parameters(scnas(width=4), num_outputs=2)


def test_other_numbers_of_cells_are_refused() -> None:
    with pytest.raises(SettingsError, match="2 cells per stage"):
        build_network(replace(scnas(), encoder_blocks=(1, 2, 3, 2)), num_channels=1, num_outputs=1)


def monai_unit(unit: ResidualUnit) -> dict[str, Tensor]:
    """Weights of a residual unit under MONAI's names."""
    names = {"conv1": "conv1.conv", "conv2": "conv2.conv", "skip.0": "conv3.conv"}
    return {f"{names[name.rsplit('.', 1)[0]]}.weight": tensor for name, tensor in unit.state_dict().items()}


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("num_features", [4, 6])
def test_residual_units_equal_monai(ndim: int, num_features: int) -> None:
    from monai.networks.blocks.dynunet_block import UnetResBlock

    ours = ResidualUnit(4, num_features, kernel_size=(3,) * ndim)
    theirs = UnetResBlock(ndim, 4, num_features, kernel_size=3, stride=1, norm_name="instance")
    theirs.load_state_dict(monai_unit(ours))
    x = torch.randn(2, 4, *(7,) * ndim)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_the_decoder_equals_monai() -> None:
    from monai.networks.blocks.unetr_block import UnetrUpBlock

    plan = NetworkPlan(
        name="unetcnx",
        features=(4, 6),
        strides=((1,) * 3, (4,) * 3),
        kernel_sizes=((3,) * 3,) * 2,
        encoder_blocks=(1, 1),
        decoder_blocks=(1,),
    )
    ours = UnetrDecoder(plan, 2)
    theirs = UnetrUpBlock(3, 6, 4, kernel_size=3, upsample_kernel_size=4, norm_name="instance", res_block=True)
    weights = {f"conv_block.{name}": tensor for name, tensor in monai_unit(ours.stages[0][0]).items()}
    theirs.load_state_dict({"transp_conv.conv.weight": ours.transpconvs[0].weight, **weights})
    skip, low = torch.randn(1, 4, 8, 8, 8), torch.randn(1, 6, 2, 2, 2)
    (logits,) = ours([skip, low], lambda module, *inputs: module(*inputs), with_all_scales=False)
    torch.testing.assert_close(logits, ours.seg_layers[0](theirs(low, skip)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("ndim", "shape"), [(2, (32, 64)), (3, (32, 32, 64))])
def test_swin_unetr_is_monai_s(ndim: int, shape: tuple[int, ...]) -> None:
    from monai.networks.nets.swin_unetr import SwinUNETR

    plan = replace(swin_unetr(ndim=ndim, width=12), options={"window": 3})
    ours = build_network(plan, num_channels=2, num_outputs=3)
    theirs = SwinUNETR(2, 3, feature_size=12, spatial_dims=ndim, window_size=3)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 2, *shape)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_mednext_is_monai_s(ndim: int) -> None:
    from monai.networks.nets.mednext import MedNeXt

    plan = replace(mednext(ndim=ndim, width=4, deep_supervision=True), options={"expansion": "base"})
    ours = build_network(plan, num_channels=2, num_outputs=3)
    theirs = MedNeXt(
        ndim, 4, 2, 3, (2, 3, 4, 4), (4, 4, 3, 2), 4, kernel_size=3, deep_supervision=True, use_residual_connection=True
    )
    weights = {name: tensor for name, tensor in theirs.state_dict().items() if not name.startswith("out_blocks.0.")}
    assert list(ours.state_dict()) == list(weights)
    ours.load_state_dict(weights)
    x = torch.randn(2, 2, *(32,) * ndim)
    with torch.no_grad():
        for mine, other in zip(ours(x), theirs(x)[:-1], strict=True):  # MONAI supervises the bottleneck as well
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_what_monai_s_networks_do_not_have_is_refused() -> None:
    thick = replace(mednext(width=4), strides=((1, 1, 1), (1, 2, 2), *((2, 2, 2),) * 3))
    with pytest.raises(SettingsError, match="halve every axis"):
        build_network(thick, num_channels=1, num_outputs=2)
    with pytest.raises(SettingsError, match=r"features \(4, 8, 16, 32, 64\), the plan has \(4, 8, 16, 32, 32\)"):
        build_network(replace(mednext(width=4), features=(4, 8, 16, 32, 32)), num_channels=1, num_outputs=2)
    with pytest.raises(SettingsError, match="multiple of 12"):
        build_network(swin_unetr(width=16), num_channels=1, num_outputs=2)
    mixed = replace(mednext(width=4), kernel_sizes=((3,) * 3, *((5,) * 3,) * 4))
    with pytest.raises(SettingsError, match="one kernel size"):
        build_network(mixed, num_channels=1, num_outputs=2)


def test_without_monai_one_sentence_says_what_to_install() -> None:
    program = (
        "import sys\n"
        "from autoseg.errors import SettingsError\n"
        "from autoseg.networks.catalog import NETWORKS\n"
        "for missing in ('einops', 'monai'):\n"
        "    sys.modules[missing] = None\n"
        "    try:\n        NETWORKS.get('mednext')\n    except SettingsError as error:\n        print(error)\n"
        "    del sys.modules[missing]\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for line, missing in zip(answer.stdout.splitlines(), ("einops", "monai"), strict=True):
        assert line.endswith(f"{missing} is not installed: pip install 'autoseg[monai]'")
