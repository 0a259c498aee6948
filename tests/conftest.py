"""Fixtures that every test may use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from autoseg.codec import write_json
from autoseg.geometry import Geometry
from autoseg.image import Image, Segmentation, write_image, write_segmentation
from autoseg.labels import LabelScheme
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.plan import Configuration, NetworkPlan, NormalizationPlan, Plan, ResamplingPlan
from autoseg.workspace import Workspace

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")

_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Reference outputs and real images that lie beside the checkout; tests that need them skip where they do not."""
    if not _SHARED.is_dir():
        pytest.skip(f"needs the reference data in {_SHARED.name}/ beside the checkout")
    return _SHARED


@pytest.fixture(scope="session")
def hippocampus(shared_dir: Path) -> Path:
    """100 labelled and 20 test MRIs of the hippocampus (Medical Segmentation Decathlon, task 4)."""
    return shared_dir / "data" / "hippocampus"


def write_ball_dataset(
    folder: Path, *, num_training: int = 6, num_test: int = 2, shape: tuple[int, ...] = (12, 20, 18)
) -> Path:
    """A dataset that a small network learns in seconds: a bright ball and a brighter core in noise, two spacings."""
    rng = np.random.default_rng(7)
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "shell": 1, "core": 2},
        "numTraining": num_training,
        "file_ending": ".nii.gz",
    }
    for number in range(num_training + num_test):
        part = "Tr" if number < num_training else "Ts"
        spacing = (2.0, 1.0, 1.0) if number % 2 else (1.6, 1.0, 1.0)
        grid = np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij"))
        center = np.asarray([n * s / 2 for n, s in zip(shape, spacing, strict=True)]) + rng.uniform(-2, 2, 3)
        distance = np.sqrt(((grid - center[:, None, None, None]) ** 2).sum(axis=0))
        segmentation = ((distance < 6).astype(np.uint8) + (distance < 3)).astype(np.uint8)
        intensities = 100 + 60 * segmentation + rng.normal(0, 12, shape)
        geometry = Geometry(shape=shape, spacing=spacing, origin=(10.0, -20.0, 30.0))
        image = Image(array=intensities.astype(np.float32)[None], geometry=geometry)
        write_image(folder / f"images{part}" / f"case{number:02d}_0000.nii.gz", image)
        labels_path = folder / f"labels{part}" / f"case{number:02d}.nii.gz"
        write_segmentation(labels_path, Segmentation(array=segmentation, geometry=geometry))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


@pytest.fixture(scope="session")
def ball_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six labelled and two test cases; shared, so never write to it."""
    return write_ball_dataset(tmp_path_factory.mktemp("ball") / "dataset")


@pytest.fixture(scope="session")
def cascade_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four labelled cases and a test case so large that little memory asks for a cascade; shared, never write to it."""
    folder = tmp_path_factory.mktemp("large") / "dataset"
    folder = write_ball_dataset(folder, num_training=4, num_test=1, shape=(32, 44, 44))
    folds = [{"train": ["case02", "case03"], "val": ["case00", "case01"]}]
    folds.append({"train": folds[0]["val"], "val": folds[0]["train"]})
    (folder / "splits_final.json").write_text(json.dumps(folds))
    return folder


@pytest.fixture(scope="session")
def planned_cascade(cascade_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The large dataset planned for very little memory and preprocessed; copy it before writing to it.

    Networks are made narrower and patches larger than planned, for speed.
    """
    folder = tmp_path_factory.mktemp("planned_cascade") / "workspace"
    workspace = plan_and_preprocess(cascade_dataset, workspace=folder, gpu_memory_gb=0.01, workers=0)
    plan = workspace.load_plan()
    quick = []
    for planned in plan.configurations:
        network = replace(planned.network, features=(8, 16, 16, 16)[: planned.network.num_stages])
        patch = (16, 32, 32) if planned.ndim == 3 else planned.patch_size
        quick.append(replace(planned, network=network, patch_size=patch))
    write_json(replace(plan, configurations=tuple(quick)), workspace.plan_path)
    return folder


@pytest.fixture(scope="session")
def planned_workspace(ball_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ball dataset, planned for very little memory and preprocessed; copy it before writing to it."""
    folder = tmp_path_factory.mktemp("planned") / "workspace"
    plan_and_preprocess(ball_dataset, workspace=folder, gpu_memory_gb=0.2, workers=0)
    return folder


@pytest.fixture
def workspace(planned_workspace: Path, tmp_path: Path) -> Workspace:
    """A planned and preprocessed workspace of the test's own."""
    return Workspace(Path(shutil.copytree(planned_workspace, tmp_path / "workspace")))


def _network(ndim: int) -> NetworkPlan:
    """Preprocessing never looks at the network; this one divides every patch."""
    return NetworkPlan(
        name="unet",
        features=(4,),
        strides=((1,) * ndim,),
        kernel_sizes=((3,) * ndim,),
        encoder_blocks=(1,),
        decoder_blocks=(),
    )


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., Plan]:
    """A plan with one configuration; unless asked otherwise it leaves grids and intensities as they are."""

    def make(
        *,
        spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
        transpose: tuple[int, ...] = (0, 1, 2),
        orientation: str | None = None,
        channels: tuple[str, ...] = ("MR",),
        labels: dict[str, Any] | None = None,
        normalization: NormalizationPlan | None = None,
        resampling: ResamplingPlan | None = None,
    ) -> Plan:
        normalization = normalization or NormalizationPlan(scheme="none")
        configuration = Configuration(
            name="3d_fullres",
            data="3d_fullres",
            spacing=spacing,
            median_shape=(8.0,) * len(spacing),
            patch_size=(8,) * len(spacing),
            batch_size=2,
            batch_dice=False,
            normalization=(normalization,) * len(channels),
            resampling=resampling or ResamplingPlan(),
            network=_network(len(spacing)),
        )
        return Plan(
            planner="unet",
            dataset="test",
            channels=channels,
            labels=LabelScheme.from_table(labels or {"background": 0, "a": 1, "b": 2}, where="dataset.json"),
            file_ending=".nii.gz",
            gpu_memory_gb=8,
            gpu_memory_source="test",
            orientation=orientation,
            transpose=transpose,
            median_spacing=spacing,
            median_shape=(8,) * len(transpose),
            configurations=(configuration,),
        )

    return make
