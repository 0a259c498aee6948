"""Every step can be switched by itself, happens as often as it should, and moves image and labels alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from autoseg.augmentation.patch import initial_patch_size, is_anisotropic, rotation_range
from autoseg.augmentation.recipe import OF_DA5, parse_recipe
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
    # Of these half of the channels are left alone.
    "median": 0.1,
    "additive_brightness": 0.05,
    "rectangles": 0.2,
    "brightness_gradient": 0.15,
    "local_gamma": 0.15,
    "sharpening": 0.1,
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
    chances = dict(parse_recipe("nnunet").chances)
    text = "nnunet" + "".join(f"-{step}" for step in chances)
    assert parse_recipe(text) == parse_recipe("none")


def test_strengths_differ_in_their_chances() -> None:
    nnunet, strong, light = (dict(parse_recipe(name).chances) for name in ("nnunet", "strong", "light"))
    assert light.items() < nnunet.items()
    assert set(strong) - set(nnunet) == {"translation", "elastic"}
    assert {step: strong[step] for step in nnunet} == {step: min(0.5, 2 * chance) for step, chance in nnunet.items()}


@pytest.mark.parametrize("step", ["rot90", "transpose"])
def test_quarter_turns_and_exchanged_axes_move_image_and_labels_together(
    step: str, make_configuration: Factory, two_labels: LabelScheme
) -> None:
    """Among axes of one length only; where all lengths differ nothing happens."""
    configuration = make_configuration((8, 12, 12), num_stages=2)
    transform = build_training_transform(configuration, two_labels, recipe=parse_recipe(f"none+{step}"))
    labels = torch.randint(0, 3, (1, 8, 12, 12), generator=torch.Generator().manual_seed(0)).to(torch.int16)
    turned = [torch.rot90(labels, k, (2, 3)) for k in range(4)] + [labels.transpose(2, 3)]
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        np.random.seed(seed)
        image, targets = transform(labels.float(), labels.clone())
        assert torch.equal(image, targets[0].float())
        seen.add(next(number for number, way in enumerate(turned) if torch.equal(image, way.float())))
    assert seen == ({0, 1, 2, 3} if step == "rot90" else {0, 4})
    other = make_configuration((8, 12, 16), num_stages=2)
    still = build_training_transform(other, two_labels, recipe=parse_recipe(f"none+{step}"))
    labels = torch.randint(0, 3, (1, 8, 12, 16)).to(torch.int16)
    assert torch.equal(still(labels.float(), labels.clone())[0], labels.float())


def test_rectangles_hold_their_own_mean(make_configuration: Factory, two_labels: LabelScheme) -> None:
    configuration = make_configuration(SHAPE)
    transform = build_training_transform(configuration, two_labels, recipe=parse_recipe("none+rectangles"))
    image = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(0))
    alone = 0
    for seed in range(80):
        torch.manual_seed(seed)
        np.random.seed(seed)
        new = transform(image.clone(), torch.zeros((1, *SHAPE), dtype=torch.int16))[0]
        where = new != image
        values = np.unique(new[where].numpy())
        assert len(values) <= 5  # one per rectangle
        if len(values) == 1:
            alone += 1
            assert float(image[where].mean()) == pytest.approx(values[0], abs=1e-5)
    assert alone > 0


def test_flat_patches_are_turned_in_all_planes_where_asked_for(make_configuration: Factory) -> None:
    flat = make_configuration((6, 32, 24), num_stages=2)
    plain, turned = parse_recipe("nnunet"), parse_recipe("nnunet+all_planes")
    assert is_anisotropic(flat, plain)
    assert not is_anisotropic(flat, turned)
    assert rotation_range(flat, plain) == pytest.approx(np.pi)
    assert rotation_range(flat, turned) == pytest.approx(np.radians(30))
    assert initial_patch_size(flat, plain)[0] == 6
    # The diagonal of the patch turned by 30 degrees, enlarged for the zoom: 6 cos + 32 sin = 21.2, over 0.85.
    assert initial_patch_size(flat, turned)[0] == 24
    assert initial_patch_size(flat, parse_recipe("da5+all_planes"))[0] == 30


def test_all_planes_mix_slices(make_configuration: Factory, two_labels: LabelScheme) -> None:
    """Without it every slice of a flat patch only holds voxels of its own."""
    configuration, seen = make_configuration((6, 32, 24), num_stages=2), {}
    for text in ("none+rotation", "none+rotation+all_planes"):
        recipe = parse_recipe(text)
        transform = build_training_transform(configuration, two_labels, recipe=recipe)
        initial = initial_patch_size(configuration, recipe)
        slices = torch.arange(initial[0], dtype=torch.float32).reshape(1, -1, 1, 1).expand(1, *initial)
        mixed = 0
        for seed in range(40):
            np.random.seed(seed)
            new = transform(slices.clone() + 1, torch.zeros((1, *initial), dtype=torch.int16))[0]
            middle = new[0, :, 12:20, 8:16]  # where no turn within the planes reaches beyond what was read
            mixed += any(float(plane.max() - plane.min()) > 0.5 for plane in middle)
        seen[text] = mixed
    assert seen["none+rotation"] == 0
    assert seen["none+rotation+all_planes"] > 3


def test_nearest_labels_do_not_depend_on_one_another(make_configuration: Factory, two_labels: LabelScheme) -> None:
    """Two labels made one before they are moved or afterwards: interpolated they outvote others together."""
    configuration = make_configuration(SHAPE)
    initial = initial_patch_size(configuration)
    labels = torch.randint(0, 3, (1, *initial), generator=torch.Generator().manual_seed(0)).to(torch.int16)
    differing = {}
    for text in ("none+scaling", "none+scaling+nearest_labels"):
        transform = build_training_transform(configuration, two_labels, recipe=parse_recipe(text))
        differing[text] = 0
        for seed in range(40):
            found = []
            for given in (labels, labels.clamp_max(1)):
                np.random.seed(seed)
                torch.manual_seed(seed)
                found.append(transform(given.float(), given.clone())[1][0].clamp_max(1))
            differing[text] += not torch.equal(*found)
    assert differing["none+scaling"] > 3
    assert differing["none+scaling+nearest_labels"] == 0


def test_da5_is_wider_than_nnunet_and_repeats_by_its_seeds(
    make_configuration: Factory, two_labels: LabelScheme
) -> None:
    recipe = parse_recipe("da5")
    nnunet = dict(parse_recipe("nnunet").chances)
    assert set(dict(recipe.chances)) - set(nnunet) == set(OF_DA5)
    assert recipe.chance("rotation") == 0.4
    configuration = make_configuration((16, 16, 12), num_stages=2)
    transform = build_training_transform(configuration, two_labels, recipe=recipe)
    initial = initial_patch_size(configuration, recipe)
    assert all(a >= b for a, b in zip(initial, initial_patch_size(configuration), strict=True))
    image = torch.randn((2, *initial), generator=torch.Generator().manual_seed(0))
    results = []
    for seed in (*range(12), *range(12)):
        np.random.seed(seed)
        torch.manual_seed(seed)
        new, (target,) = transform(image.clone(), torch.ones((1, *initial), dtype=torch.int16))
        assert new.shape == (2, 16, 16, 12)
        assert bool(torch.isfinite(new).all())
        results.append((new, target))
    for first, again in zip(results[:12], results[12:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({float(new.sum()) for new, _ in results}) > 6
    with pytest.raises(ValueError, match="did you mean sharpening"):
        parse_recipe("da5-sharpen")
