"""Stacks of a few thick slices."""

from __future__ import annotations

from collections.abc import Callable

from autoseg.dataset import Dataset
from autoseg.fingerprint import Fingerprint
from autoseg.planning import PLANNERS, PlannerBudget


def test_few_thick_slices_are_never_pooled_together(
    make_fingerprint: Callable[..., Fingerprint], make_dataset: Callable[..., Dataset]
) -> None:
    fingerprint = make_fingerprint([((10.0, 0.4, 0.4), (12, 880, 880))] * 20)
    dataset = make_dataset(num_labels=4, num_cases=20)
    plan = PLANNERS.get("unet")().plan(dataset, fingerprint, PlannerBudget(gpu_memory_gb=8))
    full = plan.configuration("3d_fullres")
    assert all(stride[0] == 1 for stride in full.network.strides)
    assert all(kernel[0] == 1 for kernel in full.network.kernel_sizes[:3])  # nor mixed before planes are as coarse
    assert full.patch_size[0] == 6  # nnU-Net's rule at 8 GB; all twelve slices fit where there is more memory
    larger = PLANNERS.get("unet")().plan(dataset, fingerprint, PlannerBudget(gpu_memory_gb=40))
    assert larger.configuration("3d_fullres").patch_size[0] == 12
    assert "2d" in plan.configuration_names
