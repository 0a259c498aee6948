from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.codec import decode_artifact, digest, from_plain, read_json, read_plain, to_plain, write_json
from autoseg.errors import ArtifactError, MissingArtifactError
from autoseg.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics
from autoseg.geometry import Geometry
from autoseg.plan import Configuration, NormalizationPlan, ResamplingPlan
from autoseg.splits import Fold, FoldName


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    weight: float
    name: str = "leaf"
    is_green: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    schema_version: int = 2
    height: int
    leaves: tuple[Leaf, ...] = ()
    pair: tuple[int, str] = (0, "")
    grid: tuple[tuple[float, ...], ...] = ()
    season: Literal["summer", "winter"] = "summer"
    fold: FoldName = 0
    limit: float | None = None
    notes: dict[str, str] = field(default_factory=dict)
    home: Path = Path()
    anything: Any = None

    def __post_init__(self) -> None:
        if self.height < 0:
            raise ValueError(f"height must not be negative, got {self.height}")


finite = st.floats(allow_nan=False, allow_infinity=False)
leaves = st.builds(Leaf, weight=finite, name=st.text(), is_green=st.booleans())
trees = st.builds(
    Tree,
    height=st.integers(min_value=0),
    leaves=st.lists(leaves, max_size=3).map(tuple),
    pair=st.tuples(st.integers(), st.text()),
    grid=st.lists(st.lists(finite, max_size=3).map(tuple), max_size=3).map(tuple),
    season=st.sampled_from(["summer", "winter"]),
    fold=st.integers() | st.just("all"),
    limit=st.none() | finite,
    notes=st.dictionaries(st.text(), st.text(), max_size=3),
    home=st.text(st.characters(categories=["Ll"]), min_size=1).map(Path),
    anything=st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s, max_size=2)),
)


@given(trees)
def test_json_and_back_changes_nothing(tree: Tree) -> None:
    assert from_plain(Tree, json.loads(json.dumps(to_plain(tree)))) == tree


@given(trees)
def test_digest_survives_json_and_tells_values_apart(tree: Tree) -> None:
    assert digest(from_plain(Tree, json.loads(json.dumps(to_plain(tree))))) == digest(tree)
    assert digest(replace(tree, height=tree.height + 1)) != digest(tree)


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2.5, None]}) == digest({"b": [2.5, None], "a": 1})
    written = b'{"is_green":true,"name":"Bl\xc3\xa4ttchen","weight":0.1}'
    assert digest(Leaf(weight=0.1, name="Blättchen")) == hashlib.sha256(written).hexdigest()


ARTIFACTS = [
    Geometry(shape=(20, 40, 30), spacing=(5.0, 0.5, 0.5), origin=(-1.5, 2.0, 1e-3)),
    Fold(train=("a", "b"), val=("c",)),
    NormalizationPlan(scheme="zscore", use_mask=True),
    ResamplingPlan(force_separate_z=True),
    Fingerprint(
        cases=(CaseFingerprint(id="a", spacing=(1.0, 1.0), shape=(4, 5), cropped_shape=(4, 4), orientation="PL"),),
        intensities=(
            IntensityStatistics(
                mean=0.1, median=0.2, std=1 / 3, min=-1e9, max=1e300, percentile_00_5=0.0, percentile_99_5=5e-324
            ),
        ),
        median_relative_size=0.9,
        orientation="PL",
    ),
]


@pytest.mark.parametrize("artifact", ARTIFACTS, ids=lambda a: type(a).__name__)
def test_artifacts_come_back_from_disk_as_they_were(artifact: object, tmp_path: Path) -> None:
    write_json(artifact, tmp_path / "deep" / "a.json")
    assert read_json(type(artifact), tmp_path / "deep" / "a.json") == artifact


