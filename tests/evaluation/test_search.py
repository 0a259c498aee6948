"""The search on scores alone: ensembles of any size, cheaper equals, honest estimates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import SettingsError
from autoseg.evaluation.measures import parse_metrics
from autoseg.evaluation.selection import Candidate, SearchRule, select
from autoseg.evaluation.selection.candidates import Contender
from autoseg.evaluation.selection.search import choose, nested
from autoseg.evaluation.selection.table import ScoreTable, overall
from autoseg.geometry import Geometry
from autoseg.image import Image, Segmentation, write_image, write_segmentation
from autoseg.inference.export import write_probabilities
from autoseg.labels import LabelScheme
from autoseg.postprocessing.steps import PostprocessingStep, Steps

LABELS = LabelScheme.from_table({"background": 0, "a": 1}, where="test")
PLAIN = SearchRule(operations=(), prefers_cheaper=False)


def candidate(name: str, cases: Sequence[str], *, averageable: bool = False, cost: float = 1.0) -> Candidate:
    paths = {case: Path(case) for case in cases}
    folds = {case: f"fold{number % 5}" for number, case in enumerate(cases)}
    return Candidate(name=name, segmentations=paths, probabilities=paths if averageable else {}, folds=folds, cost=cost)


class Simulated:
    """Scores from a formula instead of files: what the search sees of a cross-validation."""

    labels = LABELS

    def __init__(self, scores: dict[str, np.ndarray], cases: Sequence[str], gains: dict[str, np.ndarray] | None = None):
        self._scores = scores
        self._row = {case: row for row, case in enumerate(cases)}
        self._gains = gains or {}

    def scores(self, contender: Contender, steps: Steps, cases: Sequence[str]) -> np.ndarray:
        rows = [self._row[case] for case in cases]
        total = self._scores[contender.name][rows]
        for step in steps:
            total = total + self._gains[step.name][rows]
        return np.asarray(total)[:, None]


def test_choosing_among_twenty_equals_flatters_itself_and_the_nested_score_does_not() -> None:
    cases = [f"case{n}" for n in range(40)]
    candidates = [candidate(f"c{n}", cases) for n in range(20)]
    naive, honest = [], []
    for trial in range(100):
        rng = np.random.default_rng(trial)
        # every candidate is as good: 0.8 on average, with noise per case and candidate
        table = {c.name: 0.8 + rng.normal(0, 0.1, len(cases)) for c in candidates}
        source = Simulated(table, cases)
        naive.append(
            overall(source.scores(choose(source, candidates, cases, PLAIN, is_reported=False).best, (), cases))
        )
        honest.append(overall(nested(source, candidates, cases, candidates[0].folds, PLAIN).scores))
    error = np.std(honest) / np.sqrt(len(honest))
    assert np.mean(naive) > 0.8 + 0.02  # the highest of twenty means of forty: about 1.9 standard errors of 0.016
    assert abs(np.mean(honest) - 0.8) < 3 * error
    assert error < 0.004


def test_the_nested_score_also_covers_the_postprocessing() -> None:
    cases = [f"case{n}" for n in range(40)]
    single = [candidate("c", cases)]
    rule = SearchRule(operations=("fill_holes", "smooth", "keep_largest"), prefers_cheaper=False)
    naive, honest = [], []
    for trial in range(40):
        rng = np.random.default_rng(trial)
        gains = {name: rng.normal(0, 0.1, len(cases)) for name in rule.operations}  # they help nothing on average
        source = Simulated({"c": np.full(len(cases), 0.8)}, cases, gains)
        choice = choose(source, single, cases, rule)
        naive.append(overall(source.scores(choice.winner, choice.steps, cases)))
        honest.append(overall(nested(source, single, cases, single[0].folds, rule).scores))
    assert np.mean(naive) > 0.8 + 0.01
    assert abs(np.mean(honest) - 0.8) < 3 * np.std(honest) / np.sqrt(len(honest))


class TestCheaper:
    cases = tuple(f"case{n}" for n in range(20))

    def choose(self, gap: float, noise: float, **rule: float) -> str:
        rng = np.random.default_rng(5)
        good = 0.8 + rng.normal(0, 0.05, len(self.cases))
        differences = rng.normal(0, noise, len(self.cases))
        scores = {"dear": good, "cheap": good - gap + differences - differences.mean()}
        candidates = [candidate("dear", self.cases, cost=2), candidate("cheap", self.cases, cost=1)]
        choice = choose(Simulated(scores, self.cases), candidates, list(self.cases), SearchRule(operations=(), **rule))  # type: ignore[arg-type]
        assert choice.best.name == "dear"
        self.reasons = " ".join(choice.reasons)
        return choice.winner.name

    def test_wins_where_the_two_do_not_differ_and_says_why(self) -> None:
        assert self.choose(gap=0.004, noise=0.02) == "cheap"
        assert "cheap is taken all the same: it needs 1 network(s) per fold instead of 2" in self.reasons
        assert "does not differ" in self.reasons

    def test_loses_where_it_is_worse_in_every_case(self) -> None:
        assert self.choose(gap=0.004, noise=0.0001) == "dear"

    def test_loses_where_it_may_be_much_worse_although_nothing_is_significant(self) -> None:
        assert self.choose(gap=0.02, noise=0.1) == "dear"

    def test_can_be_told_not_to_matter(self) -> None:
        assert self.choose(gap=0.004, noise=0.02, prefers_cheaper=False) == "dear"


class Files:
    """A cross-validation on disk, made of probabilities of one label on rows of voxels."""

    def __init__(self, root: Path, truth: dict[str, list[int]]) -> None:
        self.root = root
        self.references = {case: root / "labels" / f"{case}.nrrd" for case in truth}
        for case, values in truth.items():
            self.write(self.references[case], values)

    @staticmethod
    def write(path: Path, values: list[int]) -> None:
        array = np.asarray([values], dtype=np.uint8)
        geometry = Geometry(shape=array.shape, spacing=(1.0, 1.0))
        write_segmentation(path, Segmentation(array=array, geometry=geometry))

    def candidate(self, name: str, probabilities: dict[str, list[float]]) -> Candidate:
        segmentations, stored = {}, {}
        for case, values in probabilities.items():
            p = np.asarray([values], dtype=np.float32)
            segmentations[case] = self.root / name / f"{case}.nrrd"
            stored[case] = self.root / name / f"{case}.probabilities.b2nd"
            self.write(segmentations[case], [int(v > 0.5) for v in values])
            write_probabilities(stored[case], np.stack([1 - p, p]))
        folds = {case: f"fold{n}" for n, case in enumerate(probabilities)}
        return Candidate(name=name, segmentations=segmentations, probabilities=stored, folds=folds)


TRUTH = {"x": [1, 1, 1, 1, 0, 0, 0, 0], "y": [1, 1, 1, 1, 0, 0, 0, 0]}


def everywhere(probabilities: list[float]) -> dict[str, list[float]]:
    return dict.fromkeys(TRUTH, probabilities)


def test_an_ensemble_of_three_can_win(tmp_path: Path) -> None:
    files = Files(tmp_path, TRUTH)
    # each is wrong in a voxel of its own; a majority of two is still wrong somewhere, of three nowhere
    wrong = [[0.9 if n < 4 else 0.1 for n in range(8)] for _ in range(3)]
    for member in range(3):
        wrong[member][member] = 0.0
        wrong[member][member + 4] = 1.0
    candidates = [files.candidate(f"m{n}", everywhere(values)) for n, values in enumerate(wrong)]
    selection = select(candidates, files.references, LABELS, search=SearchRule(operations=(), prefers_cheaper=False))
    assert selection.members == ("m0", "m1", "m2")
    assert selection.weights == (1, 1, 1)
    assert selection.score_after == 1
    pairs_only = SearchRule(operations=(), prefers_cheaper=False, max_votes=2)
    assert len(select(candidates, files.references, LABELS, search=pairs_only).members) < 3


def test_a_better_member_may_count_twice(tmp_path: Path) -> None:
    files = Files(tmp_path, TRUTH)
    good = files.candidate("good", everywhere([0.9, 0.9, 0.9, 0.4, 0.1, 0.1, 0.1, 0.4]))
    poor = files.candidate("poor", everywhere([0.05, 0.9, 0.9, 0.8, 0.9, 0.1, 0.1, 0.1]))
    selection = select([good, poor], files.references, LABELS, search=SearchRule(operations=(), prefers_cheaper=False))
    assert [c.name for c in selection.candidates][:3] == ["good", "poor", "good + poor"]
    assert selection.members == ("good", "poor")
    assert selection.weights == (2, 1)
    assert selection.score_after == 1


def test_a_threshold_is_swept_and_kept_only_if_it_helps(tmp_path: Path) -> None:
    files = Files(tmp_path, TRUTH)
    shy = files.candidate("shy", everywhere([0.9, 0.9, 0.35, 0.35, 0.15, 0.15, 0.15, 0.15]))
    search = SearchRule(operations=("threshold",))
    selection = select([shy], files.references, LABELS, search=search)
    (step,) = selection.postprocessing
    assert step == PostprocessingStep(name="threshold", values=(1,), parameters={"threshold": 0.2})
    assert selection.score_before == pytest.approx(2 / 3)
    assert selection.score_after == selection.nested_score == 1
    swept = [t.step.parameters["threshold"] for t in selection.trials if not t.is_kept]
    assert swept == [0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8]
    sure = files.candidate("sure", everywhere([0.9, 0.9, 0.9, 0.9, 0.05, 0.05, 0.05, 0.05]))
    assert select([sure], files.references, LABELS, search=search).postprocessing == ()


def test_the_crf_sees_the_images(tmp_path: Path) -> None:
    files = Files(tmp_path, TRUTH)
    unsure = files.candidate("unsure", everywhere([0.9, 0.9, 0.9, 0.45, 0.55, 0.1, 0.1, 0.1]))
    images = {}
    for case, values in TRUTH.items():
        images[case] = (tmp_path / "images" / f"{case}.nrrd",)
        array = np.asarray([[values]], dtype=np.float32) * 100
        geometry = Geometry(shape=(1, len(values)), spacing=(1.0, 1.0))
        write_image(images[case][0], Image(array=array, geometry=geometry))
    selection = select([unsure], files.references, LABELS, search=SearchRule(operations=("crf",)), images=images)
    assert [step.name for step in selection.postprocessing] == ["crf"]
    assert selection.score_after == 1
    with pytest.raises(SettingsError, match="needs the image"):
        select([unsure], files.references, LABELS, search=SearchRule(operations=("crf",)))


def test_what_the_user_decides_is_done_and_nothing_is_searched(tmp_path: Path) -> None:
    files = Files(tmp_path, {"x": [1, 1, 0, 0, 0, 1, 0, 0], "y": [1, 1, 0, 0, 0, 1, 0, 0]})
    exact = files.candidate("exact", {case: [float(v) for v in [1, 1, 0, 0, 0, 1, 0, 0]] for case in "xy"})
    step = PostprocessingStep(name="keep_largest", values=(1,))
    selection = select([exact], files.references, LABELS, search=SearchRule(fixed_steps=(step,)))
    assert selection.postprocessing == (step,)
    assert selection.score_after is not None
    assert selection.score_after < selection.score_before == 1  # type: ignore[operator]
    assert any("as you asked" in reason for reason in selection.reasons)
    assert select([exact], files.references, LABELS, search=SearchRule(fixed_steps=())).postprocessing == ()


def test_another_metric_may_choose_another_candidate(tmp_path: Path) -> None:
    truth = {"x": [1] * 10 + [0] * 30}
    files = Files(tmp_path, truth)
    near = files.candidate("near", {"x": [0.0] * 2 + [1.0] * 8 + [0.0] * 30})  # misses two at the edge
    far = files.candidate("far", {"x": [1.0] * 10 + [0.0] * 28 + [1.0] * 2})  # two stray voxels far away
    rule = SearchRule(operations=(), max_votes=1)
    by = {m: select([near, far], files.references, LABELS, "nnunet", metric=m, search=rule).members
          for m in ("dice", "hd", "nsd@2mm", "dice,nsd@2mm")}  # fmt: skip
    assert by["dice"] == ("far",)
    assert by["hd"] == by["nsd@2mm"] == ("near",)
    assert by["dice,nsd@2mm"] == ("near",)
    for metric, says in [
        ("dice,hd", "cannot be averaged"),
        ("volume_reference", "does not say which"),
        ("", "at least"),
    ]:
        with pytest.raises(SettingsError, match=says):
            select([near, far], files.references, LABELS, metric=metric)


def test_scores_do_not_depend_on_the_order_in_which_they_are_asked_for(tmp_path: Path) -> None:
    files = Files(tmp_path, TRUTH)
    contender = Contender.of(files.candidate("m", everywhere([0.9, 0.3, 0.9, 0.9, 0.1, 0.9, 0.1, 0.1])))
    threshold = PostprocessingStep(name="threshold", values=(1,), parameters={"threshold": 0.2})
    largest = PostprocessingStep(name="keep_largest", values=(1,))
    metrics = parse_metrics("dice")
    direct = ScoreTable(files.references, LABELS, metrics)
    stepwise = ScoreTable(files.references, LABELS, metrics)
    for steps in ((), (threshold,), (largest,)):
        stepwise.scores(contender, steps, list(TRUTH))
    both = direct.scores(contender, (threshold, largest), list(TRUTH))
    assert np.array_equal(stepwise.scores(contender, (threshold, largest), list(TRUTH)), both)
    assert overall(both) == 1
    assert overall(stepwise.scores(contender, (largest,), list(TRUTH))) < 1
