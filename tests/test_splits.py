from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.dataset import Case
from autoseg.errors import ArtifactError, DatasetError, MissingArtifactError, SettingsError
from autoseg.splits import (
    Fold,
    SplitRule,
    crossing_groups,
    fold_dir_name,
    make_splits,
    parse_fold,
    read_splits,
    split_cases,
    write_splits,
)

case_ids = st.lists(st.text(st.characters(categories=["Ll", "Nd"]), min_size=1), min_size=2, max_size=40, unique=True)


@given(case_ids, st.integers(2, 7))
def test_every_case_is_held_out_exactly_once(ids: list[str], num_folds: int) -> None:
    folds = make_splits(ids, num_folds=num_folds)
    assert sorted(case for fold in folds for case in fold.val) == sorted(ids)
    for fold in folds:
        assert sorted(fold.train + fold.val) == sorted(ids)


@given(case_ids, st.integers(2, 7))
def test_fold_sizes_differ_by_at_most_one_larger_folds_first(ids: list[str], num_folds: int) -> None:
    folds = make_splits(ids, num_folds=num_folds)
    count = min(num_folds, len(ids))
    whole, rest = divmod(len(ids), count)
    assert [len(fold.val) for fold in folds] == [whole + (number < rest) for number in range(count)]


@given(case_ids)
def test_the_order_of_the_ids_does_not_matter(ids: list[str]) -> None:
    assert make_splits(ids) == make_splits(ids[::-1])


def test_one_case_cannot_be_split() -> None:
    with pytest.raises(DatasetError, match="needs at least two labelled cases, found 1"):
        make_splits(["only"])


def test_folds_equal_the_reference_implementation() -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    ids = sorted(f"case_{n:03d}" for n in range(23))
    expected = selection.KFold(n_splits=5, shuffle=True, random_state=12345).split(ids)
    for fold, (train, val) in zip(make_splits(ids), expected, strict=True):
        assert fold == Fold(train=tuple(ids[i] for i in train), val=tuple(ids[i] for i in val))


def test_folds_equal_those_that_nnunet_wrote(shared_dir: Path) -> None:
    golden = sorted((shared_dir / "golden" / "nnunet").glob("*/splits_final.json"))
    assert golden
    for path in golden:
        expected = json.loads(path.read_text(encoding="utf-8"))
        ids = sorted({case for fold in expected for case in fold["train"] + fold["val"]})
        folds = make_splits(ids, num_folds=len(expected))
        assert [{"train": list(f.train), "val": list(f.val)} for f in folds] == expected, path.parent.name


def test_written_folds_are_read_again(tmp_path: Path) -> None:
    folds = make_splits(["a", "b", "c"], num_folds=3)
    write_splits(folds, tmp_path / "splits.json")
    assert read_splits(tmp_path / "splits.json", ["a", "b", "c"]) == folds
    assert json.loads((tmp_path / "splits.json").read_text(encoding="utf-8"))[0].keys() == {"train", "val"}


WRONG = [
    ({"train": ["a"], "val": ["b"]}, ArtifactError, "must hold a list of folds"),
    ([], ArtifactError, "must hold a list of folds"),
    ([{"train": ["a"]}], ArtifactError, "fold 0 must be"),
    ([{"train": ["a"], "val": ["b"], "test": []}], ArtifactError, "fold 0 must be"),
    ([{"train": ["a"], "val": ["b"]}, ["a"]], ArtifactError, "fold 1 must be"),
    ([{"train": "ab", "val": ["c"]}], ArtifactError, "fold 0 must be"),
    ([{"train": [1], "val": ["c"]}], ArtifactError, "fold 0 must be"),
    ([{"train": ["a", "x"], "val": ["b"]}], DatasetError, "fold 0 names x, which is not a training case"),
    ([{"train": ["a", "b"], "val": ["b"]}], DatasetError, "fold 0 trains on b and holds it out as well"),
    ([{"train": [], "val": ["b"]}], DatasetError, "fold 0 has no cases to train on or none held out"),
    ([{"train": ["a"], "val": []}], DatasetError, "fold 0 has no cases to train on or none held out"),
]


@pytest.mark.parametrize(("content", "kind", "message"), WRONG)
def test_wrong_splits_are_refused(content: object, kind: type[Exception], message: str, tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(kind, match=message) as caught:
        read_splits(path, ["a", "b", "c"])
    assert str(path) in str(caught.value)


def test_absent_splits_are_said_to_be_absent(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifactError, match="does not exist"):
        read_splits(tmp_path / "splits.json")


def test_unknown_cases_pass_when_the_cases_are_not_given(tmp_path: Path) -> None:
    write_splits([Fold(train=("x",), val=("y",))], tmp_path / "splits.json")
    assert read_splits(tmp_path / "splits.json") == (Fold(train=("x",), val=("y",)),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fold0", 0),
        ("0", 0),
        ("4", 4),
        ("fold_3", 3),
        (" Fold2 ", 2),
        ("all", "all"),
        ("ALL", "all"),
        ("fold_all", "all"),
    ],
)
def test_folds_are_understood(text: str, expected: int | str) -> None:
    assert parse_fold(text, num_folds=5) == expected


