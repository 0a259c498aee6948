"""Surface losses against distances and cells counted one by one, and the generalized Dice against MONAI."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from autoseg.errors import SettingsError
from autoseg.labels import LabelScheme
from autoseg.losses.factory import build_loss
from autoseg.losses.overlap import GeneralizedDiceLoss
from autoseg.losses.surface import BoundaryLoss, SurfaceDiceLoss, signed_distances


def random_mask(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < 0.3


def random_pair(num_outputs: int, *shape: int, top: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(shape[0], num_outputs, *shape[1:], generator=generator, dtype=torch.float64)
    target = torch.randint(0, top or num_outputs, (shape[0], 1, *shape[1:]), generator=generator, dtype=torch.int16)
    return logits, target


def certain(target: torch.Tensor, num_outputs: int) -> torch.Tensor:
    """Logits that are sure of a segmentation."""
    return 40.0 * torch.nn.functional.one_hot(target[:, 0].long(), num_outputs).movedim(-1, 1).double()


@pytest.mark.parametrize("shape", [(7, 9), (4, 5, 6)])
def test_signed_distances_equal_those_to_every_single_voxel(shape: tuple[int, ...]) -> None:
    mask = random_mask(*shape)
    inside, outside = np.argwhere(mask), np.argwhere(~mask)
    expected = np.zeros(shape)
    expected[~mask] = cdist(outside, inside).min(axis=1)
    expected[mask] = 1 - cdist(inside, outside).min(axis=1)
    np.testing.assert_allclose(signed_distances(mask), expected, rtol=1e-6)


@pytest.mark.parametrize("value", [False, True])
def test_a_mask_without_surface_has_no_distances(value: bool) -> None:
    assert not signed_distances(np.full((3, 4), value)).any()


def test_boundary_is_the_mean_of_probability_times_distance(two_labels: LabelScheme) -> None:
    logits, target = random_pair(3, 2, 5, 6)
    probabilities = logits.softmax(1).numpy()
    distances = [[signed_distances((target[b, 0] == k).numpy()) for k in (1, 2)] for b in range(2)]
    expected = np.mean(probabilities[:, 1:] * np.asarray(distances))
    assert float(BoundaryLoss(labels=two_labels)(logits, target)) == pytest.approx(expected)


def test_boundary_falls_when_a_shifted_ball_comes_closer(two_labels: LabelScheme) -> None:
    grid = np.indices((21, 21))
    balls = [((grid[0] - 10) ** 2 + (grid[1] - 10 - shift) ** 2 < 16).astype(np.int16) for shift in (5, 3, 1, 0)]
    target = torch.from_numpy(balls[-1])[None, None]
    criterion = BoundaryLoss(labels=two_labels)
    losses = [float(criterion(certain(torch.from_numpy(ball)[None, None], 3), target)) for ball in balls]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0  # the inside, where distances are negative


def test_ignored_voxels_have_no_gradient(two_labels_and_ignore: LabelScheme) -> None:
    for name in ("boundary", "surface_dice", "generalized_dice", "dou"):
        logits, target = random_pair(3, 2, 6, 6, top=3)
        target[:, :, :3] = 3
        logits.requires_grad_()
        build_loss(name, labels=two_labels_and_ignore, batch_dice=True, num_scales=1)([logits], [target]).backward()
        assert logits.grad is not None
        assert not logits.grad[:, :, :3].any()
        assert logits.grad[:, :, 3:].abs().sum() > 0


def counted_surface_dice(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Dice of the cells by looking at each of them."""
    found, true = np.zeros(3), np.zeros(3)
    both = np.zeros(3)
    for corner in itertools.product(*(range(n - 1) for n in predicted.shape)):
        index = tuple(slice(c, c + 2) for c in corner)
        kinds = [0 if m.all() else 1 if not m.any() else 2 for m in (predicted[index], reference[index])]
        found[kinds[0]] += 1
        true[kinds[1]] += 1
        both[kinds[0]] += kinds[0] == kinds[1]
    return float(np.mean((2 * both + 1e-5) / (found + true + 1e-5)))


@pytest.mark.parametrize("shape", [(8, 9), (5, 6, 7)])
def test_surface_dice_of_certain_predictions_counts_cells(shape: tuple[int, ...], two_labels: LabelScheme) -> None:
    grid = np.indices(shape)
    center = np.asarray([n / 2 for n in shape]).reshape(-1, *[1] * len(shape))
    first = ((grid - center) ** 2).sum(0) < 6
    second = ((grid - center - 0.7) ** 2).sum(0) < 8
    predicted, target = (torch.from_numpy(m.astype(np.int16))[None, None] for m in (first, second))
    criterion = SurfaceDiceLoss(labels=two_labels, batch_dice=False)
    # The second label is absent: all its cells are empty in both, a Dice of one each.
    expected = (counted_surface_dice(first, second) + 1) / 2
    assert float(criterion(certain(predicted, 3), target)) == pytest.approx(-expected, abs=1e-4)
    assert float(criterion(certain(target, 3), target)) == pytest.approx(-1.0, abs=1e-4)


