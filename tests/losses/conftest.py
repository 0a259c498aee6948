"""Label schemes of every kind."""

from __future__ import annotations

import pytest

from autoseg.labels import LabelScheme


@pytest.fixture
def two_labels() -> LabelScheme:
    return LabelScheme.from_table({"background": 0, "organ": 1, "tumor": 2}, where="dataset.json")


@pytest.fixture
def two_labels_and_ignore() -> LabelScheme:
    return LabelScheme.from_table({"background": 0, "organ": 1, "tumor": 2, "ignore": 3}, where="dataset.json")


@pytest.fixture
def two_regions() -> LabelScheme:
    return LabelScheme.from_table({"background": 0, "whole": [1, 2], "tumor": 2}, (1, 2), where="dataset.json")


@pytest.fixture
def two_regions_and_ignore() -> LabelScheme:
    table = {"background": 0, "whole": [1, 2], "tumor": 2, "ignore": 3}
    return LabelScheme.from_table(table, (1, 2), where="dataset.json")
