"""Laws that hold for every loss, and for the sums of them that training minimizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoseg.errors import SettingsError
from autoseg.labels import LabelScheme
from autoseg.losses.deep_supervision import DeepSupervisionLoss, scale_weights
from autoseg.losses.factory import LOSSES, build_loss

SCHEMES = ("two_labels", "two_labels_and_ignore", "two_regions", "two_regions_and_ignore")


@pytest.fixture(params=SCHEMES)
def labels(request: pytest.FixtureRequest) -> LabelScheme:
    scheme = request.getfixturevalue(request.param)
    assert isinstance(scheme, LabelScheme)
    return scheme


def random_pair(labels: LabelScheme, *, seed: int = 0, shape: tuple[int, ...] = (4, 3, 2)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, labels.num_outputs, *shape, generator=generator, dtype=torch.float64)
    segmentation = torch.randint(0, 3 + (labels.ignore_value is not None), (2, *shape), generator=generator)
    if not labels.has_regions:
        return logits, segmentation[:, None].to(torch.int16)
    masks = [torch.isin(segmentation, torch.tensor(t.values)) for t in labels.targets]
    if labels.ignore_value is not None:
        masks.append(segmentation == labels.ignore_value)
    return logits, torch.stack(masks, dim=1)


def ignored(target: Tensor, labels: LabelScheme) -> Tensor:
    return target[:, -1:] if labels.has_regions else target == labels.num_outputs


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("name", LOSSES.names())
def test_gradients_equal_finite_differences(name: str, batch_dice: bool, labels: LabelScheme) -> None:
    logits, target = random_pair(labels)
    criterion = build_loss(name, labels=labels, batch_dice=batch_dice, num_scales=1)
    assert torch.autograd.gradcheck(lambda x: criterion([x], [target]), logits.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("name", LOSSES.names())
@pytest.mark.parametrize("scheme", ["two_labels_and_ignore", "two_regions_and_ignore"])
def test_ignored_voxels_have_no_influence(name: str, scheme: str, request: pytest.FixtureRequest) -> None:
    labels: LabelScheme = request.getfixturevalue(scheme)
    logits, target = random_pair(labels)
    where = ignored(target, labels).bool()
    assert 0 < where.sum() < where.numel()
    criterion = build_loss(name, labels=labels, batch_dice=False, num_scales=1)
    disturbed = torch.where(where, -5.0 * logits, logits).requires_grad_()
    loss = criterion([disturbed], [target])
    assert loss.item() == pytest.approx(criterion([logits], [target]).item(), abs=1e-12)
    loss.backward()
    assert disturbed.grad is not None
    assert (disturbed.grad[where.expand_as(logits)] == 0).all()


@pytest.mark.parametrize("scheme", ["two_labels_and_ignore", "two_regions_and_ignore"])
def test_a_batch_without_annotation_teaches_nothing(scheme: str, request: pytest.FixtureRequest) -> None:
    labels: LabelScheme = request.getfixturevalue(scheme)
    logits, target = random_pair(labels)
    target = torch.ones_like(target) if labels.has_regions else torch.full_like(target, labels.num_outputs)
    logits.requires_grad_()
    loss = build_loss("dice_ce", labels=labels, batch_dice=True, num_scales=1)([logits], [target])
    loss.backward()
    assert loss.item() == pytest.approx(-1)
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_an_ignore_label_that_does_not_occur_changes_nothing(
    two_labels: LabelScheme, two_labels_and_ignore: LabelScheme
) -> None:
    logits, target = random_pair(two_labels)
    losses = [
        build_loss("dice_ce", labels=labels, batch_dice=False, num_scales=1)([logits], [target]).item()
        for labels in (two_labels, two_labels_and_ignore)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)


def test_the_sum_is_the_sum(labels: LabelScheme) -> None:
    logits, target = random_pair(labels)
    parts = {
        name: build_loss(name, labels=labels, batch_dice=True, num_scales=1)([logits], [target]).item()
        for name in ("dice", "cross_entropy", "dice_ce")
    }
    assert parts["dice_ce"] == pytest.approx(parts["dice"] + parts["cross_entropy"])


def test_gradient_steps_reach_the_optimum(labels: LabelScheme) -> None:
    logits, target = random_pair(labels)
    logits = (0.1 * logits).requires_grad_()
    criterion = build_loss("dice_ce", labels=labels, batch_dice=True, num_scales=1)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = criterion([logits], [target])
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
    assert loss.item() < -0.98


def test_weights_of_six_stages() -> None:
    assert scale_weights(5) == pytest.approx((0.5333, 0.2667, 0.1333, 0.0667, 0.0), abs=1e-4)


def test_few_scales_have_finite_weights() -> None:
    assert scale_weights(1) == (1.0,)
    assert scale_weights(2) == (1.0, 0.0)
    with pytest.raises(ValueError, match="positive"):
        scale_weights(0)


def test_scales_are_summed_with_their_weights(two_labels: LabelScheme) -> None:
    pairs = [random_pair(two_labels, seed=i, shape=(n, n)) for i, n in enumerate((8, 4, 2, 1))]
    criterion = build_loss("dice_ce", labels=two_labels, batch_dice=True, num_scales=4)
    single = build_loss("dice_ce", labels=two_labels, batch_dice=True, num_scales=1)
    expected = sum(
        weight * single([logits], [target]).item()
        for weight, (logits, target) in zip((4 / 7, 2 / 7, 1 / 7), pairs[:3], strict=True)
    )
    assert criterion([x for x, _ in pairs], [t for _, t in pairs]).item() == pytest.approx(expected)


def test_the_last_scale_cannot_spoil_the_sum(two_labels: LabelScheme) -> None:
    pairs = [random_pair(two_labels, shape=(n, n)) for n in (8, 4, 2)]
    pairs[-1][0].fill_(float("nan"))
    criterion = build_loss("dice_ce", labels=two_labels, batch_dice=True, num_scales=3)
    assert torch.isfinite(criterion([x for x, _ in pairs], [t for _, t in pairs]))


def test_a_wrong_number_of_outputs_is_a_defect(two_labels: LabelScheme) -> None:
    logits, target = random_pair(two_labels)
    criterion: DeepSupervisionLoss = build_loss("dice_ce", labels=two_labels, batch_dice=True, num_scales=2)
    with pytest.raises(ValueError, match="zip"):
        criterion([logits], [target])


def test_a_tensor_is_a_single_scale(two_labels: LabelScheme) -> None:
    logits, target = random_pair(two_labels)
    criterion = build_loss("dice_ce", labels=two_labels, batch_dice=True, num_scales=1)
    assert criterion(logits, [target]) == criterion([logits], [target])


def test_an_unknown_loss_names_close_ones(two_labels: LabelScheme) -> None:
    with pytest.raises(SettingsError, match="dice_ce"):
        build_loss("dice_cee", labels=two_labels, batch_dice=True, num_scales=1)
