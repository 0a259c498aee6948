from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from autoseg.augmentation.patch import initial_patch_size, mirror_axes, rotation_range
from autoseg.augmentation.recipe import parse_recipe
from autoseg.augmentation.transforms import build_training_transform, build_validation_transform
from autoseg.labels import LabelScheme
from autoseg.plan import Configuration

Factory = Callable[..., Configuration]
SHAPES = [(8, 12, 8), (6, 32, 24), (24, 16)]  # turned in all planes, within planes only, 2D


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)


def random_patch(shape: tuple[int, ...], *, num_channels: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn((num_channels, *shape), generator=generator)
    return image, torch.randint(-1, 3, (1, *shape), generator=generator).to(torch.int16)


def center(array: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Middle of the last axes."""
    lead = array.ndim - len(shape)
    start = [n // 2 - m // 2 for n, m in zip(array.shape[lead:], shape, strict=True)]
    return array[(..., *(slice(a, a + m) for a, m in zip(start, shape, strict=True)))]


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_and_types(shape: tuple[int, ...], make_configuration: Factory, two_labels: LabelScheme) -> None:
    configuration = make_configuration(shape, use_mask=(True, False), num_stages=3 if min(shape) % 4 == 0 else 2)
    transform = build_training_transform(configuration, two_labels)
    for seed in range(20):
        seed_all(seed)
        image, targets = transform(*random_patch(initial_patch_size(configuration), num_channels=2, seed=seed))
        assert image.shape == (2, *shape)
        assert image.dtype == torch.float32
        assert torch.isfinite(image).all()
        assert len(targets) == len(configuration.network.output_strides)
        assert targets[0].shape == (1, *shape)
        assert set(targets[0].unique().tolist()) <= {0, 1, 2}


def test_the_seed_decides(make_configuration: Factory, two_labels: LabelScheme) -> None:
    configuration = make_configuration((8, 12, 8))
    transform = build_training_transform(configuration, two_labels)
    results = []
    for seed in (1, 1, 2):
        seed_all(seed)
        results.append(transform(*random_patch(initial_patch_size(configuration)))[0])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_transforms_can_be_sent_to_workers(make_configuration: Factory, two_labels: LabelScheme) -> None:
    configuration = make_configuration((8, 12, 8))
    transform = build_training_transform(configuration, two_labels)
    copy = pickle.loads(pickle.dumps(transform))
    images = []
    for each in (transform, copy):
        seed_all(5)
        images.append(each(*random_patch(initial_patch_size(configuration)))[0])
    assert torch.equal(*images)


def test_how_often_a_patch_is_turned_and_mirrored(make_configuration: Factory, two_labels: LabelScheme) -> None:
    shape = (6, 8, 6)
    configuration = make_configuration(shape)
    transform = build_training_transform(configuration, two_labels)
    image, segmentation = random_patch(initial_patch_size(configuration))
    plain = center(segmentation, shape).clamp_min(0)
    axes = [tuple(a + 1 for a in flips) for n in range(4) for flips in itertools.combinations(range(3), n)]
    variants = [torch.flip(plain, flips) for flips in axes]
    seed_all(0)
    counts = np.zeros(len(variants) + 1, dtype=int)
    num_draws = 800
    for _ in range(num_draws):
        (target,) = transform(image.clone(), segmentation.clone())[1]
        match = [i for i, variant in enumerate(variants) if torch.equal(variant, target)]
        counts[match[0] if match else -1] += 1
    # Rotation and zoom each happen to one patch in five, independently; each axis is mirrored half the time.
    expected = 0.8 * 0.8 * num_draws / 8
    assert counts[-1] == pytest.approx(0.36 * num_draws, abs=3 * (num_draws * 0.36 * 0.64) ** 0.5)
    assert counts[:-1] == pytest.approx(expected, abs=3.5 * expected**0.5)


def test_how_often_intensities_are_varied(make_configuration: Factory, two_labels: LabelScheme) -> None:
    shape = (6, 8, 6)
    configuration = make_configuration(shape)
    transform = build_training_transform(configuration, two_labels)
    image, segmentation = random_patch(initial_patch_size(configuration))
    expected = center(image, shape).flatten().sort().values
    seed_all(0)
    num_draws = 800
    unchanged = sum(
        torch.equal(transform(image.clone(), segmentation.clone())[0].flatten().sort().values, expected)
        for _ in range(num_draws)
    )
    # Turning, noise, blur (half the channels), brightness, contrast, low resolution (half), two gammas.
    share = 0.64 * 0.9 * (1 - 0.2 / 2) * 0.85 * 0.85 * (1 - 0.25 / 2) * 0.9 * 0.7
    assert unchanged == pytest.approx(share * num_draws, abs=3 * (num_draws * share * (1 - share)) ** 0.5)


def test_light_variation_turns_and_changes_brightness_and_contrast_alone(
    make_configuration: Factory, two_labels: LabelScheme
) -> None:
    shape = (6, 8, 6)
    configuration = make_configuration(shape)
    transform = build_training_transform(configuration, two_labels, recipe=parse_recipe("light"))
    image, segmentation = random_patch(initial_patch_size(configuration))
    expected = center(image, shape).flatten().sort().values
    seed_all(0)
    num_draws = 600
    unchanged = sum(
        torch.equal(transform(image.clone(), segmentation.clone())[0].flatten().sort().values, expected)
        for _ in range(num_draws)
    )
    share = 0.64 * 0.85 * 0.85
    assert unchanged == pytest.approx(share * num_draws, abs=3 * (num_draws * share * (1 - share)) ** 0.5)


@pytest.mark.parametrize("axes", [(), (1,), (0, 2)])
def test_only_the_axes_asked_for_are_mirrored(
    axes: tuple[int, ...], make_configuration: Factory, two_labels: LabelScheme
) -> None:
    shape = (6, 8, 6)
    configuration = make_configuration(shape)
    transform = build_training_transform(configuration, two_labels, mirror_axes=axes)
    image, segmentation = random_patch(initial_patch_size(configuration))
    plain = center(segmentation, shape).clamp_min(0)
    every = [flips for n in range(4) for flips in itertools.combinations(range(3), n)]
    seen = set()
    for seed in range(150):
        seed_all(seed)
        (target,) = transform(image.clone(), segmentation.clone())[1]
        seen |= {flips for flips in every if torch.equal(torch.flip(plain, tuple(a + 1 for a in flips)), target)}
    assert seen == {flips for flips in every if set(flips) <= set(axes)}


def test_masked_channels_are_zero_outside(make_configuration: Factory, two_labels: LabelScheme) -> None:
    shape = (8, 12, 8)
    configuration = make_configuration(shape, use_mask=(True, False))
    transform = build_training_transform(configuration, two_labels)
    initial = initial_patch_size(configuration)
    num_changed = 0
    for seed in range(20):
        seed_all(seed)
        image = 5 + torch.randn(2, *initial)
        segmentation = torch.full((1, *initial), -1, dtype=torch.int16)
        varied, _ = transform(image, segmentation)
        assert (varied[0] == 0).all()
        num_changed += int((varied[1] != 0).sum())
    assert num_changed > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_image_and_segmentation_move_together(
    shape: tuple[int, ...], make_configuration: Factory, two_labels: LabelScheme
) -> None:
    configuration = make_configuration(shape)
    transform = build_training_transform(configuration, two_labels)
    initial = initial_patch_size(configuration)
    segmentation = torch.zeros((1, *initial), dtype=torch.int16)
    segmentation[(0, *(slice(n // 4, n // 2) for n in initial))] = 1
    for seed in range(40):
        seed_all(seed)
        image, (target,) = transform(segmentation.float() * 10, segmentation.clone())
        inside = target[0] == 1
        if inside.any():
            # Whatever was done to intensities, the object stays the brightest.
            assert image[0][inside].mean() > image[0][~inside].mean() + 3


def test_flat_patches_are_never_turned_out_of_their_planes(
    make_configuration: Factory, two_labels: LabelScheme
) -> None:
    shape = (6, 32, 24)
    configuration = make_configuration(shape)
    transform = build_training_transform(configuration, two_labels)
    initial = initial_patch_size(configuration)
    planes = torch.arange(6, dtype=torch.int16)[None, :, None, None].expand(1, *initial)
    values = {"background": 0} | {f"plane{i}": i for i in range(1, 6)}
    labels = LabelScheme.from_table(values, where="dataset.json")
    transform = build_training_transform(configuration, labels)
    for seed in range(20):
        seed_all(seed)
        _, (target,) = transform(torch.zeros(1, *initial), planes.clone())
        for plane in target[0]:
            assert len(set(plane.unique().tolist()) - {0}) <= 1


def test_validation_leaves_patches_alone(make_configuration: Factory, two_labels: LabelScheme) -> None:
    shape = (8, 12, 8)
    configuration = make_configuration(shape, use_mask=(True,))
    image, segmentation = random_patch(shape)
    before = image.clone()
    same, (target,) = build_validation_transform(configuration, two_labels)(image, segmentation)
    assert torch.equal(same, before)
    assert torch.equal(target, segmentation.clamp_min(0))


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_nnunet_draw_by_draw(
    shape: tuple[int, ...], make_configuration: Factory, regions_and_ignore: LabelScheme
) -> None:
    trainer = pytest.importorskip("nnunetv2.training.nnUNetTrainer.nnUNetTrainer").nnUNetTrainer
    configuration = make_configuration(shape, use_mask=(True, False), num_stages=2)
    angle = rotation_range(configuration)
    theirs = trainer.get_training_transforms(
        shape,
        (-angle, angle),
        [[1.0] * len(shape)],
        mirror_axes(configuration),
        shape == SHAPES[1],
        use_mask_for_norm=[True, False],
        regions=[(1, 2), 2],
        ignore_label=3,
    )
    ours = build_training_transform(configuration, regions_and_ignore)
    for seed in range(60):
        image, segmentation = random_patch(initial_patch_size(configuration), num_channels=2, seed=seed)
        seed_all(seed)
        expected = theirs(image=image.clone(), segmentation=segmentation.clone())
        seed_all(seed)
        found, targets = ours(image.clone(), segmentation.clone())
        torch.testing.assert_close(found, expected["image"], rtol=1e-4, atol=1e-5)
        assert torch.equal(targets[0], expected["segmentation"][0])
