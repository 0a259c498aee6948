"""Synthetic datasets: a general one for the demo and tests, and one of the kind of each preset."""

from __future__ import annotations

from autoseg.synthetic.kinds import KINDS, SyntheticKind
from autoseg.synthetic.organ import LESION, ORGAN, synthetic_case, write_synthetic_dataset

__all__ = ["KINDS", "LESION", "ORGAN", "SyntheticKind", "synthetic_case", "write_synthetic_dataset"]
