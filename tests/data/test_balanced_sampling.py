"""Rare classes: a target of the dataset first, then a case that has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autoseg.data.loading import PatchBatches
from autoseg.data.policy import SamplingPolicy
from autoseg.labels import LabelScheme

Factory = Callable[..., Any]


@pytest.fixture
def rare(make_store: Factory, two_labels: LabelScheme) -> Any:  # noqa: ANN401 - a MemoryStore
    """Ten cases with organ in a corner; the tumor, one voxel in the other corner, is in one of them alone."""
    store = make_store((12, 12, 12), two_labels, num_cases=10, empty=True)
    for number, case in enumerate(store.cases.values()):
        case.segmentation[1, 1, 1] = 1
        if number == 7:
            case.segmentation[9, 9, 9] = 2
        case.foreground = tuple(np.argwhere(case.segmentation == k).astype(np.int32) for k in (1, 2))
    return store


@pytest.mark.parametrize("balanced", [False, True])
def test_a_class_in_one_case_of_ten_is_seen_in_half_of_the_forced_patches(
    rare: Any,  # noqa: ANN401
    make_configuration: Factory,
    two_labels: LabelScheme,
    *,
    balanced: bool,
) -> None:
    batches = PatchBatches(
        rare,
        sorted(rare.cases),
        make_configuration((4, 4, 4), batch_size=1),
        two_labels,
        augment=False,
        sampling=SamplingPolicy(name="class" if balanced else "case", foreground_share=1.0),
        seed=4,
    )
    num_draws = 600
    seen = Counter(int(batches[step].targets[0].max()) for step in range(num_draws))
    # By case: one case in ten, and there every second patch.
    share = 0.5 if balanced else 0.05
    assert seen[1] + seen[2] == num_draws
    assert seen[2] == pytest.approx(share * num_draws, abs=4 * (num_draws * share * (1 - share)) ** 0.5)


def test_only_forced_patches_are_balanced_and_the_case_is_named(
    rare: Any,  # noqa: ANN401
    make_configuration: Factory,
    two_labels: LabelScheme,
) -> None:
    configuration = make_configuration((4, 4, 4), batch_size=2)
    ids = sorted(rare.cases)
    options: dict[str, Any] = {"augment": False, "seed": 4}
    plain = PatchBatches(rare, ids, configuration, two_labels, sampling=SamplingPolicy(), **options)
    by_class = SamplingPolicy(name="class")
    balanced = PatchBatches(rare, ids, configuration, two_labels, sampling=by_class, **options)
    for step in range(50):
        assert balanced[step].case_ids[0] == plain[step].case_ids[0]
        tumor = balanced[step].targets[0][1].max() == 2
        if tumor:
            assert balanced[step].case_ids[1] == "case_7"
