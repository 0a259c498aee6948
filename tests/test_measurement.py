from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from autoseg.check import check_dataset
from autoseg.dataset import Case, load_dataset
from autoseg.errors import DatasetError
from autoseg.fingerprint import Fingerprint
from autoseg.geometry import Geometry, Reorientation
from autoseg.image import Image, Segmentation, distinct_values, write_image, write_segmentation
from autoseg.labels import LabelScheme
from autoseg.measurement import (
    CaseMeasurement,
    MeasureJob,
    _hits,
    measure_case,
    measure_file,
    merge,
    samples_per_case,
)

LABELS = LabelScheme.from_table({"background": 0, "a": 1, "b": 2}, where="test")
GRID = Geometry(shape=(10, 12, 14), spacing=(2.0, 1.0, 0.5))


def make_case(seed: int, *, num_channels: int = 2, has_foreground: bool = True) -> tuple[Image, Segmentation]:
    generator = np.random.default_rng(seed)
    array = generator.normal(0, 100, (num_channels, *GRID.shape)).astype(np.float32)
    array[:, :2] = 0
    labels = generator.integers(0, 3, GRID.shape).astype(np.uint8)
    return (
        Image(array=array, geometry=GRID),
        Segmentation(array=labels * np.uint8(has_foreground), geometry=GRID),
    )


def measure(case: tuple[Image, Segmentation], case_id: str = "a", num_samples: int = 5000) -> CaseMeasurement:
    return measure_case(case_id, *case, num_samples=num_samples, orientation=None)


def drawn_like_nnunet(case: tuple[Image, Segmentation], num_samples: int) -> list[np.ndarray]:
    """nnU-Net's rule: one generator per case, channels in turn, the foreground of the crop."""
    generator = np.random.RandomState(1234)
    foreground = case[1].array[2:] > 0  # the first two planes are cropped away
    return [generator.choice(channel[2:][foreground], num_samples, replace=True) for channel in case[0].array]


@pytest.mark.parametrize("num_samples", [1, 999, 700_000])
def test_statistics_are_those_of_nnunets_draws(num_samples: int) -> None:
    cases = [make_case(seed) for seed in range(3)]
    drawn = [drawn_like_nnunet(case, num_samples) for case in cases]
    fingerprint = merge([measure(case, str(i), num_samples) for i, case in enumerate(cases)])
    assert len(fingerprint.intensities) == 2
    for channel, found in enumerate(fingerprint.intensities):
        united = np.concatenate([draws[channel] for draws in drawn]).astype(np.float64)
        assert found.mean == pytest.approx(united.mean(), rel=1e-10)
        assert found.std == pytest.approx(united.std(), rel=1e-10)
        assert (found.min, found.max) == (united.min(), united.max())
        percentiles = found.percentile_00_5, found.median, found.percentile_99_5
        assert percentiles == pytest.approx(np.percentile(united, (0.5, 50, 99.5)), rel=1e-12)


def test_percentiles_between_few_values_and_signed_zeros() -> None:
    array = np.array([[[-3.0, -0.0, 0.0, 1e-30, 2.0, 5e8]]], dtype=np.float32)
    grid = Geometry(shape=(1, 6), spacing=(1.0, 1.0))
    ones = Segmentation(array=np.ones((1, 6), np.uint8), geometry=grid)
    case = Image(array=array, geometry=grid), ones
    [found] = merge([measure(case, num_samples=77)]).intensities
    united = np.random.RandomState(1234).choice(array[0, 0], 77).astype(np.float64)
    expected = np.percentile(united, (0.5, 50, 99.5))
    assert (found.percentile_00_5, found.median, found.percentile_99_5) == pytest.approx(expected, rel=1e-12)


def test_grids_and_relative_sizes() -> None:
    fingerprint = merge([measure(make_case(0), "a"), measure(make_case(1), "b")])
    case = fingerprint.cases[0]
    assert (case.id, case.shape, case.cropped_shape) == ("a", (10, 12, 14), (8, 12, 14))
    assert case.spacing == (2.0, 1.0, 0.5)
    assert (case.orientation, fingerprint.orientation) == ("SPL", "SPL")
    assert fingerprint.median_relative_size == 0.8


def test_cases_without_foreground_do_not_count() -> None:
    with_foreground = make_case(0)
    empty = make_case(1, has_foreground=False)
    expected = merge([measure(with_foreground)]).intensities
    assert merge([measure(with_foreground), measure(empty, "b")]).intensities == expected
    assert merge([measure(empty)]).intensities == ()


def test_the_orientation_on_disk_does_not_matter() -> None:
    image, segmentation = make_case(0)
    turn = Reorientation.between("SPL", "RAI")
    grid = turn.apply_to_geometry(GRID)
    turned = (
        Image(array=turn.apply(image.array), geometry=grid),
        Segmentation(array=turn.apply(segmentation.array), geometry=grid),
    )
    expected = measure_case("a", image, segmentation, num_samples=500, orientation="SPL")
    result = measure_case("a", *turned, num_samples=500, orientation="SPL")
    assert result.case.orientation == "RAI"  # as stored
    assert (result.case.spacing, result.case.cropped_shape) == (expected.case.spacing, expected.case.cropped_shape)
    assert merge([result], orientation="SPL").intensities == merge([expected]).intensities


