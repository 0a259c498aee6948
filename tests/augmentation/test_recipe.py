"""Every step can be switched by itself, happens as often as it should, and moves image and labels alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from autoseg.augmentation.patch import initial_patch_size
from autoseg.augmentation.recipe import parse_recipe
from autoseg.augmentation.transforms import build_training_transform
from autoseg.labels import LabelScheme
from autoseg.plan import Configuration

Factory = Callable[..., Configuration]
SHAPE = (8, 12, 8)
NUM = 300
INTENSITY = {
    "noise": 0.1,
    "blur": 0.1,  # one channel, which half of the blurs leave alone
    "brightness": 0.15,
    "contrast": 0.15,
    "low_resolution": 0.125,
    "inverted_gamma": 0.1,
    "gamma": 0.3,
}


def varied(text: str, configuration: Configuration, labels: LabelScheme) -> list[tuple[bool, bool]]:
    """Whether image and segmentation of a patch were changed, draw by draw."""
    recipe = parse_recipe(text)
    transform = build_training_transform(configuration, labels, recipe=recipe)
    initial = initial_patch_size(configuration) if recipe.moves_voxels else configuration.patch_size
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((1, *initial), generator=generator)
    segmentation = torch.randint(0, 3, (1, *initial), generator=generator).to(torch.int16)
    middle = tuple(slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in zip(initial, SHAPE, strict=True))
    found = []
    torch.manual_seed(1)
    np.random.seed(1)
    for _ in range(NUM):
        new, (target,) = transform(image.clone(), segmentation.clone())
        found.append((not torch.equal(new, image[:, *middle]), not torch.equal(target, segmentation[:, *middle])))
    return found


@pytest.mark.parametrize("step", list(INTENSITY))
def test_an_intensity_step_alone_changes_its_share_of_images_and_no_label(
    step: str, make_configuration: Factory, two_labels: LabelScheme
) -> None:
    found = varied(f"none+{step}", make_configuration(SHAPE), two_labels)
    assert not any(labels for _, labels in found)
    assert binomtest(sum(image for image, _ in found), NUM, INTENSITY[step]).pvalue > 1e-4


@pytest.mark.parametrize(
    ("step", "share"), [("rotation", 0.2), ("scaling", 0.2), ("elastic", 0.2), ("mirror", 7 / 8), ("translation", None)]
)
def test_a_spatial_step_alone_moves_image_and_labels_together(
    step: str, share: float | None, make_configuration: Factory, two_labels: LabelScheme
) -> None:
    found = varied(f"none+{step}", make_configuration(SHAPE), two_labels)
    assert all(image == labels for image, labels in found)
    moved = sum(image for image, _ in found)
    assert moved > 0.9 * NUM if share is None else binomtest(moved, NUM, share).pvalue > 1e-4


@pytest.mark.parametrize("step", ["rotation", "scaling", "translation", "elastic", "mirror"])
@pytest.mark.parametrize("shape", [SHAPE, (6, 32, 24), (24, 16)])
def test_labels_lie_where_the_image_shows_them(
    step: str, shape: tuple[int, ...], make_configuration: Factory, two_labels: LabelScheme
) -> None:
    configuration = make_configuration(shape, num_stages=2)
    transform = build_training_transform(configuration, two_labels, recipe=parse_recipe(f"none+{step}"))
    initial = initial_patch_size(configuration)
    grid = np.indices(initial)
    center = np.asarray([n / 2 for n in initial]).reshape(-1, *[1] * len(initial))
    radii = np.asarray([n / 4 for n in shape]).reshape(center.shape)
    ball = ((((grid - center) / radii) ** 2).sum(axis=0) < 1)[None]
    for seed in range(25):
        torch.manual_seed(seed)
        np.random.seed(seed)
        # The label as an image: interpolated alike, so that one half separates inside and outside.
        image, targets = transform(torch.from_numpy(ball).float(), torch.from_numpy(ball).to(torch.int16))
        assert (
            torch.equal(image > 0.5, targets[0] == 1)
            or float(((image > 0.5) != (targets[0] == 1)).float().mean()) < 0.01
        )


def test_without_any_step_a_patch_is_bit_identical(make_configuration: Factory, two_labels: LabelScheme) -> None:
    assert not any(image or labels for image, labels in varied("none", make_configuration(SHAPE), two_labels))
    text = "nnunet" + "".join(f"-{step}" for step in (*INTENSITY, "rotation", "scaling", "mirror"))
    assert parse_recipe(text) == parse_recipe("none")


def test_strengths_differ_in_their_chances() -> None:
    nnunet, strong, light = (dict(parse_recipe(name).chances) for name in ("nnunet", "strong", "light"))
    assert light.items() < nnunet.items()
    assert set(strong) - set(nnunet) == {"translation", "elastic"}
    assert {step: strong[step] for step in nnunet} == {step: min(0.5, 2 * chance) for step, chance in nnunet.items()}
