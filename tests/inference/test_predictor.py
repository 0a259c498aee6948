"""From an image to probabilities on its own grid, with networks whose answers are known."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from autoseg.errors import DatasetError, SettingsError
from autoseg.geometry import Geometry
from autoseg.image import Image, Segmentation
from autoseg.inference.model import ModelRecord, TrainedModel, build_model
from autoseg.inference.predictor import (
    ConfigurationPredictor,
    InferenceOptions,
    logit_slabs,
    logits_to_probabilities,
    outside_logits,
)
from autoseg.inference.sliding_window import num_streams
from autoseg.labels import LabelScheme
from autoseg.networks.base import SegmentationNetwork
from autoseg.networks.factory import build_network
from autoseg.plan import Plan

Records = Callable[..., ModelRecord]
REGIONS = LabelScheme.from_table({"background": 0, "whole": [1, 2], "core": [2]}, (1, 2), where="test")


class Constant(SegmentationNetwork):
    """Answers every voxel with the same logits."""

    def __init__(self, logits: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(logits))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        shape = (len(patches), -1, *patches.shape[2:])
        return self.logits.reshape(1, -1, *(1,) * (patches.ndim - 2)).expand(shape).clone()


class Mixture(SegmentationNetwork):
    """Answers with a fixed combination of the input's channels; remembers what it was given."""

    def __init__(self, weights: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights))
        self.calls: list[torch.Tensor] = []

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        self.calls.append(patches.clone())
        return torch.einsum("kc,bc...->bk...", self.weights, patches)


def plan_for(record: ModelRecord, *, transpose: tuple[int, ...], orientation: str | None = None) -> Plan:
    return Plan(
        planner="unet",
        dataset="Dataset001_Test",
        channels=tuple(f"channel {i}" for i in range(len(record.configuration.normalization))),
        labels=record.labels,
        file_ending=".nii.gz",
        gpu_memory_gb=8.0,
        gpu_memory_source="test",
        orientation=orientation,
        transpose=transpose,
        median_spacing=(1.0,) * len(transpose),
        median_shape=(12.0,) * len(transpose),
        configurations=(record.configuration,),
    )


def predictor_for(
    record: ModelRecord,
    networks: Sequence[SegmentationNetwork],
    options: InferenceOptions = InferenceOptions(),
    *,
    transpose: tuple[int, ...] = (0, 1, 2),
    orientation: str | None = None,
) -> ConfigurationPredictor:
    models = [TrainedModel(record=record, network=network) for network in networks]
    return ConfigurationPredictor(plan_for(record, transpose=transpose, orientation=orientation), models, options)


def probabilities_of(
    predictor: ConfigurationPredictor, image: Image, *, case_id: str = "image", previous: Segmentation | None = None
) -> np.ndarray:
    return predictor.predict(image, case_id=case_id, previous=previous).to_array()


def logits_of(models: Sequence[TrainedModel], image: np.ndarray, options: InferenceOptions) -> np.ndarray:
    return np.concatenate(list(logit_slabs(models, image, options)), axis=1)


def image_of(shape: tuple[int, ...], *, channels: int = 1, geometry: Geometry | None = None) -> Image:
    array = np.random.default_rng(0).normal(5, 1, (channels, *shape)).astype(np.float32)
    return Image(array=array, geometry=geometry or Geometry(shape=shape, spacing=(1.0,) * len(shape)))


def test_folds_average_logits_not_probabilities(make_record: Records) -> None:
    first, second = (4.0, 0.0, 0.0), (0.0, 1.0, 0.0)
    predictor = predictor_for(make_record(), [Constant(first), Constant(second)])
    probabilities = probabilities_of(predictor, image_of((9, 10, 11)))
    assert probabilities.shape == (3, 9, 10, 11)
    assert probabilities.dtype == np.float32
    expected = torch.tensor([2.0, 0.5, 0.0]).softmax(dim=0)
    np.testing.assert_allclose(probabilities[:, 4, 5, 6], expected, rtol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, rtol=1e-5)


def test_what_was_cropped_away_is_background(make_record: Records) -> None:
    image = image_of((9, 10, 11))
    image.array[:, :3] = 0
    image.array[:, :, :, 8:] = 0
    probabilities = probabilities_of(predictor_for(make_record(), [Constant((0.0, 9.0, 0.0))]), image)
    assert (probabilities[0, :3] == 1).all()
    assert (probabilities[1:, :3] == 0).all()
    assert (probabilities[0, :, :, 8:] == 1).all()
    assert (probabilities[1, 3:, :, :8] > 0.99).all()


