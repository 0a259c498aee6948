"""How often each case is drawn in training, where not all are drawn alike."""

from __future__ import annotations

from collections.abc import Sequence

from autoseg.data.weights import annotated_share
from autoseg.dataset import load_dataset
from autoseg.labels import LabelScheme
from autoseg.preprocessing.store import CaseStore
from autoseg.training_config import CaseWeights
from autoseg.workspace import Workspace


def weigh_cases(
    rule: CaseWeights, cases: Sequence[str], *, workspace: Workspace, store: CaseStore, labels: LabelScheme
) -> dict[str, float] | None:
    """Weights of cases; None when all are drawn alike.

    Args:
        rule: "equal", "annotated" by the share of voxels that are not ignored and of the foreground that
            was drawn, "table" by its column weight.
        cases: Cases to train on.
        workspace: Knows the dataset.
        store: Their preprocessed segmentations.
        labels: Which voxels are ignored.
    """
    if rule == "equal":
        return None
    declared = {case.id: case for case in load_dataset(workspace.dataset_source).training}
    known = [case for case in cases if case in declared]
    if rule == "annotated":
        return {case: annotated_share(store.open(case), labels) * declared[case].annotated for case in known}
    return {case: declared[case].weight for case in known}
