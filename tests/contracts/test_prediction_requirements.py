"""What systems of the field ask of prediction: which test shows it, and the tests of the rest."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from autoseg.inference.sliding_window import Tiling, sliding_window, window_slabs

TESTS = Path(__file__).resolve().parents[1]
SHOWN_BY = {
    "R005 images of any orientation": (
        "preprocessing/test_case.py::test_the_orientation_on_disk_does_not_matter",
        "pipeline/test_prediction.py::test_all_orders_and_directions_of_axes_give_the_same_segmentation",
        "pipeline/test_prediction.py::test_oblique_images_keep_their_grid",
    ),
    "R016 sliding window with overlap, smooth stitching": (
        "inference/test_sliding_window.py::test_a_network_that_answers_its_input_gives_the_image_back",
        "inference/test_sliding_window.py::test_agrees_with_monai_for_constant_weights",
    ),
    "R020 refinement by a conditional random field": (
        "postprocessing/test_smoothing.py::TestCrf::test_salt_goes_and_the_edge_stays",
        "postprocessing/test_smoothing.py::TestCrf::test_one_step_equals_the_formula_written_out",
        "postprocessing/test_smoothing.py::test_zero_changes_nothing",
        "evaluation/test_search.py::test_the_crf_sees_the_images",
    ),
    "R026 slices with the segmentation over them": (
        "test_figures.py::test_the_segmentation_shows_below_and_the_bare_image_above",
        "test_figures.py::test_slices_lie_as_a_radiologist_expects_them",
        "pipeline/test_prediction.py::test_everything_that_can_be_written",
    ),
    "R028 NIfTI files in a zip": (
        "pipeline/test_prediction.py::test_everything_that_can_be_written",
        "pipeline/test_prediction.py::test_results_come_in_the_format_of_the_images",
    ),
    "R118 smoothing, noise, gaps, back to the reference's grid": (
        "preprocessing/test_case.py::test_scores_at_equal_spacing_come_back_to_their_voxels",
        "preprocessing/test_case.py::test_smooth_scores_survive_resampling_both_ways",
        "postprocessing/test_components.py::test_small_components_go_by_volume",
        "postprocessing/test_components.py::TestHoles::test_a_hole_is_filled_and_another_label_inside_stays",
        "postprocessing/test_smoothing.py::test_a_noisy_outline_becomes_smooth_and_the_volume_stays",
    ),
    "R120 prediction and reference per view and phase": (
        "cli/test_evaluate.py::test_a_picture_of_every_view_and_phase",
    ),
    "R302 run lengths for a competition": (
        "pipeline/test_prediction.py::test_runs_decode_to_what_was_encoded",
        "pipeline/test_prediction.py::test_everything_that_can_be_written",
    ),
    "R310 flips and quarter turns at test time": (
        "inference/test_sliding_window.py::test_every_view_is_undone_and_the_groups_are_those_of_a_square",
        "inference/test_sliding_window.py::test_views_of_a_network_without_preference_change_nothing",
    ),
    "R311 no graph is kept, memory does not grow with slices": (
        "contracts/test_prediction_requirements.py::test_no_graph_is_kept_and_sums_do_not_grow_with_slices",
        "inference/test_sliding_window.py::test_sums_are_held_for_a_few_planes_of_a_long_image",
    ),
    "R312 vessels inside the largest kidney of a slice": (
        "postprocessing/test_gating.py::test_what_lies_outside_is_gone_and_the_rest_is_as_it_was",
        "postprocessing/test_gating.py::test_tubes_outside_of_the_organ_are_no_false_positives_any_more",
    ),
    "R316 overlapping subvolumes improve borders": (
        "contracts/test_prediction_requirements.py::test_overlap_mends_what_a_network_misses_at_the_border_of_its_patch",
        "inference/test_sliding_window.py::test_tiles_leave_no_voxel_out_and_step_no_further_than_asked",
    ),
}


@pytest.mark.parametrize("requirement", SHOWN_BY)
def test_the_tests_named_for_a_requirement_exist(requirement: str) -> None:
    for name in SHOWN_BY[requirement]:
        path, *places = name.split("::")
        body: Sequence[ast.stmt] = ast.parse((TESTS / path).read_text(encoding="utf-8")).body
        for place in places:
            found = [n for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == place]
            assert found, name
            body = found[0].body


def test_no_graph_is_kept_and_sums_do_not_grow_with_slices() -> None:
    network = torch.nn.Conv2d(1, 3, 3, padding=1)  # its parameters ask for gradients
    tiling = Tiling(patch_size=(8, 8), batch_size=4)
    held = [tiling.sums((slices, 12, 12), 3, torch.device("cpu")).num_bytes for slices in (10, 100)]
    assert held[0] == held[1]
    seen: list[bool] = []

    def watched(patches: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = network(patches)
        seen.append(answer.requires_grad or answer.grad_fn is not None)
        return answer

    slabs = list(window_slabs(torch.randn(1, 30, 12, 12), watched, tiling, num_outputs=3))
    assert sum(slab.shape[1] for slab in slabs) == 30
    assert seen
    assert not any(seen)
    assert not any(slab.requires_grad for slab in slabs)


@pytest.mark.parametrize(("importance", "left"), [("gaussian", 0.33), ("constant", 0.67)])
def test_overlap_mends_what_a_network_misses_at_the_border_of_its_patch(importance: str, left: float) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, 40, 40, 40), generator=generator)

    def mean_of_neighbors(patches: torch.Tensor) -> torch.Tensor:  # sees zeros beyond its patch
        return torch.nn.functional.avg_pool3d(patches, 7, stride=1, padding=3)

    wanted = mean_of_neighbors(image[None])[0]
    errors = {}
    for step in (1.0, 0.5, 0.25):
        tiling = Tiling(patch_size=(20, 20, 20), step=step, importance=importance)  # type: ignore[arg-type]  # a literal
        found = sliding_window(image, mean_of_neighbors, tiling, num_outputs=1)
        wrong = (found - wanted).abs()
        errors[step] = float(wrong[:, 17:23, 17:23, 17:23].mean())  # where tiles meet
    assert errors[0.5] < left * errors[1.0]
    assert errors[0.25] < left * errors[1.0]