WRONG = [
    ({"height": 1, "leafs": []}, "leafs is not a field; did you mean leaves?"),
    ({"height": 1, "q": 1}, "q is not a field; fields: schema_version, height"),
    ({}, "height is missing"),
    ({"height": "1"}, "height must be an integer, found '1'"),
    ({"height": 1.0}, "height must be an integer, found 1.0"),
    ({"height": True}, "height must be an integer, found True"),
    ({"height": -1}, "height must not be negative, got -1"),
    ({"height": 1, "leaves": {}}, "leaves must be a list, found {}"),
    ({"height": 1, "leaves": [{"weight": 1}, {"weight": "x"}]}, "leaves[1].weight must be a number, found 'x'"),
    ({"height": 1, "leaves": [{}]}, "leaves[0].weight is missing"),
    ({"height": 1, "leaves": [3]}, "leaves[0] must be an object, found 3"),
    ({"height": 1, "leaves": [{"weight": 1, "is_green": 1}]}, "leaves[0].is_green must be true or false, found 1"),
    ({"height": 1, "leaves": [{"weight": 1, "name": 1}]}, "leaves[0].name must be text, found 1"),
    ({"height": 1, "leaves": [{"weight": float("nan")}]}, "leaves[0].weight must be a finite number, found nan"),
    ({"height": 1, "leaves": [{"weight": False}]}, "leaves[0].weight must be a number, found False"),
    ({"height": 1, "pair": [1]}, "pair must have 2 entries, found 1"),
    ({"height": 1, "pair": [1, 2]}, "pair[1] must be text, found 2"),
    ({"height": 1, "grid": [[1], [2, "x"]]}, "grid[1][1] must be a number, found 'x'"),
    ({"height": 1, "season": "spring"}, "season must be one of 'summer', 'winter', found 'spring'"),
    ({"height": 1, "fold": "some"}, "fold must be an integer, found 'some'"),
    ({"height": 1, "limit": "x"}, "limit must be a number, found 'x'"),
    ({"height": 1, "notes": []}, "notes must be an object, found []"),
    ({"height": 1, "notes": {"a": 1}}, "notes.a must be text, found 1"),
    ([], "value must be an object, found []"),
]


@pytest.mark.parametrize(("data", "message"), WRONG)
def test_what_is_wrong_is_named_with_its_json_path(data: object, message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        from_plain(Tree, data)
    assert str(caught.value).startswith(message)


def test_a_configuration_edited_wrongly_is_refused_with_its_reason() -> None:
    with pytest.raises(
        ArtifactError, match=r"configurations\[0\]\.patchsize is not a field; did you mean patch_size\?"
    ):
        from_plain(Configuration, {"patchsize": [1]}, where="configurations[0]")


def test_whole_numbers_are_accepted_where_a_float_is_wanted() -> None:
    assert from_plain(Leaf, {"weight": 3}) == Leaf(weight=3.0)
    assert isinstance(from_plain(Leaf, {"weight": 3}).weight, float)


def test_schema_versions_are_judged_before_keys() -> None:
    unknown = {"schema_version": 3, "width": 1}
    with pytest.raises(ArtifactError, match=r"plan\.json has schema version 3, this autoseg knows 2: update autoseg"):
        decode_artifact(Tree, unknown, source="plan.json")
    with pytest.raises(ArtifactError, match=r"plan\.json has schema version 1, too old to be migrated to 2"):
        decode_artifact(Tree, unknown | {"schema_version": 1}, source="plan.json")
    for absent in ({"height": 1}, {"schema_version": "2"}, {"schema_version": True}):
        with pytest.raises(ArtifactError, match=r"plan\.json has no schema_version; autoseg did not write it"):
            decode_artifact(Tree, absent, source="plan.json")
    assert decode_artifact(Tree, {"schema_version": 2, "height": 1}, source="plan.json") == Tree(height=1)


def test_files_are_named_when_they_are_missing_or_broken(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(MissingArtifactError, match=r"plan\.json does not exist"):
        read_plain(path)
    path.write_text('{"height": 1', encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"plan\.json cannot be read as JSON"):
        read_plain(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtifactError, match=r"plan\.json cannot be read as JSON"):
        read_plain(path)
    path.write_text('{"schema_version": 2, "height": "x"}', encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"plan\.json: height must be an integer"):
        read_json(Tree, path)


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="set has no JSON form"):
        to_plain({"a": {1, 2}})
