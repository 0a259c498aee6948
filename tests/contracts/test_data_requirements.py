"""What systems of the field ask of data, planning and preprocessing: which test shows it, and the tests of the rest."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest

from autoseg.dataset import DatasetSource, load_dataset
from autoseg.evaluation.folder import evaluate_folder
from autoseg.geometry import Geometry
from autoseg.image import Image, Segmentation, write_image, write_segmentation
from autoseg.labels import LabelScheme
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.preprocessing.crop import crop_to_nonzero
from autoseg.preprocessing.resampling import resample_segmentation
from autoseg.preprocessing.store import CaseStore

TESTS = Path(__file__).resolve().parents[1]
SHOWN_BY = {
    "R001 patterns, lists of files, missing and doubled cases": (
        "dataset/test_formats.py::test_patterns_find_what_lies_anywhere",
        "dataset/test_formats.py::test_the_decathlons_table_is_understood",
        "dataset/test_formats.py::test_patterns_that_do_not_fit_are_refused",
        "dataset/test_formats.py::test_a_wrong_table_is_refused_with_its_line",
    ),
    "R002 labels outside the declared ones are refused, classes may be absent": (
        "check/test_voxels.py::test_undeclared_labels_are_listed_with_what_helps",
        "check/test_voxels.py::test_a_label_without_foreground_is_a_warning",
    ),
    "R003 a fixed window equals ScaleIntensityRange": (
        "preprocessing/test_enhancement.py::test_a_window_is_monais_scaling_of_a_range",
        "pipeline/test_intensities.py::test_steps_are_planned_with_reasons_and_the_same_at_prediction",
    ),
    "R004 spacing asked for, and the way back": (
        "contracts/test_data_requirements.py::test_the_spacing_asked_for_is_met_and_undone",
        "preprocessing/test_case.py::test_scores_at_equal_spacing_come_back_to_their_voxels",
    ),
    "R005 orientations": ("preprocessing/test_case.py::test_the_orientation_on_disk_does_not_matter",),
    "R006 patches and foreground": (
        "data/test_loading.py::test_every_scale_has_its_shape",
        "data/test_loading.py::test_the_last_patches_of_a_batch_hold_foreground",
    ),
    "R007 augmentation": (
        "augmentation/test_transforms.py::test_image_and_segmentation_move_together",
        "augmentation/test_transforms.py::test_validation_leaves_patches_alone",
        "augmentation/test_transforms.py::test_light_variation_turns_and_changes_brightness_and_contrast_alone",
    ),
    "R025 split files and leakage": (
        "test_splits.py::test_wrong_splits_are_refused",
        "pipeline/test_folds.py::test_folds_made_by_hand_are_kept",
        "check/test_headers.py::test_a_case_for_training_and_testing_is_a_warning",
    ),
    "R031 2D images": (
        "contracts/test_data_requirements.py::test_2d_png_images_are_planned_and_preprocessed",
        "test_image.py::test_png_images_have_two_axes",
        "end_to_end/test_ultrasound.py::test_png_images_are_learned",
    ),
    "R101 metadata, stratified and grouped folds": (
        "test_splits.py::test_every_fold_gets_its_share_of_each_domain",
        "test_splits.py::test_one_domain_is_held_out_per_fold",
        "pipeline/test_exploring.py::test_counts_are_those_of_the_metadata",
    ),
    "R103 frames of 4D cine": (
        "dataset/test_frames.py::test_phases_are_cases_of_one_group",
        "dataset/test_frames.py::test_a_frame_is_a_volume",
    ),
    "R104 crop and z-score": (
        "contracts/test_data_requirements.py::test_cropping_keeps_every_voxel_that_is_not_zero",
        "contracts/test_data_requirements.py::test_every_case_has_mean_zero_and_deviation_one",
    ),
    "R105 resizing of segmentations": (
        "contracts/test_data_requirements.py::test_labels_survive_resizing_and_thin_structures_too",
        "preprocessing/test_resampling.py::test_labels_equal_the_rule_applied_label_by_label",
    ),
    "R107 exploration": (
        "pipeline/test_exploring.py::test_counts_are_those_of_the_metadata",
        "pipeline/test_exploring.py::test_grids_and_volumes_are_those_of_the_files",
    ),
    "R111 transforms, histogram matching": (
        "augmentation/test_transforms.py::test_how_often_intensities_are_varied",
        "augmentation/test_targets.py::test_coarse_targets_equal_nearest_exact_interpolation",
        "preprocessing/test_enhancement.py::test_a_matched_histogram_is_that_of_the_reference",
        "data/test_histogram.py::test_distributions_agree_and_order_and_outside_stay",
        "data/test_histogram.py::test_batches_repeat_labels_are_untouched_and_nothing_else_changes",
    ),
    "R112 cross-validation": (
        "test_splits.py::test_every_case_is_held_out_exactly_once",
        "test_splits.py::test_every_case_is_held_out_once_and_no_group_is_torn",
        "pipeline/test_cross_validation.py::test_means_and_deviations_are_those_of_the_folds",
        "pipeline/test_cross_validation.py::test_train_tells_of_all_folds_after_the_last",
    ),
    "R201 values 500, 600, 420, 550, 205, 820, 850, and the stray 421": (
        "contracts/test_data_requirements.py::test_values_of_whole_heart_labels_become_one_to_seven",
        "dataset/test_label_map.py::test_segmentation_and_training_target_are_inverse_to_each_other",
    ),
    "R202 local contrast, spacing of 3 mm": (
        "preprocessing/test_enhancement.py::test_contrast_is_spread_within_the_range_and_nothing_changes_outside",
        "contracts/test_data_requirements.py::test_the_spacing_asked_for_is_met_and_undone",
    ),
    "R301 TIFF stacks and slices, memory bounded": (
        "test_slices.py::test_mapped_stacks_are_what_itk_reads",
        "test_slices.py::test_a_folder_of_slices_is_a_volume",
        "preprocessing/test_bounded.py::test_a_case_in_scratch_files_is_the_case_in_memory",
        "preprocessing/test_bounded.py::test_reading_checking_and_measuring_a_mapped_stack_takes_slabs_of_it",
    ),
    "R401 N4": (
        "preprocessing/test_enhancement.py::test_n4_takes_the_field_of_a_phantom_away",
        "preprocessing/test_enhancement.py::test_fields_are_kept_on_disk_and_found_by_what_the_image_holds",
    ),
    "R402 thick slices": ("planners/test_thick_slices.py::test_few_thick_slices_are_never_pooled_together",),
}


@pytest.mark.parametrize("requirement", SHOWN_BY)
def test_the_tests_named_for_a_requirement_exist(requirement: str) -> None:
    for name in SHOWN_BY[requirement]:
        path, _, function = name.partition("::")
        tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name


@pytest.mark.parametrize("spacing", [(1.0, 0.7, 0.7), (3.0, 3.0, 3.0)])
def test_the_spacing_asked_for_is_met_and_undone(
    ball_dataset: Path, tmp_path: Path, spacing: tuple[float, float, float]
) -> None:
    space = plan_and_preprocess(
        ball_dataset,
        workspace=tmp_path / "own",
        gpu_memory_gb=0.2,
        spacing=spacing,
        configurations=["3d_fullres"],
        workers=0,
    )
    assert space.load_plan().configuration("3d_fullres").spacing == spacing
    for case in load_dataset(ball_dataset).training:
        stored = CaseStore(space.preprocessed_dir("3d_fullres")).open(case.id)
        trace = stored.trace
        assert trace.resampled_spacing == spacing
        extents = np.multiply(stored.image_shape[1:], spacing)
        np.testing.assert_allclose(extents, np.multiply(trace.cropped_shape, trace.cropped_spacing), atol=max(spacing))
        assert trace.geometry.shape == trace.original_shape


def test_2d_png_images_are_planned_and_preprocessed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    geometry = Geometry(shape=(64, 48), spacing=(1.0, 1.0))
    for number in range(6):
        labels = np.zeros(geometry.shape, np.uint8)
        labels[10 + number : 30, 12:30] = 1
        image = (60 * labels + rng.integers(20, 60, geometry.shape)).astype(np.uint8)
        write_segmentation(tmp_path / "img" / f"us{number}.png", Segmentation(array=image, geometry=geometry))
        write_segmentation(tmp_path / "seg" / f"us{number}.png", Segmentation(array=labels, geometry=geometry))
    source = DatasetSource(root=tmp_path, images=("img/{case}.png",), labels="seg/{case}.png")
    space = plan_and_preprocess(source, workspace=tmp_path / "own", gpu_memory_gb=0.2, workers=0)
    assert space.load_plan().configuration_names == ("2d",)
    stored = CaseStore(space.preprocessed_dir("2d")).open("us3").load()
    assert stored.image.shape == (1, 64, 48)
    assert stored.segmentation is not None
    assert (stored.segmentation == 1).sum() == 17 * 18


def test_cropping_keeps_every_voxel_that_is_not_zero() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        image = rng.normal(size=(2, 9, 10, 11)) * (rng.random((2, 9, 10, 11)) < 0.01)
        cropped, _, box = crop_to_nonzero(image, None)
        assert np.count_nonzero(cropped) == np.count_nonzero(image)
        if image.any():
            for axis in range(1, 4):
                ends = cropped.take([0, -1], axis=axis)
                assert ends.take(0, axis=axis).any()
                assert ends.take(1, axis=axis).any()
        assert cropped.shape[1:] == box.shape


def test_every_case_has_mean_zero_and_deviation_one(ball_dataset: Path, tmp_path: Path) -> None:
    space = plan_and_preprocess(
        ball_dataset, workspace=tmp_path / "own", gpu_memory_gb=0.2, configurations=["2d"], workers=0
    )
    store = CaseStore(space.preprocessed_dir("2d"))
    for case in store.case_ids():
        image = store.open(case).load().image.astype(np.float64)
        assert abs(image.mean()) < 1e-5
        assert abs(image.std() - 1) < 1e-4


def test_labels_survive_resizing_and_thin_structures_too() -> None:
    labels = np.zeros((20, 40, 40), np.int16)
    labels[5:15, 10:30, 10:30] = 1
    labels[8:12, 15:25, 15:25] = 2
    labels[10, :, 20:22] = 3  # a sheet, one slice thick and two voxels wide
    finer = resample_segmentation(labels, (40, 60, 60), spacing=(2, 1, 1), new_spacing=(1, 2 / 3, 2 / 3))
    nearest = resample_segmentation(labels, (40, 60, 60), spacing=(2, 1, 1), new_spacing=(1, 2 / 3, 2 / 3), order=0)
    assert set(np.unique(finer)) == set(np.unique(nearest)) == {0, 1, 2, 3}
    for value in (1, 2, 3):
        sizes = [(array == value).sum() / array.size for array in (labels, finer, nearest)]
        assert sizes[1] == pytest.approx(sizes[0], rel=0.3)
    linear, block = ((array == 1) for array in (finer, nearest))
    assert 2 * (linear & block).sum() / (linear.sum() + block.sum()) > 0.95
    coarser = resample_segmentation(finer, labels.shape, spacing=(1, 2 / 3, 2 / 3), new_spacing=(2, 1, 1))
    assert (coarser == labels).mean() > 0.99


def test_values_of_whole_heart_labels_become_one_to_seven(tmp_path: Path) -> None:
    values = {500: 1, 600: 2, 420: 3, 421: 3, 550: 4, 205: 5, 820: 6, 850: 7}  # one file of the data says 421 for 420
    names = ("left_ventricle", "right_ventricle", "left_atrium", "right_atrium", "myocardium", "aorta", "artery")
    rng = np.random.default_rng(2)
    stored = rng.choice([0, *values], size=(12, 16, 16)).astype(np.int16)
    geometry = Geometry(shape=stored.shape, spacing=(1.0, 1.0, 1.0))
    for number in range(3):
        image = Image(array=rng.normal(100, 9, (1, *stored.shape)).astype(np.float32), geometry=geometry)
        write_image(tmp_path / "imagesTr" / f"h{number}_0000.nii.gz", image)
        write_segmentation(tmp_path / "labelsTr" / f"h{number}.nii.gz", Segmentation(array=stored, geometry=geometry))
    table = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{name: index for index, name in enumerate(names, start=1)}},
        "numTraining": 3,
        "file_ending": ".nii.gz",
        "label_map": {str(value): index for value, index in values.items()},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    dataset = load_dataset(tmp_path)
    assert len(dataset.labels.targets) == 7
    assert isinstance(dataset.labels, LabelScheme)
    space = plan_and_preprocess(tmp_path, workspace=tmp_path / "own", gpu_memory_gb=0.2, workers=0)
    labels = space.load_plan().labels
    assert labels.num_outputs == 8
    assert labels.values == (0, 205, 420, 500, 550, 600, 820, 850)  # predictions carry the values of the files
    read = CaseStore(space.preprocessed_dir("2d")).open("h1").load().segmentation
    assert read is not None
    assert np.count_nonzero(read == 420) == np.count_nonzero((stored == 420) | (stored == 421))
    assert not (read == 421).any()
    clean = np.where(stored == 421, 420, stored)
    for number in range(3):
        predicted = Segmentation(array=clean, geometry=geometry)
        write_segmentation(tmp_path / "predicted" / f"h{number}.nii.gz", predicted)
    found = evaluate_folder(tmp_path / "labelsTr", tmp_path / "predicted", workers=0)
    assert found.mean["dice"] == 1
    assert set(found.labels) == set(names)
