from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from autoseg.augmentation.patch import initial_patch_size, is_anisotropic, mirror_axes, rotation_range
from autoseg.plan import Configuration

Factory = Callable[..., Configuration]


@pytest.mark.parametrize(
    ("patch_size", "expected"),
    [  # what nnU-Net's own function gave
        ((128, 128, 128), (205, 205, 205)),
        ((96, 160, 160), (191, 257, 219)),
        ((64, 192, 160), (178, 289, 200)),
        ((160, 128, 112), (238, 196, 208)),
        ((40, 56, 40), (73, 80, 64)),
        ((20, 256, 224), (20, 301, 301)),
        ((512, 512), (602, 602)),
        ((320, 256), (376, 376)),
        ((512, 256), (659, 301)),
    ],
)
def test_initial_patch_size(
    patch_size: tuple[int, ...], expected: tuple[int, ...], make_configuration: Factory
) -> None:
    assert initial_patch_size(make_configuration(patch_size)) == expected


@pytest.mark.parametrize(
    ("patch_size", "degrees", "flat"),
    [
        ((64, 64, 64), 30, False),
        ((20, 60, 60), 30, False),  # exactly three times is not yet anisotropic
        ((20, 61, 20), 180, True),
        ((60, 20, 20), 30, False),  # only the first axis counts
        ((300, 200), 180, False),
        ((301, 200), 15, False),
        ((200, 301), 15, False),
    ],
)
def test_rotation(patch_size: tuple[int, ...], degrees: float, flat: bool, make_configuration: Factory) -> None:
    configuration = make_configuration(patch_size)
    assert rotation_range(configuration) == pytest.approx(math.radians(degrees))
    assert is_anisotropic(configuration) is flat


def test_all_axes_are_mirrored(make_configuration: Factory) -> None:
    assert mirror_axes(make_configuration((8, 8, 8))) == (0, 1, 2)
    assert mirror_axes(make_configuration((8, 8))) == (0, 1)
