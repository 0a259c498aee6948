from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from autoseg.dataset import load_dataset
from autoseg.image import Image, Segmentation, read_image, read_segmentation
from autoseg.synthetic import LESION, ORGAN, synthetic_case, write_synthetic_dataset

Case = tuple[Image, Segmentation]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [synthetic_case(np.random.default_rng((0, 0, number))) for number in range(12)]


def dice(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(2 * (found & wanted).sum() / (found.sum() + wanted.sum()))


def test_the_dataset_loads_and_its_files_hold_the_cases(tmp_path: Path, cases: list[Case]) -> None:
    write_synthetic_dataset(tmp_path, num_training=3, num_test=2)
    dataset = load_dataset(tmp_path)
    assert [case.id for case in dataset.training] == ["case_000", "case_001", "case_002"]
    assert [case.id for case in dataset.test] == ["test_000", "test_001"]
    assert [(target.name, target.values) for target in dataset.labels.targets] == [("organ", (1,)), ("lesion", (2,))]
    assert dataset.declared_count == 3
    for case, (image, segmentation) in zip(dataset.training, cases, strict=False):
        assert case.label is not None
        stored = read_image(case.images)
        np.testing.assert_array_equal(stored.array, image.array)
        np.testing.assert_array_equal(read_segmentation(case.label).array, segmentation.array)
        assert stored.geometry.differences(image.geometry) == []
        assert read_segmentation(case.label).geometry.differences(stored.geometry) == []
    for case in dataset.test:
        assert (tmp_path / "labelsTs" / f"{case.id}.nii.gz").is_file()


def test_equal_seeds_give_equal_files_and_more_cases_keep_the_earlier_ones(tmp_path: Path) -> None:
    write_synthetic_dataset(tmp_path / "one", num_training=1, num_test=1, seed=4)
    write_synthetic_dataset(tmp_path / "two", num_training=2, num_test=1, seed=4)
    for path in (tmp_path / "one").rglob("*.nii.gz"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    write_synthetic_dataset(tmp_path / "other", num_training=1, num_test=1, seed=5)
    name = "labelsTr/case_000.nii.gz"
    assert (tmp_path / "one" / name).read_bytes() != (tmp_path / "other" / name).read_bytes()


def test_every_case_has_one_organ_that_holds_its_lesions(cases: list[Case]) -> None:
    for image, segmentation in cases:
        assert image.array.shape == (1, *segmentation.array.shape)
        organ = ndimage.binary_closing(segmentation.array > 0)
        components, count = ndimage.label(organ)
        assert count >= 1
        assert np.bincount(components.ravel())[1:].max() > 0.98 * organ.sum()
        surroundings = ndimage.binary_dilation(segmentation.array == LESION) & (segmentation.array != LESION)
        assert (segmentation.array[surroundings] == ORGAN).mean() > 0.9


def test_lesions_are_small_and_some_are_a_few_voxels_only(cases: list[Case]) -> None:
    sizes = [int((segmentation.array == LESION).sum()) for _, segmentation in cases]
    assert min(sizes) > 0
    assert min(sizes) < 20
    assert max(sizes) < 500


def test_scanners_differ(cases: list[Case]) -> None:
    spacings = {image.geometry.spacing for image, _ in cases}
    assert len(spacings) >= 3
    assert any(z / x > 2.5 for z, _, x in spacings)  # thick slices
    assert (1.0, 1.0, 1.0) in spacings
    assert {image.geometry.orientation for image, _ in cases} == {"SPL", "SAL"}
    assert len({image.geometry.origin for image, _ in cases}) == len(cases)
    for image, _ in cases:
        axes = np.asarray(image.geometry.directions)
        np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
        assert image.array.min() >= 0
        assert np.array_equal(image.array, np.rint(image.array))


def test_no_threshold_solves_it(cases: list[Case]) -> None:
    """Each image scaled by its own mean, thresholds chosen with the answer at hand: still far from a segmentation."""
    images = [image.array[0] / image.array.mean() for image, _ in cases]
    for value, largest in ((ORGAN, 0.75), (LESION, 0.1)):
        masks = [segmentation.array == value for _, segmentation in cases]
        edges = np.quantile(np.concatenate([i[m] for i, m in zip(images, masks, strict=True)]), np.linspace(0, 1, 15))
        best = max(
            np.mean([dice((low <= i) & (i <= high), m) for i, m in zip(images, masks, strict=True)])
            for low in edges[:-1]
            for high in edges[1:]
            if low < high
        )
        assert best < largest


def test_impossible_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot make 0 training and 4 test cases"):
        write_synthetic_dataset(tmp_path, num_training=0)
    with pytest.raises(ValueError, match="cannot make 1 training and -1 test cases"):
        write_synthetic_dataset(tmp_path, num_training=1, num_test=-1)