@pytest.mark.parametrize("name", ["boundary", "surface_dice", "generalized_dice"])
@pytest.mark.parametrize("scheme", ["two_labels", "two_regions"])
def test_gradients_are_those_of_finite_differences(name: str, scheme: str, request: pytest.FixtureRequest) -> None:
    labels: LabelScheme = request.getfixturevalue(scheme)
    logits, target = random_pair(labels.num_outputs, 2, 4, 3)
    if labels.has_regions:
        target = (torch.cat([target, target], dim=1) > 0).to(torch.int16)
    criterion = build_loss(name, labels=labels, batch_dice=False, num_scales=1)
    assert torch.autograd.gradcheck(lambda x: criterion([x], [target]), (logits.requires_grad_(),))


@pytest.mark.parametrize("batch_dice", [True, False])
def test_generalized_dice_equals_monai(two_labels: LabelScheme, *, batch_dice: bool) -> None:
    losses = pytest.importorskip("monai.losses")
    logits, target = random_pair(3, 2, 6, 5, 4)
    target[0][target[0] == 2] = 1  # a class that is absent in one patch
    theirs = losses.GeneralizedDiceLoss(to_onehot_y=True, softmax=True, batch=batch_dice)
    ours = GeneralizedDiceLoss(labels=two_labels, batch_dice=batch_dice)
    assert ours(logits, target).item() == pytest.approx(theirs(logits, target).item() - 1, abs=1e-5)


@pytest.mark.parametrize("scheme", ["two_labels", "two_regions"])
def test_dice_and_a_tenth_of_focal_equal_monai(scheme: str, request: pytest.FixtureRequest) -> None:
    losses = pytest.importorskip("monai.losses")
    labels: LabelScheme = request.getfixturevalue(scheme)
    logits, target = random_pair(labels.num_outputs, 2, 6, 5, 4)
    options = {"smooth_nr": 1e-5, "smooth_dr": 1e-5, "batch": True, "gamma": 2.0}
    if labels.has_regions:
        target = torch.cat([target > 0, target > 0], dim=1)
        theirs = losses.DiceFocalLoss(sigmoid=True, lambda_focal=0.1, **options)(logits, target.double())
    else:
        # MONAI's mean runs over the classes too, of which one per voxel is not zero; background belongs to its focal.
        dice = losses.DiceLoss(
            softmax=True, to_onehot_y=True, include_background=False, smooth_nr=1e-5, smooth_dr=1e-5, batch=True
        )
        focal = losses.FocalLoss(use_softmax=True, to_onehot_y=True, gamma=2.0)
        theirs = dice(logits, target) + 0.1 * labels.num_outputs * focal(logits, target)
    ours = build_loss("dice+0.1*focal", labels=labels, batch_dice=True, num_scales=1)([logits], [target])
    assert ours.item() == pytest.approx(theirs.item() - 1, abs=1e-5)


def test_dice_and_cross_entropy_over_three_scales_equal_monai(two_labels: LabelScheme) -> None:
    losses = pytest.importorskip("monai.losses")
    options = {"include_background": False, "to_onehot_y": True, "softmax": True, "batch": True}
    single = losses.DiceCELoss(smooth_nr=1e-5, smooth_dr=1e-5, **options)
    logits, target = random_pair(3, 2, 8, 8, 8)
    outputs = [logits[..., ::s, ::s, ::s] for s in (1, 2, 4)]
    targets = [target[..., ::s, ::s, ::s] for s in (1, 2, 4)]
    ours = build_loss("dice_ce", labels=two_labels, batch_dice=True, num_scales=3)(outputs, targets)
    # nnU-Net halves the weight from scale to scale, leaves out the coarsest and makes the sum one.
    expected = sum(w * (single(o, t) - 1) for w, o, t in zip((2 / 3, 1 / 3), outputs, targets, strict=False))
    assert ours.item() == pytest.approx(float(expected), abs=1e-5)


def test_options_reach_their_loss_and_wrong_ones_are_answered(two_labels: LabelScheme) -> None:
    logits, target = random_pair(3, 2, 6, 5)

    def value(text: str) -> float:
        return float(build_loss(text, labels=two_labels, batch_dice=True, num_scales=1)([logits], [target]))

    assert value("focal(focus=0)") == pytest.approx(value("ce"))
    assert value("topk(share=1)") == pytest.approx(value("ce"))
    assert value("tversky(alpha=0.5, beta=0.5, smooth=0)") == pytest.approx(value("dice(smooth=0)"))
    assert value("ce+0.5*focal(focus=0)") == pytest.approx(1.5 * value("ce"))
    for text, answer in [
        ("focal(fokus=1)", "the loss focal has no option 'fokus'; did you mean focus"),
        ("mse(alpha=1)", "has no option 'alpha'; its options: brier"),
        ("focal(focus)", "'focus' is no option"),
        ("topk(share=2)", "share must lie above 0"),
    ]:
        with pytest.raises(SettingsError, match=answer.replace("(", r"\(")):
            value(text)


