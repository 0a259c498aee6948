from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoseg.data.loading import Batch, PatchBatches, make_loader
from autoseg.data.policy import PolicyName, SamplingPolicy
from autoseg.errors import TrainingError
from autoseg.geometry import BoundingBox, Geometry
from autoseg.labels import LabelScheme
from autoseg.preprocessing.case import CaseTrace, PreprocessedCase
from autoseg.preprocessing.store import CaseStore, write_case

Factory = Callable[..., Any]
CASES = ("case_0", "case_1", "case_2")


def assert_same(left: Iterable[Batch], right: Iterable[Batch]) -> None:
    for a, b in zip(left, right, strict=True):
        assert a.case_ids == b.case_ids
        assert torch.equal(a.images, b.images)
        assert all(torch.equal(s, t) for s, t in zip(a.targets, b.targets, strict=True))


@pytest.fixture
def load(make_store: Factory, make_configuration: Factory, two_labels: LabelScheme) -> Factory:
    store = make_store((14, 12, 10), two_labels)
    configuration = make_configuration((8, 8, 8))

    def loader(**options: Any) -> list[Batch]:  # noqa: ANN401
        settings = {
            "augment": True,
            "sampling": SamplingPolicy(),
            "seed": 7,
            "num_steps": 6,
            **options,
        }
        return list(make_loader(store, CASES, configuration, two_labels, **settings))

    return loader


def test_batches_do_not_depend_on_the_number_of_workers(load: Factory) -> None:
    reference = load(workers=0)
    for workers in (1, 2):
        assert_same(reference, load(workers=workers))


def test_batches_do_not_depend_on_the_threads_of_this_process(
    make_store: Factory, make_configuration: Factory, two_labels: LabelScheme
) -> None:
    # Large enough for torch to share sums among threads, which rounds them differently.
    store = make_store((44, 44, 44), two_labels)
    configuration = make_configuration((40, 40, 40))
    batches = []
    before = torch.get_num_threads()
    try:
        for num_threads in (1, 4):
            torch.set_num_threads(num_threads)
            loader = make_loader(
                store,
                CASES,
                configuration,
                two_labels,
                augment=True,
                sampling=SamplingPolicy(),
                seed=7,
                num_steps=8,
            )
            batches.append(list(loader))
            assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
    assert_same(*batches)


@pytest.mark.parametrize("start_method", [None, "fork", "spawn"])
def test_cases_on_disk_give_the_same_batches(
    start_method: str | None, tmp_path: Path, make_store: Factory, make_configuration: Factory, two_labels: LabelScheme
) -> None:
    store = make_store((14, 12, 10), two_labels)
    for case_id, case in store.cases.items():
        write_case(stored_form(case_id, case), tmp_path, patch_size=(8, 8, 8))
    configuration = make_configuration((8, 8, 8))
    options: Any = {"augment": True, "sampling": SamplingPolicy(), "seed": 7, "num_steps": 3}
    expected = make_loader(store, CASES, configuration, two_labels, **options)
    workers = 0 if start_method is None else 1
    loader = make_loader(
        CaseStore(tmp_path), CASES, configuration, two_labels, workers=workers, start_method=start_method, **options
    )
    assert_same(expected, loader)
    assert_same(expected, loader)  # once more, with what is open now


def stored_form(case_id: str, case: Any) -> PreprocessedCase:  # noqa: ANN401 - the case in memory of conftest.py
    shape, spacing = case.segmentation.shape, (1.0, 1.0, 1.0)
    geometry = Geometry(shape=shape, spacing=spacing)
    trace = CaseTrace(
        geometry=geometry,
        orientation_code=geometry.orientation,
        transpose=(0, 1, 2),
        original_shape=shape,
        box=BoundingBox.whole(shape),
        cropped_shape=shape,
        cropped_spacing=spacing,
        resampled_shape=shape,
        resampled_spacing=spacing,
    )
    return PreprocessedCase(
        id=case_id, image=case.image, segmentation=case.segmentation, foreground=case.foreground, trace=trace
    )


def test_a_resumed_run_sees_the_rest_of_the_batches(load: Factory) -> None:
    assert_same(load()[4:], load(start_step=4, num_steps=2))


