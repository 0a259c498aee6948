"""Topologies of published networks, in full and in small."""

from __future__ import annotations

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


def scnas(
    *, ndim: int = 3, width: int = 8, step: Axes | None = None, deep_supervision: bool = False
) -> NetworkPlan:
    return NetworkPlan(
        name="scnas",
        features=tuple(width * 2**stage for stage in range(4)),
        strides=((1,) * ndim, *(step or (2,) * ndim,) * 3),
        kernel_sizes=kernels(3, 3, 4, ndim),
        encoder_blocks=(1, 2, 2, 2),
        decoder_blocks=(2,) * 3,
        deep_supervision=deep_supervision,
    )