@pytest.mark.parametrize("accumulation", ["float32", "float16"])
def test_regions_are_sigmoids_and_absent_outside(make_record: Records, accumulation: str) -> None:
    image = image_of((9, 10, 11))
    image.array[:, :3] = 0
    record = make_record(labels=REGIONS)
    options = InferenceOptions(accumulation=accumulation)  # type: ignore[arg-type]  # of the two literals
    probabilities = probabilities_of(predictor_for(record, [Constant((2.0, -2.0))], options), image)
    assert (probabilities[:, :3] == 0).all()
    np.testing.assert_allclose(probabilities[0, 3:], 1 / (1 + np.exp(-2)), rtol=2e-3)
    np.testing.assert_allclose(probabilities[1, 3:], 1 / (1 + np.exp(2)), rtol=2e-3)


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
def test_results_lie_where_the_image_does(make_record: Records, transpose: tuple[int, ...]) -> None:
    # Stored with axes swapped and flipped against the plan's orientation.
    geometry = Geometry(
        shape=(7, 12, 9),
        spacing=(1.0, 1.0, 1.0),
        directions=((0.0, 1.0, 0.0), (0.0, 0.0, -1.0), (1.0, 0.0, 0.0)),
    )
    image = image_of(geometry.shape, geometry=geometry)
    predictor = predictor_for(make_record(), [Mixture([[0.0], [1.0], [-1.0]])], transpose=transpose, orientation="SPL")
    probabilities = probabilities_of(predictor, image)
    assert probabilities.shape == (3, 7, 12, 9)
    is_bright = image.array[0] > image.array.mean()
    np.testing.assert_array_equal(predictor.labels.segmentation(probabilities), np.where(is_bright, 1, 2))


def test_results_come_back_from_another_resolution(make_record: Records) -> None:
    image = image_of((8, 8, 8), geometry=Geometry(shape=(8, 8, 8), spacing=(2.0, 2.0, 2.0)))
    image.array[:] = np.linspace(-1, 1, 8)[:, None, None]
    network = Mixture([[0.0], [1.0], [-1.0]])
    probabilities = probabilities_of(predictor_for(make_record(), [network]), image)
    np.testing.assert_array_equal(probabilities[1] > 0.5, image.array[0] > 0.3)
    assert sum(len(call) for call in network.calls) == 8 * 27  # 16 voxels per axis: three tiles each, mirrored


def test_a_2d_configuration_predicts_volumes_and_a_2d_dataset_images(make_record: Records) -> None:
    record = make_record(ndim=2)
    network = Mixture([[0.0], [1.0], [-1.0]])
    volume = image_of((5, 12, 9))
    probabilities = probabilities_of(predictor_for(record, [network]), volume)
    assert probabilities.shape == (3, 5, 12, 9)
    assert all(call.ndim == 4 for call in network.calls)
    np.testing.assert_array_equal(probabilities[1] > probabilities[2], volume.array[0] > volume.array[0].mean())
    flat = image_of((12, 9))
    assert probabilities_of(predictor_for(record, [network], transpose=(0, 1)), flat).shape == (3, 12, 9)


def test_options_reach_the_window(make_record: Records) -> None:
    def num_patches(options: InferenceOptions, **changes: object) -> int:
        network = Mixture([[0.0], [1.0], [-1.0]])
        record = make_record(**changes)
        probabilities_of(predictor_for(record, [network], options), image_of((8, 8, 16)))
        return sum(len(call) for call in network.calls)

    assert num_patches(InferenceOptions()) == 3 * 8
    assert num_patches(InferenceOptions(augmentation="none")) == 3
    assert num_patches(InferenceOptions(step=1.0, augmentation="none")) == 2
    assert num_patches(InferenceOptions(), mirror_axes=(1,)) == 3 * 2


@pytest.mark.parametrize(
    ("asked", "trained", "expected"),
    [
        ("auto", "float32", torch.float32),
        ("auto", "float16", torch.float32),  # emulated on a CPU
        ("auto", "bfloat16", torch.bfloat16),
        ("float32", "bfloat16", torch.float32),
        ("bfloat16", "float32", torch.bfloat16),
    ],
)
def test_precision_is_that_of_training_unless_asked_for(
    make_record: Records, asked: str, trained: str, expected: torch.dtype
) -> None:
    record = make_record(precision=trained)
    torch.manual_seed(0)
    network = build_network(record.configuration.network, num_channels=1, num_outputs=3)
    model = build_model(record, network.state_dict())
    seen = []
    model.network.register_forward_hook(lambda _module, _arguments, output: seen.append(output.dtype))
    image = image_of((8, 8, 8)).array
    options = InferenceOptions(precision=asked, augmentation="none")  # type: ignore[arg-type]  # of the literals
    logits = logits_of([model], image, options)
    assert set(seen) == {expected}
    assert logits.dtype == np.float32
    exact = logits_of([model], image, replace(options, precision="float32"))
    np.testing.assert_allclose(logits, exact, atol=0.05 * np.abs(exact).max())