def test_steps_seeds_and_streams_differ(load: Factory) -> None:
    first = load()
    assert len({batch.images.numpy().tobytes() for batch in first}) == len(first)
    assert not torch.equal(first[0].images, load(seed=8)[0].images)
    ids = [batch.case_ids for batch in load(num_steps=30)]
    assert ids != [batch.case_ids for batch in load(num_steps=30, augment=False)]


def test_global_random_states_are_left_alone(load: Factory) -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(4), np.random.random(4)
    torch.manual_seed(3)
    np.random.seed(3)
    load(num_steps=1)
    assert torch.equal(torch.rand(4), expected[0])
    assert np.array_equal(np.random.random(4), expected[1])


def test_a_loader_without_end_goes_on(
    make_store: Factory, make_configuration: Factory, two_labels: LabelScheme
) -> None:
    loader = make_loader(
        make_store((8, 8, 8), two_labels),
        CASES,
        make_configuration((8, 8, 8)),
        two_labels,
        augment=False,
        sampling=SamplingPolicy(foreground_share=0.0),
        seed=0,
    )
    batches = list(itertools.islice(loader, 5))
    assert len(batches) == 5
    assert isinstance(batches[0], Batch)
    assert isinstance(batches[0].case_ids, tuple)


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize(
    ("case_shape", "patch_size"),
    [
        ((14, 12, 10), (8, 8, 8)),  # larger than the patch
        ((5, 30, 9), (8, 16, 16)),  # smaller in two axes
        ((6, 40, 40), (4, 32, 32)),  # anisotropic: turned within planes
        ((3, 20, 20), (16, 16)),  # slices of a volume
        ((20, 9), (16, 16)),  # images
    ],
)
def test_every_scale_has_its_shape(
    case_shape: tuple[int, ...],
    patch_size: tuple[int, ...],
    augment: bool,
    make_store: Factory,
    make_configuration: Factory,
    two_labels: LabelScheme,
) -> None:
    store = make_store(case_shape, two_labels, num_channels=2)
    configuration = make_configuration(patch_size, num_channels=2)
    loader = make_loader(
        store,
        CASES,
        configuration,
        two_labels,
        augment=augment,
        sampling=SamplingPolicy(),
        seed=1,
        num_steps=8,
    )
    for batch in loader:
        assert batch.images.shape == (2, 2, *patch_size)
        assert batch.images.dtype == torch.float32
        half = tuple(n // 2 for n in patch_size)
        assert [t.shape for t in batch.targets] == [(2, 1, *patch_size), (2, 1, *half)]
        assert all(t.dtype == torch.int16 for t in batch.targets)
        assert set(batch.targets[0].unique().tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("patch_size", [(8, 8, 8), (8, 8)])
@pytest.mark.parametrize(("share", "num_forced"), [(0.0, 0), (0.33, 1), (1.0, 3)])
def test_the_last_patches_of_a_batch_hold_foreground(
    share: float,
    num_forced: int,
    patch_size: tuple[int, ...],
    make_store: Factory,
    make_configuration: Factory,
    two_labels: LabelScheme,
) -> None:
    store = make_store((60, 60, 60), two_labels, empty=True)
    for case in store.cases.values():
        case.segmentation[41, 2, 58] = 2
        case.foreground = (case.foreground[0], np.array([[41, 2, 58]], dtype=np.int32))
    configuration = make_configuration(patch_size, batch_size=3)
    loader = make_loader(
        store,
        CASES,
        configuration,
        two_labels,
        augment=False,
        sampling=SamplingPolicy(foreground_share=share),
        seed=0,
        num_steps=10,
    )
    for batch in loader:
        holds = [bool((target == 2).any()) for target in batch.targets[0]]
        assert all(holds[3 - num_forced :])
        assert not any(holds[: 3 - num_forced])  # one voxel in sixty cubed is not met by chance


def test_regions_become_masks(
    make_store: Factory, make_configuration: Factory, regions_and_ignore: LabelScheme
) -> None:
    store = make_store((12, 12, 12), regions_and_ignore)
    dataset = PatchBatches(
        store,
        CASES,
        make_configuration((8, 8, 8)),
        regions_and_ignore,
        augment=True,
        sampling=SamplingPolicy(),
        seed=0,
    )
    whole, tumor, ignored = dataset[0].targets[0].unbind(1)
    assert whole.dtype == torch.bool
    assert not (tumor & ~whole).any()
    assert not (ignored & whole).any()
    assert ignored.any()


def test_validation_patches_are_cut_from_the_case(
    make_store: Factory, make_configuration: Factory, two_labels: LabelScheme
) -> None:
    store = make_store((8, 8, 8), two_labels)
    dataset = PatchBatches(
        store,
        CASES,
        make_configuration((8, 8, 8)),
        two_labels,
        augment=False,
        sampling=SamplingPolicy(foreground_share=0.0),
        seed=0,
    )
    batch = dataset[0]
    for image, target, case_id in zip(batch.images, batch.targets[0], batch.case_ids, strict=True):
        assert np.array_equal(image.numpy(), store.cases[case_id].image)
        assert np.array_equal(target[0].numpy(), store.cases[case_id].segmentation)


def test_cases_are_not_modified(make_store: Factory, make_configuration: Factory, two_labels: LabelScheme) -> None:
    store = make_store((20, 20, 20), two_labels)
    before = pickle.dumps(store.cases)
    configuration = make_configuration((8, 8, 8), use_mask=True)
    loader = make_loader(
        store,
        CASES,
        configuration,
        two_labels,
        augment=True,
        sampling=SamplingPolicy(foreground_share=0.5),
        seed=0,
        num_steps=20,
    )
    assert len(list(loader)) == 20
    assert pickle.dumps(store.cases) == before


def test_nothing_to_draw_from_is_refused(make_configuration: Factory, two_labels: LabelScheme) -> None:
    with pytest.raises(TrainingError, match="no cases"):
        make_loader(
            None,  # type: ignore[arg-type]  # never reached
            [],
            make_configuration((8, 8, 8)),
            two_labels,
            augment=True,
            sampling=SamplingPolicy(),
            seed=0,
        )


def test_without_augmentation_training_patches_are_as_stored(
    make_configuration: Factory, make_store: Factory, two_labels: LabelScheme
) -> None:
    configuration = make_configuration((8, 8, 8))
    store = make_store((8, 8, 8), two_labels)  # as large as a patch: every patch is the whole case
    batches = make_loader(
        store,
        sorted(store.cases),
        configuration,
        two_labels,
        augment=True,
        sampling=SamplingPolicy(foreground_share=0.0),
        seed=1,
        num_steps=5,
        augmentation="none",
    )
    for batch in batches:
        for image, case_id in zip(batch.images, batch.case_ids, strict=True):
            np.testing.assert_array_equal(image.numpy(), store.cases[case_id].image)


@pytest.mark.parametrize("policy", ["case", "class", "probabilistic", "pos_neg", "windows"])
def test_shares_of_a_batch_are_the_patches_of_the_whole(
    policy: PolicyName, make_store: Factory, make_configuration: Factory, two_labels: LabelScheme
) -> None:
    store, configuration = make_store((14, 12, 10), two_labels), make_configuration((8, 8, 8))
    size = configuration.batch_size
    options: Any = {
        "augment": True,
        "sampling": SamplingPolicy(name=policy),
        "seed": 7,
        "num_steps": 5,
    }
    whole = list(make_loader(store, CASES, configuration, two_labels, **options))
    for share in (range(1), range(1, size)):
        part = make_loader(store, CASES, configuration, two_labels, patches=share, **options)
        for batch, expected in zip(part, whole, strict=True):
            assert batch.case_ids == expected.case_ids
            assert torch.equal(batch.images, expected.images[share.start : share.stop])
            for target, reference in zip(batch.targets, expected.targets, strict=True):
                assert torch.equal(target, reference[share.start : share.stop])


def test_processes_that_take_turns_see_every_batch_once(load: Factory) -> None:
    whole = load(augment=False)
    turns = [load(augment=False, start_step=rank, num_steps=6 - rank, stride=4) for rank in range(4)]
    assert [len(turn) for turn in turns] == [2, 2, 1, 1]
    assert_same(whole, [turns[step % 4][step // 4] for step in range(6)])