def test_distances_in_millimetres_are_those_between_centers_of_voxels() -> None:
    mask, edges = random_mask(4, 6, 5, seed=3), (5.0, 1.5, 0.7)
    inside, outside = (np.argwhere(m) * edges for m in (mask, ~mask))
    expected = np.zeros(mask.shape)
    expected[~mask] = cdist(outside, inside).min(axis=1)
    expected[mask] = 0.7 - cdist(inside, outside).min(axis=1)
    np.testing.assert_allclose(signed_distances(mask, edges), expected, rtol=1e-6, atol=1e-6)


def test_boundary_in_millimetres_knows_the_voxels_of_every_resolution(two_labels: LabelScheme) -> None:
    fine, coarse = random_pair(3, 2, 4, 8, 6), random_pair(3, 2, 4, 4, 3)
    extent = (20.0, 8.0, 9.0)  # voxels of 5 x 1 x 1.5 mm, and of 5 x 2 x 3 mm
    expected = []
    for (logits, target), edges in ((fine, (5.0, 1.0, 1.5)), (coarse, (5.0, 2.0, 3.0))):
        distances = [[signed_distances((target[b, 0] == k).numpy(), edges) for k in (1, 2)] for b in range(2)]
        expected.append(np.mean(logits.softmax(1).numpy()[:, 1:] * np.asarray(distances)))
    criterion = build_loss("boundary(mm=1)", labels=two_labels, batch_dice=True, num_scales=1, extent=extent).loss
    assert [float(criterion(*pair)) for pair in (fine, coarse)] == pytest.approx(expected)
    in_voxels = build_loss("boundary", labels=two_labels, batch_dice=True, num_scales=1, extent=extent).loss
    assert float(in_voxels(*fine)) == float(BoundaryLoss(labels=two_labels)(*fine))
    for text, says in (("boundary(mm=2)", "mm must be 0 or 1"), ("boundary(extent=3)", "no option 'extent'")):
        with pytest.raises(SettingsError, match=says):
            build_loss(text, labels=two_labels, batch_dice=True, num_scales=1, extent=extent)
    with pytest.raises(SettingsError, match="size of a patch in mm is not known"):
        build_loss("boundary(mm=1)", labels=two_labels, batch_dice=True, num_scales=1)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("shape", [(2, 9, 11), (2, 7, 8, 6)])
def test_dou_is_the_formula_of_its_paper(two_labels: LabelScheme, shape: tuple[int, ...], batch_dice: bool) -> None:
    """Surfaces counted voxel by voxel, with SciPy's erosion as a second way to find them."""
    logits, _ = random_pair(3, *shape)
    grid = np.indices(shape[1:])
    middle = np.asarray([n // 2 for n in shape[1:]]).reshape(-1, *[1] * len(shape[1:]))
    label = np.where(np.abs(grid - middle).max(axis=0) < 3, 1, 0)
    label[..., -2:] = 2
    target = torch.from_numpy(np.stack([label, np.roll(label, 1, axis=0)]).astype(np.int16))[:, None]
    probabilities, smooth = logits.softmax(1).numpy(), 1e-5
    groups, ratios = ([[0, 1]] if batch_dice else [[0], [1]]), []
    for patches in groups:
        for k in (1, 2):
            masks = [target[b, 0].numpy() == k for b in patches]
            size = sum(int(mask.sum()) for mask in masks)
            surface = sum(int((mask & ~binary_erosion(mask)).sum()) for mask in masks)
            alpha = min(1 - 2 * (surface + smooth) / (size + smooth), 0.8)
            squares = sum(float((probabilities[b, k] ** 2).sum()) for b in patches) + size + smooth
            overlap = sum(float(probabilities[b, k][mask].sum()) for b, mask in zip(patches, masks, strict=True))
            ratios.append((squares - 2 * overlap) / (squares - (1 + alpha) * overlap))
    found = float(build_loss("dou", labels=two_labels, batch_dice=batch_dice, num_scales=1)([logits], [target]))
    assert found == pytest.approx(np.mean(ratios))
    perfect = build_loss("dou", labels=two_labels, batch_dice=batch_dice, num_scales=1)
    assert float(perfect([certain(target, 3)], [target])) == pytest.approx(0.0, abs=1e-4)


def test_dou_learns_a_ball(two_labels: LabelScheme) -> None:
    grid = np.indices((16, 16))
    target = torch.from_numpy((((grid - 8) ** 2).sum(axis=0) < 25).astype(np.int16))[None, None]
    logits = torch.zeros(1, 3, 16, 16, requires_grad=True)
    criterion = build_loss("dou", labels=two_labels, batch_dice=False, num_scales=1)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        criterion([logits], [target]).backward()
        optimizer.step()
    found = (logits[0].softmax(0)[1] > 0.5).numpy()
    assert (found == (target[0, 0].numpy() == 1)).mean() > 0.98