def test_batches_change_nothing(make_record: Records) -> None:
    record = make_record()
    torch.manual_seed(0)
    network = build_network(record.configuration.network, num_channels=1, num_outputs=3)
    model = build_model(record, network.state_dict())
    image = image_of((11, 13, 17)).array
    half = logits_of([model, model], image, InferenceOptions(accumulation="float16"))
    assert half.dtype == np.float16
    single, many = (logits_of([model], image, InferenceOptions(batch_size=size)) for size in (1, 40))
    np.testing.assert_allclose(single, many, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_gpu_agrees_with_the_cpu(make_record: Records, precision: str) -> None:
    record = make_record()
    torch.manual_seed(0)
    network = build_network(record.configuration.network, num_channels=1, num_outputs=3)
    model = build_model(record, network.state_dict())
    image = image_of((11, 13, 17)).array
    expected = logits_of([model], image, InferenceOptions())
    options = InferenceOptions(device="cuda", precision=precision)  # type: ignore[arg-type]  # of the literals
    logits = logits_of([model], image, options)
    np.testing.assert_allclose(logits, expected, atol=0.05 * np.abs(expected).max())


def test_the_second_stage_of_a_cascade_sees_the_previous_segmentation(make_record: Records) -> None:
    record = make_record(num_channels=3)
    configuration = replace(
        record.configuration,
        name="3d_cascade_fullres",
        previous_stage="3d_lowres",
        normalization=record.configuration.normalization[:1],
    )
    record = replace(record, configuration=configuration)
    network = Mixture([[0.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    predictor = predictor_for(record, [network])
    image = image_of((8, 9, 10))
    values = np.random.default_rng(1).integers(0, 3, image.geometry.shape).astype(np.uint8)
    probabilities = probabilities_of(predictor, image, previous=Segmentation(array=values, geometry=image.geometry))
    np.testing.assert_array_equal(predictor.labels.segmentation(probabilities), values)
    with pytest.raises(SettingsError, match="needs the segmentation of 3d_lowres for case x"):
        probabilities_of(predictor, image, case_id="x")


def test_what_does_not_fit_is_refused(make_record: Records) -> None:
    record = make_record()
    constant = Constant((0.0, 1.0, 0.0))
    predictor = predictor_for(record, [constant])
    with pytest.raises(DatasetError, match=r"case x has 2 channel\(s\); expected 1: channel 0"):
        probabilities_of(predictor, image_of((8, 8, 8), channels=2), case_id="x")
    image = image_of((8, 8, 8))
    previous = Segmentation(array=np.zeros((8, 8, 8), dtype=np.uint8), geometry=image.geometry)
    with pytest.raises(SettingsError, match="takes no previous segmentation"):
        probabilities_of(predictor, image, previous=previous)
    with pytest.raises(SettingsError, match="at least one trained model"):
        predictor_for(record, [])
    with pytest.raises(SettingsError, match="at least one trained model"):
        logits_of([], image.array, InferenceOptions())
    other = TrainedModel(record=make_record(labels=REGIONS), network=constant)
    with pytest.raises(SettingsError, match="cannot be averaged"):
        ConfigurationPredictor(predictor.plan, [*predictor.models, other])


@pytest.mark.parametrize("changes", [{"step": 0.0}, {"step": 1.5}, {"batch_size": 0}])
def test_impossible_options_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        InferenceOptions(**changes)  # type: ignore[arg-type]  # of either type


def test_probabilities_equal_torchs(make_record: Records) -> None:
    labels = make_record().labels
    logits = np.random.default_rng(0).normal(0, 5, (3, 7, 5, 4)).astype(np.float16)
    expected = torch.from_numpy(logits).float().softmax(dim=0).numpy()
    before = logits.copy()
    np.testing.assert_allclose(logits_to_probabilities(logits, labels), expected, atol=1e-6)
    np.testing.assert_array_equal(logits, before)
    certain = np.array(outside_logits(labels), dtype=np.float16)[:, None, None]
    assert logits_to_probabilities(certain, labels).ravel().tolist() == [1, 0, 0]


@pytest.mark.parametrize("threads", [2, 3])
def test_patches_side_by_side_give_what_one_after_the_other_gives(
    make_record: Callable[..., ModelRecord], threads: int
) -> None:
    record = make_record()
    network = build_network(record.configuration.network, num_channels=1, num_outputs=3).eval()
    network.deep_supervision = False
    image = image_of((13, 17, 11))
    expected = probabilities_of(predictor_for(record, [network]), image)  # with one thread
    torch.set_num_threads(threads)
    seen: set[int] = set()
    network.register_forward_pre_hook(lambda *_: seen.add(threading.get_ident()))
    found = probabilities_of(predictor_for(record, [network]), image)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert threading.get_ident() not in seen
    assert 1 < len(seen) <= threads
    assert torch.get_num_threads() == threads
    assert num_streams((128, 128, 128), threads) == 1  # for the sake of memory
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == threads


def test_what_fails_side_by_side_is_raised(make_record: Callable[..., ModelRecord]) -> None:
    class Broken(SegmentationNetwork):
        def forward(self, patches: torch.Tensor) -> torch.Tensor:
            raise RuntimeError(f"broken at {tuple(patches.shape)}")

    torch.set_num_threads(2)
    with pytest.raises(RuntimeError, match="broken"):
        probabilities_of(predictor_for(make_record(), [Broken()]), image_of((9, 9, 9)))
