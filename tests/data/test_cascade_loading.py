"""The previous stage's segmentation is cut, turned and mirrored together with the image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.data.loading import make_loader
from autoseg.data.policy import SamplingPolicy
from autoseg.labels import LabelScheme
from autoseg.plan import Configuration
from autoseg.preprocessing.previous_stage import write_previous

Make = Callable[..., Configuration]


@pytest.fixture
def cascade(make_configuration: Make) -> Configuration:
    return replace(make_configuration((8, 16, 16), batch_size=2), name="3d_cascade_fullres", previous_stage="3d_lowres")


@pytest.fixture
def blocks(
    make_store: Callable[..., object], two_labels: LabelScheme, tmp_path: Path
) -> tuple[object, dict[str, Path]]:
    """Cases with large blocks of labels, and previous segmentations that are equal to them."""
    store = make_store((20, 30, 30), two_labels)
    paths = {}
    for number, (case_id, case) in enumerate(store.cases.items()):  # type: ignore[attr-defined]  # a MemoryStore
        coarse = np.random.default_rng(number).integers(0, 3, (5, 6, 6))
        case.segmentation[...] = np.kron(coarse, np.ones((4, 5, 5), dtype=int))
        paths[case_id] = tmp_path / f"{case_id}.b2nd"
        write_previous(paths[case_id], case.segmentation, patch_size=(8, 16, 16))
    return store, paths


@pytest.mark.parametrize("augment", [False, True])
def test_a_perfect_previous_stage_equals_the_target(
    cascade: Configuration,
    blocks: tuple[object, dict[str, Path]],
    two_labels: LabelScheme,
    augment: bool,
) -> None:
    store, paths = blocks
    loader = make_loader(
        store,  # type: ignore[arg-type]  # a MemoryStore
        sorted(paths),
        cascade,
        two_labels,
        augment=augment,
        sampling=SamplingPolicy(),
        seed=3,
        num_steps=15,
        previous=paths,
    )
    equal = []
    for batch in loader:
        assert batch.images.shape == (2, 3, 8, 16, 16)
        for image, target in zip(batch.images, batch.targets[0], strict=True):
            expected = torch.cat([target == 1, target == 2]).float()
            equal.append(torch.equal(image[1:], expected))
    # The distortions leave more than half of the patches alone.
    assert all(equal) if not augment else 0.5 < np.mean(equal) < 1.0
