"""Every value of every preset, and the test that shows what it does; and what studies ask of presets and comparisons.

docs/reference/presets.md lists the requirements as well.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from autoseg.presets import PRESETS

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "reference" / "presets.md"

PLANS, STEPS, TRAINING = "planners/test_preset_plans.py", "trainers/test_preset_steps.py", "trainers/test_presets.py"
RUNS, POLICIES, STRUCTURES = "end_to_end/test_presets.py", "data/test_policies.py", "networks/test_structures.py"

EFFECT_OF = {
    "by_view": ("end_to_end/test_views.py::test_images_go_to_the_models_of_their_view",),
    "normalization": (
        f"{PLANS}::test_aicup",
        f"{RUNS}::test_aicup",
        "preprocessing/test_enhancement.py::test_n4_takes_the_field_of_a_phantom_away",
        "preprocessing/test_enhancement.py::test_contrast_is_spread_within_the_range_and_nothing_changes_outside",
        "contracts/test_data_requirements.py::test_every_case_has_mean_zero_and_deviation_one",
    ),
    "spacing": (f"{PLANS}::test_aicup", f"{PLANS}::test_cm_trancaf", f"{RUNS}::test_aicup"),
    "patch": tuple(f"{PLANS}::test_{name}" for name in ("aicup", "mnms2", "cm_trancaf", "spine")),
    "slices": ("planners/test_stacks.py::test_axes_that_are_alike_are_all_cut_and_share_the_3d_data",),
    "encoder": ("networks/test_encoders.py::test_encoders_have_as_many_parameters_as_published",),
    "network": (f"{PLANS}::test_aicup", f"{PLANS}::test_cm_trancaf", f"{PLANS}::test_spine"),
    "norm": (f"{STRUCTURES}::test_options_change_what_blocks_are_made_of", f"{PLANS}::test_mnms2"),
    "activation": (f"{STRUCTURES}::test_options_change_what_blocks_are_made_of",),
    "upsampling_bias": (f"{PLANS}::test_mnms2",),
    "head_bias": (f"{PLANS}::test_mnms2",),
    "max_features": (f"{PLANS}::test_mnms2", f"{PLANS}::test_limits_are_planned_and_wrong_ones_refused"),
    "refines": (f"{PLANS}::test_cm_trancaf", f"{PLANS}::test_a_refined_network_is_planned_by_its_own_rules"),
    "skip_gate": (f"{PLANS}::test_cm_trancaf", f"{STRUCTURES}::test_grid_gate_weighs_by_the_coarser_features"),
    "deep_supervision": (
        f"{PLANS}::test_cm_trancaf",
        "contracts/test_networks.py::test_deep_supervision_can_be_switched",
    ),
    "block": ("pipeline/test_published_ablations.py::test_rows_of_the_spine_ablation_leave_out_what_they_say",),
    "link": ("pipeline/test_published_ablations.py::test_rows_of_the_spine_ablation_leave_out_what_they_say",),
    "stem_kernel": (f"{PLANS}::test_spine",),
    "loss": (
        f"{STEPS}::test_the_loss_is_its_formula",
        "losses/test_surface.py::test_dice_and_a_tenth_of_focal_equal_monai",
        "losses/test_surface.py::test_dice_and_cross_entropy_over_three_scales_equal_monai",
    ),
    "optimizer": (f"{STEPS}::test_the_optimizer_is_the_published_one",),
    "learning_rate": (
        f"{STEPS}::test_the_optimizer_is_the_published_one",
        f"{TRAINING}::test_the_logged_rate_is_that_of_the_formula",
    ),
    "weight_decay": (f"{STEPS}::test_the_optimizer_is_the_published_one",),
    "momentum": (f"{STEPS}::test_the_optimizer_is_the_published_one",),
    "gradient_clip": (f"{STEPS}::test_a_gradient_is_not_longer_than_it_may_be",),
    "schedule": (
        f"{TRAINING}::test_the_logged_rate_is_that_of_the_formula",
        f"{TRAINING}::test_one_cycle_is_that_of_torch",
    ),
    "warmup": (f"{TRAINING}::test_the_logged_rate_is_that_of_the_formula",),
    "decay_every": (f"{TRAINING}::test_the_logged_rate_is_that_of_the_formula",),
    "decay_factor": (f"{TRAINING}::test_the_logged_rate_is_that_of_the_formula",),
    "epochs": (f"{TRAINING}::test_the_logged_rate_is_that_of_the_formula",),
    "iterations": (f"{TRAINING}::test_a_budget_of_iterations_is_kept_exactly",),
    "batch_size": (f"{TRAINING}::test_a_budget_of_iterations_is_kept_exactly", f"{RUNS}::test_cm_trancaf"),
    "keep_best": (
        "trainers/test_volumes.py::test_the_best_checkpoint_is_that_of_the_best_volumes_and_resuming_changes_nothing",
    ),
    "sampling": (
        f"{POLICIES}::test_the_hit_rate_is_that_of_monai",
        f"{POLICIES}::test_positive_patches_are_centered_on_a_class_and_negative_ones_on_background",
    ),
    "foreground_share": (f"{POLICIES}::test_the_share_of_forced_patches_is_binomial",),
    "patches_per_case": (f"{POLICIES}::test_patches_of_a_case_come_together",),
    "cases_per_epoch": (f"{POLICIES}::test_an_epoch_of_windows_shows_its_share_of_the_cases",),
    "windows_per_case": (f"{POLICIES}::test_an_epoch_of_windows_shows_its_share_of_the_cases",),
    "window_image_share": (f"{POLICIES}::test_windows_are_accepted_by_their_share_of_image_and_foreground",),
    "window_foreground_share": (f"{POLICIES}::test_windows_are_accepted_by_their_share_of_image_and_foreground",),
    "case_weights": (f"{POLICIES}::test_cases_are_drawn_as_often_as_they_weigh",),
    "augmentation": (
        "augmentation/test_recipe.py::test_an_intensity_step_alone_changes_its_share_of_images_and_no_label",
        "augmentation/test_recipe.py::test_a_spatial_step_alone_moves_image_and_labels_together",
    ),
    "volume_every": (f"{TRAINING}::test_aicup_stops_after_two_validations_without_a_better_dice",),
    "volume_patience": (f"{TRAINING}::test_aicup_stops_after_two_validations_without_a_better_dice",),
    "inside": ("postprocessing/test_gating.py::test_what_lies_outside_is_gone_and_the_rest_is_as_it_was",),
    "run-lengths": (f"{RUNS}::test_sennet",),
    "metrics": (f"{RUNS}::test_sennet",),
    "tta": ("inference/test_sliding_window.py::test_every_view_is_undone_and_the_groups_are_those_of_a_square",),
    "keep_largest": ("postprocessing/test_components.py::test_agrees_with_scipy_and_keeps_its_input",),
    "fill_holes": ("postprocessing/test_components.py::test_every_operation_leaves_other_labels_and_its_input",),
    "threshold": ("evaluation/test_search.py::test_a_threshold_is_swept_and_kept_only_if_it_helps",),
}
"""Name of a value -> tests that it takes effect."""

SHOWN_BY = {
    "R102": (
        "end_to_end/test_views.py::test_one_command_trains_a_model_of_each_view",
        "end_to_end/test_views.py::test_images_go_to_the_models_of_their_view",
        "end_to_end/test_views.py::test_an_unknown_view_names_the_case",
        "end_to_end/test_views.py::test_a_wrong_view_is_refused",
    ),
    "R108": (f"{PLANS}::test_mnms2",),
    "R211": (
        "networks/test_ideas.py::test_refinement_tells_left_from_right",
        f"{PLANS}::test_options_of_the_refined_network_reach_it",
    ),
    "R215": (
        "pipeline/test_published_ablations.py::test_rows_of_the_whole_heart_ablation_leave_out_what_they_say",
        "pipeline/test_comparison.py::test_rows_are_trained_tested_and_taken_up_again",
        "pipeline/test_comparison.py::test_a_row_may_name_a_network_with_options",
    ),
    "R413": (
        "pipeline/test_published_ablations.py::test_every_row_can_be_trained",
        "pipeline/test_comparison.py::test_a_row_may_name_a_network_with_options",
    ),
    "R414": ("pipeline/test_published_ablations.py::test_rows_of_the_spine_ablation_leave_out_what_they_say",),
}


def names_tests(test: str) -> bool:
    path, _, function = test.partition("::")
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    return function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", PRESETS)
def test_every_value_of_a_preset_has_a_test(name: str) -> None:
    words = [row.value.partition("=")[0].partition("(")[0] for _, row in PRESETS[name].rows()]
    assert not set(words) - set(EFFECT_OF)


@pytest.mark.parametrize("tests", [*EFFECT_OF.values(), *SHOWN_BY.values()], ids=[*EFFECT_OF, *SHOWN_BY])
def test_the_tests_that_are_named_exist(tests: tuple[str, ...]) -> None:
    assert [test for test in tests if not names_tests(test)] == []


@pytest.mark.parametrize("requirement", SHOWN_BY)
def test_the_page_names_every_requirement_and_its_tests(requirement: str) -> None:
    (line,) = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {requirement} ")]
    for test in SHOWN_BY[requirement]:
        path, _, function = test.partition("::")
        assert path in line
        assert function in line
