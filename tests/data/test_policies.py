"""How patches are drawn, held against binomial laws, closed forms and MONAI."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, fisher_exact

from autoseg.data.loading import PatchBatches
from autoseg.data.policy import PatchChoice, PatchDraws, SamplingPolicy, draw_box
from autoseg.data.sampling import box_around
from autoseg.data.weights import annotated_share
from autoseg.errors import SettingsError
from autoseg.labels import LabelScheme

Factory = Callable[..., Any]
NUM = 2000


def choices(policy: SamplingPolicy, num_cases: int, *, batch_size: int, steps: range, **options: Any) -> list[Any]:  # noqa: ANN401
    draws = PatchDraws(
        [f"case_{i}" for i in range(num_cases)], policy, batch_size=batch_size, entropy=(3, 1), **options
    )
    return [c for step in steps for c in draws.of_step(step, np.random.default_rng(np.random.SeedSequence((3, step))))]


def likely(hits: int, num: int, share: float) -> bool:
    """Whether a count is one that a fair draw gives in all but one of ten thousand runs."""
    return bool(binomtest(hits, num, share).pvalue > 1e-4)


@pytest.fixture
def ball(make_store: Factory, two_labels: LabelScheme) -> Any:  # noqa: ANN401 - a MemoryStore
    """A case with two classes near a corner, and nothing of the image (-1) in its last third."""
    store = make_store((24, 24, 24), two_labels, num_cases=1, empty=True)
    case = store.cases["case_0"]
    case.segmentation[3:9, 3:9, 3:9] = 1
    case.segmentation[5:7, 5:7, 5:7] = 2
    case.segmentation[16:] = -1
    case.foreground = tuple(np.argwhere(case.segmentation == k).astype(np.int32) for k in (1, 2))
    return case


def center_labels(case: Any, policy: SamplingPolicy, size: int, *, forced: Callable[[int], bool]) -> Counter[int]:  # noqa: ANN401
    seen = Counter[int]()
    for number in range(NUM):
        choice = PatchChoice(case_id="case_0", is_forced=forced(number))
        box = draw_box(
            np.random.default_rng(number),
            case,
            choice,
            policy,
            patch_size=(size,) * 3,
            final_size=(size,) * 3,
            ignore_value=None,
        )
        center = tuple(a + size // 2 for a in box.start)
        seen[int(case.segmentation[center])] += 1
    return seen


def test_positive_patches_are_centered_on_a_class_and_negative_ones_on_background(ball: Any) -> None:  # noqa: ANN401
    policy = SamplingPolicy(name="pos_neg")
    positive = center_labels(ball, policy, 3, forced=lambda _: True)
    assert set(positive) == {1, 2}
    assert likely(positive[2], NUM, 0.5)  # by class, however small it is
    # Background of the image alone; a voxel at the border moves the patch, and its center, inside by one.
    negative = center_labels(ball, policy, 1, forced=lambda _: False)
    assert set(negative) == {0}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.75, 1.0])
@pytest.mark.parametrize("name", ["pos_neg", "probabilistic"])
def test_the_share_of_forced_patches_is_binomial(name: Any, share: float) -> None:  # noqa: ANN401
    policy = SamplingPolicy(name=name, foreground_share=share)
    forced = [c.is_forced for c in choices(policy, 5, batch_size=2, steps=range(NUM // 2))]
    assert likely(sum(forced), NUM, share)
    pairs = Counter(zip(forced[::2], forced[1::2], strict=True))  # patches of a batch are independent
    assert likely(pairs[True, True], NUM // 2, share**2)


def test_the_hit_rate_is_that_of_monai(ball: Any) -> None:  # noqa: ANN401
    transforms = pytest.importorskip("monai.transforms")
    share, size, num = 0.5, 6, 600
    ball.segmentation[ball.segmentation == 2] = 1  # MONAI draws among all foreground voxels alike
    ball.segmentation[ball.segmentation < 0] = 0
    ball.foreground = (np.argwhere(ball.segmentation == 1).astype(np.int32), ball.foreground[1][:0])
    theirs = transforms.RandCropByPosNegLabeld(
        ["label"], label_key="label", spatial_size=(size,) * 3, pos=share, neg=1 - share, num_samples=num
    )
    theirs.set_random_state(5)
    windows = [np.asarray(crop["label"])[0] for crop in theirs({"label": ball.segmentation[None]})]
    policy = SamplingPolicy(name="pos_neg", foreground_share=share)
    ours = []
    for number, choice in enumerate(choices(policy, 1, batch_size=1, steps=range(num))):
        generator = np.random.default_rng(number)
        options: Any = {"patch_size": (size,) * 3, "final_size": (size,) * 3, "ignore_value": None}
        ours.append(ball.segmentation[draw_box(generator, ball, choice, policy, **options).slices])
    assert {w.shape for w in (*ours, *windows)} == {(size,) * 3}  # never outside the volume
    for hit in (
        lambda w: w[(size // 2,) * 3] > 0,  # centered on foreground
        lambda w: w.any(),  # any foreground
        lambda w: w.mean() > 0.3,
    ):
        table = [[sum(map(hit, w)), num - sum(map(hit, w))] for w in (ours, windows)]
        assert fisher_exact(table).pvalue > 1e-4


def test_a_patch_around_a_voxel_stays_inside_and_centered_where_it_fits() -> None:
    shape = (20, 4, 9)
    for position in np.ndindex(*shape):
        box = box_around(np.asarray(position), shape, patch_size=(8, 8, 8), final_size=(6, 6, 4))
        # What the network sees is the middle: one voxel, one and two of margin.
        middle = [(a + m, b - m) for a, b, m in zip(box.start, box.stop, (1, 1, 2), strict=True)]
        assert 0 <= middle[0][0] <= position[0] < middle[0][1] <= 20
        assert middle[1] == (-1, 5)  # the volume is smaller: in the middle
        assert 0 <= middle[2][0] <= position[2] < middle[2][1] <= 9
        if 3 <= position[0] <= 17:
            assert position[0] - middle[0][0] == 3


@pytest.mark.parametrize(
    ("num_cases", "share", "windows", "batch"), [(20, 0.4, 16, 8), (7, 0.4, 5, 4), (10, 0.7, 3, 8)]
)
def test_an_epoch_of_windows_shows_its_share_of_the_cases(
    num_cases: int, share: float, windows: int, batch: int
) -> None:
    policy = SamplingPolicy(name="windows", cases_per_epoch=share, windows_per_case=windows)
    steps = policy.epoch_steps(num_cases, batch)
    shown = math.ceil(round(share * num_cases, 9))
    assert steps == math.ceil(shown * windows / batch)
    epochs = []
    for epoch in range(3):
        drawn = choices(policy, num_cases, batch_size=batch, steps=range(epoch * steps, (epoch + 1) * steps))
        counts = Counter(c.case_id for c in drawn)
        assert len(counts) == shown
        assert min(counts.values()) == windows  # and what fills up the last batch
        assert sum(counts.values()) == steps * batch
        epochs.append(frozenset(counts))
    if num_cases == 20:
        assert len(set(epochs)) == 3  # other cases in every epoch
        late = choices(policy, num_cases, batch_size=batch, steps=range(2 * steps, 2 * steps + 1))
        assert {c.case_id for c in late} <= epochs[2]  # also for who begins there


def test_windows_are_accepted_by_their_share_of_image_and_foreground(ball: Any) -> None:  # noqa: ANN401
    options: Any = {"patch_size": (8,) * 3, "final_size": (6,) * 3, "ignore_value": None}
    tests = {"min_image_share": 0.9, "min_foreground_share": 0.1}

    def shares(**limits: Any) -> np.ndarray:  # noqa: ANN401
        policy = SamplingPolicy(name="windows", **limits)
        choice = PatchChoice(case_id="case_0", is_forced=False)
        found = []
        for number in range(200):
            box = draw_box(np.random.default_rng(number), ball, choice, policy, **options)
            start = [max(0, a + 1) for a in box.start]
            part = ball.segmentation[tuple(slice(a, b - 1) for a, b in zip(start, box.stop, strict=True))]
            found.append((np.count_nonzero(part >= 0) / 6**3, np.count_nonzero(part > 0) / 6**3))
        return np.asarray(found)

    plain, tested = shares(), shares(**tests, max_tries=1000)
    assert (plain.min(axis=0) < 0.05).all()
    assert tested[:, 0].min() >= 0.9
    assert tested[:, 1].min() >= 0.1
    # The first windows that pass are what is left of the untested ones.
    passed = np.all(plain >= [0.9, 0.1], axis=1)
    assert passed.any()
    np.testing.assert_array_equal(tested[passed], plain[passed])
    np.testing.assert_array_equal(shares(**tests, max_tries=1), plain)


def test_patches_of_a_case_come_together() -> None:
    drawn = choices(SamplingPolicy(patches_per_case=3), 50, batch_size=8, steps=range(40))
    for step in range(40):
        cases = [c.case_id for c in drawn[8 * step : 8 * step + 8]]
        assert cases[0] == cases[1] == cases[2]
        assert cases[3] == cases[4] == cases[5]
        assert cases[6] == cases[7]
        assert len({cases[0], cases[3], cases[6]}) > 1


def test_cases_are_drawn_as_often_as_they_weigh() -> None:
    weights = {"case_0": 1.0, "case_1": 0.65, "case_2": 0.0, "case_3": 0.85}
    counts = Counter(
        c.case_id for c in choices(SamplingPolicy(), 4, batch_size=2, steps=range(NUM // 2), weights=weights)
    )
    assert counts["case_2"] == 0
    for case, weight in weights.items():
        assert likely(counts[case], NUM, weight / 2.5)
    with pytest.raises(SettingsError, match="case case_4 has no weight"):
        choices(SamplingPolicy(), 5, batch_size=2, steps=range(1), weights=weights)
    with pytest.raises(SettingsError, match="not all zero"):
        choices(SamplingPolicy(), 1, batch_size=2, steps=range(1), weights={"case_0": 0.0})


def test_the_annotated_share_counts_what_is_not_ignored(
    make_case: Factory, two_labels: LabelScheme, two_labels_and_ignore: LabelScheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoseg.data.weights._SLAB_VOXELS", 200)  # several slabs, the last one thinner
    case = make_case((11, 10, 9), two_labels_and_ignore)
    assert annotated_share(case, two_labels_and_ignore) == pytest.approx(np.mean(case.segmentation != 3))
    assert annotated_share(make_case((5, 5, 5), two_labels), two_labels) == 1.0


@pytest.mark.parametrize("name", ["probabilistic", "pos_neg", "windows"])
@pytest.mark.parametrize("patch_size", [(8, 8, 8), (8, 8)])
def test_batches_are_functions_of_seed_and_step(
    name: Any,  # noqa: ANN401
    patch_size: tuple[int, ...],
    make_store: Factory,
    make_configuration: Factory,
    two_labels_and_ignore: LabelScheme,
) -> None:
    store = make_store((12, 14, 10), two_labels_and_ignore)
    policy = SamplingPolicy(name=name, min_foreground_share=0.1, cases_per_epoch=0.7, windows_per_case=2)

    def batches() -> PatchBatches:
        configuration = make_configuration(patch_size)
        ids = sorted(store.cases)
        return PatchBatches(store, ids, configuration, two_labels_and_ignore, augment=True, sampling=policy, seed=5)

    forward, backward = batches(), batches()
    ours = [forward[step] for step in range(6)]
    theirs = [backward[step] for step in reversed(range(6))][::-1]
    for one, other in zip(ours, theirs, strict=True):
        assert one.case_ids == other.case_ids
        assert one.images.equal(other.images)
        assert one.images.shape == (2, 1, *patch_size)
