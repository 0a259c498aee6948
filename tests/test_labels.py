from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.errors import DatasetError
from autoseg.labels import LabelScheme, Target


def scheme(table: dict[str, Any], *order: int) -> LabelScheme:
    return LabelScheme.from_table(table, order, where="dataset.json")


ORGANS = scheme({"background": 0, "liver": 1, "spleen": 2})
TUMOR = scheme({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}, 1, 2, 3)


def test_plain_labels_have_one_output_each_and_one_for_background() -> None:
    assert ORGANS.num_outputs == 3
    assert ORGANS.values == (0, 1, 2)
    assert ORGANS.foreground_values == (1, 2)
    assert not ORGANS.has_regions
    assert ORGANS.declared_count == 3


def test_regions_have_one_output_each_and_keep_their_order() -> None:
    assert TUMOR.num_outputs == 3
    assert [t.name for t in TUMOR.targets] == ["whole", "core", "enhancing"]
    assert TUMOR.values == (0, 1, 2, 3)


def test_labels_are_ordered_by_value_whatever_the_table_says() -> None:
    assert [t.name for t in scheme({"spleen": 2, "background": 0, "liver": 1}).targets] == ["liver", "spleen"]


def test_ignore_is_no_target_and_no_value() -> None:
    labels = scheme({"background": 0, "liver": 1, "ignore": 2})
    assert labels.ignore_value == 2
    assert labels.values == (0, 1)
    assert labels.num_outputs == 2
    assert labels.declared_count == 3


def test_a_target_masks_every_value_it_unites() -> None:
    segmentation = np.array([[0, 1], [2, 3]])
    assert Target(name="a", values=(2,)).mask(segmentation).tolist() == [[False, False], [True, False]]
    assert Target(name="b", values=(1, 3)).mask(segmentation).tolist() == [[False, True], [False, True]]


def test_the_highest_score_decides_and_background_wins_ties() -> None:
    scores = np.array([[0.2, 0.5, 0.4], [0.7, 0.5, 0.2], [0.1, 0.0, 0.4]])  # (k, voxels)
    assert ORGANS.segmentation(scores).tolist() == [1, 0, 0]


def test_values_need_not_be_consecutive() -> None:
    labels = scheme({"background": 0, "a": 5, "b": 500})
    segmentation = labels.segmentation(np.eye(3))
    assert segmentation.tolist() == [0, 5, 500]
    assert segmentation.dtype == np.uint16


def test_later_regions_overwrite_earlier_ones_where_they_exceed_one_half() -> None:
    scores = np.array([[0.9, 0.9, 0.9, 0.5], [0.2, 0.6, 0.9, 0.1], [0.1, 0.2, 0.6, 0.2]])
    assert TUMOR.segmentation(scores).tolist() == [1, 2, 3, 0]


def test_region_order_may_write_a_value_above_the_labels() -> None:
    labels = scheme({"background": 0, "whole": [1, 2], "core": 2}, 1, 300)
    assert labels.segmentation(np.array([[0.9, 0.9], [0.1, 0.9]])).tolist() == [1, 300]


@given(st.integers(0, 2**32 - 1), st.sampled_from([ORGANS, TUMOR]))
def test_only_declared_values_are_predicted(seed: int, labels: LabelScheme) -> None:
    scores = np.random.default_rng(seed).random((labels.num_outputs, 4, 5))
    segmentation = labels.segmentation(scores)
    assert segmentation.shape == (4, 5)
    assert segmentation.dtype == np.uint8
    assert set(np.unique(segmentation)) <= set(labels.values)


WRONG = [
    ({"liver": 1}, (), 'must declare "background": 0, found None'),
    ({"background": 1, "liver": 2}, (), 'must declare "background": 0, found 1'),
    ({"background": 0}, (), "there is nothing to segment"),
    ({"background": 0, "ignore": 1}, (), "there is nothing to segment"),
    ({"background": 0, "a": 1, "b": 1}, (), "two labels share a value"),
    ({"background": 0, "a": [1, 2], "b": 2}, (1,), "must list one value for each of 2 regions, found [1]"),
    ({"background": 0, "a": 1, "ignore": 3}, (), "ignore must be 2"),
    ({"background": 0, "a": "1"}, (), "label 'a' must be an integer or a list of integers, found '1'"),
    ({"background": 0, "a": -1}, (), "label 'a' must be"),
    ({"background": 0, "a": True}, (), "label 'a' must be"),
    ({"background": 0, "a": []}, (), "label 'a' must be"),
    ({"background": 0, "a": 1.0}, (), "label 'a' must be"),
]


@pytest.mark.parametrize(("table", "order", "message"), WRONG)
def test_a_malformed_table_is_refused(table: dict[str, Any], order: tuple[int, ...], message: str) -> None:
    with pytest.raises(DatasetError) as caught:
        scheme(table, *order)
    assert str(caught.value).startswith("dataset.json: ")
    assert message in str(caught.value)
