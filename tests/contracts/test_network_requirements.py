"""What systems of the field ask of networks, and which tests show it; docs/reference/networks.md has the same table."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "reference" / "networks.md"
SHOWN_BY = {
    "R008": ("networks/test_structures.py::test_the_cardiac_baseline_is_monais_network_of_its_published_size",),
    "R009": (
        "networks/test_published.py::test_swin_unetr_is_monai_s",
        "networks/test_published.py::test_swin_unetr_has_as_many_parameters_as_published",
        "planners/test_network_sizing.py::test_a_form_that_was_refused_is_noted_with_the_reason",
    ),
    "R010": (
        "networks/test_structures.py::test_same_gate_equals_monais",
        "networks/test_structures.py::test_grid_gate_weighs_by_the_coarser_features",
        "contracts/test_networks.py::test_deep_supervision_can_be_switched",
    ),
    "R121": (
        "contracts/test_networks.py::test_outputs_have_the_shapes_that_the_plan_says",
        "planners/test_network_sizing.py::test_every_network_is_planned_within_memory",
    ),
    "R207": (
        "networks/test_structures.py::test_ablations_of_maunet_differ_by_what_they_leave_out",
        "networks/test_ideas.py::test_position_attention_carries_news_across_the_image",
    ),
    "R208": ("networks/test_structures.py::test_attention_maps_can_be_looked_at",),
    "R209": (
        "networks/test_structures.py::test_position_attention_is_its_formula",
        "networks/test_structures.py::test_untrained_attention_changes_nothing",
        "networks/test_structures.py::test_position_attention_of_many_positions_pools",
    ),
    "R211": (
        "networks/test_structures.py::test_refinement_has_the_published_size",
        "networks/test_structures.py::test_refinement_begins_as_nothing_and_may_leave_the_segmenter_alone",
        "networks/test_ideas.py::test_refinement_tells_left_from_right",
    ),
    "R304": (
        "networks/test_encoders.py::test_encoders_have_as_many_parameters_as_published",
        "networks/test_encoders.py::test_the_deepest_features_are_monais",
        "networks/test_encoders.py::test_published_files_fill_the_encoder_and_every_key_is_accounted_for",
    ),
    "R305": (
        "data/test_stacks.py::test_the_target_is_that_of_the_middle_slice",
        "data/test_stacks.py::test_a_stack_holds_the_neighbors_of_its_slice_and_repeats_the_border",
        "inference/test_slices.py::test_the_answer_is_that_of_the_middle_slice_and_the_border_is_repeated",
    ),
    "R306": (
        "data/test_stacks.py::test_the_target_is_that_of_the_middle_slice",
        "data/test_stacks.py::test_crops_of_256_pixels",
    ),
    "R309": (
        "inference/test_slices.py::test_three_axes_are_the_mean_of_each",
        "inference/test_slices.py::test_a_volume_turned_in_3d_gives_the_prediction_turned",
        "end_to_end/test_slices.py::test_three_axes_find_tubes_at_least_as_well_as_the_best_of_them",
    ),
    "R314 (a)": (
        "networks/test_literature_blocks.py::test_cells_have_the_published_edges",
        "networks/test_published.py::test_scnas_is_built_of_as_many_operations_as_its_tables_say",
        "networks/test_published.py::test_as_many_parameters_as_published",
        "networks/test_long_range.py::test_what_makes_a_network_look_far_solves_a_task_that_needs_it",
    ),
    "R315": ("networks/test_memory.py::test_a_step_of_four_subvolumes_of_128_voxels",),
    "R403": (
        "networks/test_literature_blocks.py::test_plane_kernels_see_their_slice_alone",
        "networks/test_literature_blocks.py::test_a_ux_block_without_scale_is_the_identity",
        "networks/test_literature_blocks.py::test_a_ux_block_never_mixes_channels",
    ),
    "R404": (
        "networks/test_literature_blocks.py::test_hanc_looks_further_with_every_level",
        "networks/test_literature_blocks.py::test_context_is_means_and_maxima_of_blocks",
        "networks/test_structures.py::test_a_link_sees_three_slices_to_both_sides",
    ),
    "R405": ("networks/test_structures.py::test_blocks_keep_their_scale",),
    "R406": ("networks/test_structures.py::test_slices_meet_only_in_links_and_slice_convolutions",),
    "R413": ("pipeline/test_published_ablations.py::test_every_row_can_be_trained",),
    "R414": ("pipeline/test_published_ablations.py::test_rows_of_the_spine_ablation_leave_out_what_they_say",),
}


@pytest.mark.parametrize("requirement", SHOWN_BY)
def test_the_tests_named_for_a_requirement_exist(requirement: str) -> None:
    for name in SHOWN_BY[requirement]:
        path, _, function = name.partition("::")
        tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert function in functions, name


def test_the_page_names_the_same_tests() -> None:
    """One row per requirement, with every test."""
    rows = {
        cells[1].strip().partition(":")[0]: cells[2]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| R") and len(cells := line.split("|")) == 4
    }
    assert set(rows) == set(SHOWN_BY)
    for requirement, names in SHOWN_BY.items():
        for name in names:
            assert name.partition("::")[2] in rows[requirement], (requirement, name)