def test_samples_are_small_and_pickle() -> None:
    image, segmentation = make_case(0)
    image = Image(array=np.rint(image.array), geometry=GRID)  # as in CT: few distinct values
    measurement = measure((image, segmentation), num_samples=10**6)
    assert sum(int(s.counts.sum()) for s in measurement.samples) == 2 * 10**6
    assert len(pickle.dumps(measurement)) < 20_000


def test_cases_must_agree_in_their_number_of_channels() -> None:
    with pytest.raises(DatasetError, match="a has 2, b has 1"):
        merge([measure(make_case(0)), measure(make_case(1, num_channels=1), "b")])


@pytest.mark.parametrize("size", [1, 2, 3, 37, 3000, 4096, 4097, 70_000])
def test_counting_takes_the_same_draws_and_no_more(size: int) -> None:
    counted, drawn = np.random.RandomState(5), np.random.RandomState(5)
    expected = np.bincount(drawn.randint(0, size, 200_001), minlength=size)
    np.testing.assert_array_equal(_hits(counted, size, 200_001), expected)
    np.testing.assert_array_equal(counted.randint(0, 1000, 9), drawn.randint(0, 1000, 9))


def test_all_cases_together_give_a_hundred_million_draws() -> None:
    assert samples_per_case(3) == 33_333_333


def test_distinct_values_of_any_integer_type() -> None:
    assert distinct_values(np.array([[0, 3], [3, 200]], dtype=np.uint8)) == [0, 3, 200]
    assert distinct_values(np.array([[-5, 3], [70000, 3]], dtype=np.int64)) == [-5, 3, 70000]
    assert distinct_values(np.array([[-(2**31), 2**31 - 1]], dtype=np.int32)) == [-(2**31), 2**31 - 1]


def write_job(
    folder: Path, image: Image, segmentation: Segmentation, *, ending: str = ".nii.gz", **options: int
) -> MeasureJob:
    paths = tuple(folder / f"case_{channel:04d}{ending}" for channel in range(len(image.array)))
    for path, channel in zip(paths, image.array, strict=True):
        write_image(path, Image(array=channel[None], geometry=image.geometry))
    write_segmentation(folder / "case.nii.gz", segmentation)
    return MeasureJob(
        case=Case(id="case", images=paths, label=folder / "case.nii.gz"),
        labels=LABELS,
        num_samples=100,
        orientation="SPL",
        **options,
    )


def test_files_are_measured_like_arrays(tmp_path: Path) -> None:
    case = make_case(0)
    job = write_job(tmp_path, *case, num_channels=2)
    result = measure_file(pickle.loads(pickle.dumps(job)))
    assert result.problems == ()
    assert result.measurement is not None
    assert result.measurement.case.labels == tuple(sorted({int(v) for v in np.unique(case[1].array)} - {0}))
    expected = measure(case, "case", num_samples=100)
    assert merge([result.measurement]).intensities == merge([expected]).intensities


def test_a_case_with_errors_is_not_measured(tmp_path: Path) -> None:
    image, segmentation = make_case(0)
    segmentation.array[0, 0, :2] = 7, 9
    result = measure_file(write_job(tmp_path, image, segmentation))
    assert result.measurement is None
    assert [p.severity for p in result.problems] == ["error"]


def test_cases_without_label_are_refused(tmp_path: Path) -> None:
    job = MeasureJob(case=Case(id="x", images=()), labels=LABELS, num_samples=1, orientation=None)
    with pytest.raises(DatasetError, match="case x has no label"):
        measure_file(job)


@pytest.mark.parametrize(
    "name",
    [
        "Dataset901_AnisoCT",
        "Dataset905_Regions",
        "Dataset907_Rgb2D",
        "Dataset908_Ignore",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "Dataset902_TwoChannelMR",
                "Dataset903_OddAxis",
                "Dataset904_VeryThick",
                "Dataset906_NoNorm",
                "Dataset909_Cascade",
            )
        ),
    ],
)
def test_the_fingerprint_equals_nnunets(name: str, shared_dir: Path) -> None:
    dataset = load_dataset(shared_dir / "golden" / "raw" / name)
    expected = json.loads((shared_dir / "golden" / "nnunet" / name / "dataset_fingerprint.json").read_text())
    orientation = check_dataset(dataset).majority_orientation
    num_samples = samples_per_case(len(dataset.training))
    measured = [
        measure_file(MeasureJob(case=case, labels=dataset.labels, num_samples=num_samples, orientation=orientation))
        for case in dataset.training
    ]
    assert all(result.problems == () for result in measured)
    fingerprint: Fingerprint = merge([result.measurement for result in measured if result.measurement is not None])
    ndim = len(fingerprint.cases[0].shape)  # nnU-Net gives 2D images a third axis
    assert [list(case.spacing) for case in fingerprint.cases] == [s[-ndim:] for s in expected["spacings"]]
    assert [list(case.cropped_shape) for case in fingerprint.cases] == [
        s[-ndim:] for s in expected["shapes_after_crop"]
    ]
    assert fingerprint.median_relative_size == pytest.approx(expected["median_relative_size_after_cropping"], rel=1e-12)
    channels = expected["foreground_intensity_properties_per_channel"]
    assert len(fingerprint.intensities) == len(channels)
    for index, found in enumerate(fingerprint.intensities):
        for statistic, value in channels[str(index)].items():
            assert getattr(found, statistic) == pytest.approx(value, rel=1e-6), statistic