@pytest.mark.parametrize("text", ["5", "fold5", "-1", "1.0", "", "fold", "first", "²"])
def test_other_words_are_refused_with_the_choice(text: str) -> None:
    with pytest.raises(SettingsError, match="choose fold0 to fold4, or all"):
        parse_fold(text, num_folds=5)


def test_folders_are_named_after_folds() -> None:
    assert [fold_dir_name(fold) for fold in (0, 11, "all")] == ["fold0", "fold11", "fold_all"]


def cases_of(groups: Sequence[str | None] = (), domains: Sequence[str | None] = ()) -> list[Case]:
    """Cases case000, case001, ... with the given groups or domains."""
    number = max(len(groups), len(domains))
    return [
        Case(
            id=f"case{i:03d}",
            images=(),
            group=groups[i] if groups else None,
            domain=domains[i] if domains else None,
        )
        for i in range(number)
    ]


def held_out(folds: Sequence[Fold]) -> list[set[str]]:
    return [set(fold.val) for fold in folds]


def test_without_groups_folds_are_nnunets() -> None:
    cases = cases_of([None] * 17)
    assert split_cases(cases) == make_splits([case.id for case in cases])
    assert split_cases(cases, SplitRule(num_folds=3)) == make_splits([case.id for case in cases], num_folds=3)


RULES = [
    SplitRule(),
    SplitRule(split_by="group", num_folds=3),
    SplitRule(stratify="domain"),
    SplitRule(stratify="labels"),
]


@given(
    groups=st.lists(st.sampled_from(["p1", "p2", "p3", "p4", None]), min_size=12, max_size=40),
    rule=st.sampled_from(RULES),
    seed=st.integers(0, 100),
)
def test_every_case_is_held_out_once_and_no_group_is_torn(groups: list[str | None], rule: SplitRule, seed: int) -> None:
    groups = ["p1", "p2", "p3", "p4", None, None, *groups]
    cases = cases_of(groups, ["a" if i % 3 else "b" for i in range(len(groups))])
    labels = {case.id: (1, 2) if i % 4 else (1,) for i, case in enumerate(cases)}
    folds = split_cases(cases, rule, labels=labels)
    ids = sorted(case.id for case in cases)
    assert sorted(case for fold in folds for case in fold.val) == ids
    assert all(sorted((*fold.train, *fold.val)) == ids for fold in folds)
    assert crossing_groups(folds, cases) == []
    shuffled = [cases[i] for i in np.random.default_rng(seed).permutation(len(cases))]
    assert split_cases(shuffled, rule, labels=labels) == folds


def test_folds_of_equal_groups_are_equally_large() -> None:
    folds = split_cases(cases_of([f"p{i // 3}" for i in range(60)]))
    assert [len(fold.val) for fold in folds] == [12] * 5


def test_every_fold_gets_its_share_of_each_domain() -> None:
    domains = ["rare"] * 5 + ["half"] * 25 + ["most"] * 50
    folds = split_cases(cases_of(domains=domains), SplitRule(stratify="domain"))
    for held in held_out(folds):
        found = Counter(domains[int(case.removeprefix("case"))] for case in held)
        assert found == {"rare": 1, "half": 5, "most": 10}


def test_every_fold_gets_a_case_with_a_rare_label() -> None:
    cases = cases_of([None] * 50)
    labels = {case.id: (1, 2) if i in (3, 4, 5, 6, 7) else (1,) for i, case in enumerate(cases)}
    folds = split_cases(cases, SplitRule(stratify="labels"), labels=labels)
    assert [sum(2 in labels[case] for case in held) for held in held_out(folds)] == [1] * 5
    assert [len(held) for held in held_out(folds)] == [10] * 5


def test_one_domain_is_held_out_per_fold() -> None:
    folds = split_cases(cases_of(domains=["b", "a", "b", "c"]), SplitRule(split_by="domain"))
    assert held_out(folds) == [{"case001"}, {"case000", "case002"}, {"case003"}]
    assert folds[0].train == ("case000", "case002", "case003")


@pytest.mark.parametrize(
    ("cases", "rule", "message"),
    [
        (cases_of([None] * 6), SplitRule(split_by="group"), "no case has a group"),
        (cases_of([None] * 6), SplitRule(stratify="domain"), "no case has a domain to stratify by"),
        (cases_of(["p"] * 6), SplitRule(), "all 6 cases belong to one group"),
        (cases_of(domains=["a", None]), SplitRule(split_by="domain"), "case001 has no domain"),
        (cases_of(domains=["a", "a"]), SplitRule(split_by="domain"), "a second domain is needed"),
        (cases_of(["p", "p"], ["a", "b"]), SplitRule(split_by="domain"), "group p has cases in several domains"),
    ],
)
def test_splits_that_cannot_be_made_are_refused(cases: list[Case], rule: SplitRule, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        split_cases(cases, rule)


def test_rules_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be stratified"):
        SplitRule(split_by="domain", stratify="labels")
    with pytest.raises(ValueError, match="at least two folds"):
        SplitRule(num_folds=1)
