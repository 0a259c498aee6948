"""Every problem of a dataset, found at once: what is repaired, what is only said, and what keeps it from being used."""

from autoseg.check.headers import check_dataset
from autoseg.check.report import CheckReport, Problem
from autoseg.check.voxels import CheckedVoxels, VoxelJob, check_voxels, read_and_check

__all__ = ["CheckReport", "CheckedVoxels", "Problem", "VoxelJob", "check_dataset", "check_voxels", "read_and_check"]
