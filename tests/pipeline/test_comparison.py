"""Comparisons: what their file may say, and rows that are trained, scored, tested and taken up again."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.codec import read_json
from autoseg.errors import SettingsError
from autoseg.evaluation.report import CaseScore, summarize
from autoseg.pipeline.comparison import Comparison, Row, read_comparison, run_comparison
from autoseg.pipeline.comparison_table import ComparisonTable, RowScores
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.splits import read_splits
from autoseg.training import RunRecord
from autoseg.workspace import Workspace

QUICK = """
configuration = "2d"
folds = [0, 1]
iterations = 12
set = ["validation_iterations=1", "optimizer=adamw", "learning_rate=0.01"]
metrics = ["dice", "nsd@1mm"]
baseline = "usual"
[[rows]]
name = "usual"
[[rows]]
name = "hardly learns"
set = ["learning_rate=1e-9"]
"""


def score(case: str, label: str, dice: float | None) -> CaseScore:
    counts = dict.fromkeys(("true_positives", "false_positives", "false_negatives", "true_negatives"), 0)
    return CaseScore(case=case, label=label, dice=dice, iou=None, values=(1,), **counts)


def row(name: str, *seeds: dict[str, tuple[float | None, ...]]) -> RowScores:
    evaluations = []
    for cases in seeds:
        rows = [score(case, f"label{i}", dice) for case, found in cases.items() for i, dice in enumerate(found)]
        evaluations.append(summarize(rows))
    return RowScores(name=name, seeds=tuple(evaluations), seconds=1.0)


def test_means_go_over_labels_then_seeds_then_cases() -> None:
    table = ComparisonTable.make(
        [
            row("one", {"a": (0.2, 0.4), "b": (0.9, None)}, {"a": (0.4, 0.6), "b": (0.7, None)}),
            row("two", {"a": (1.0,)}),
        ],
        metrics=["dice"],
        baseline="two",
    )
    first, second = table.rows
    assert first.scores[0].mean == pytest.approx((0.4 + 0.8) / 2)
    assert first.scores[0].deviation == pytest.approx(np.std([0.4, 0.8], ddof=1))
    assert first.scores[0].labels == {"label0": pytest.approx((0.55 + 0.55) / 2), "label1": pytest.approx(0.5)}
    assert first.difference == pytest.approx(0.4 - 1.0)  # over the one case that both have
    assert (second.difference, second.p_value) == (None, None)
    assert "**1.0000**" in table.markdown()
    lines = table.markdown().splitlines()
    assert lines[-3:] == ["|---|---|---|", "| one | 0.5500 | **0.5000** |", "| two | **1.0000** | - |"]


def test_the_test_is_paired_and_agrees_with_a_permutation_test() -> None:
    rng = np.random.default_rng(3)
    base = rng.uniform(0.3, 0.9, 9)
    better = base + rng.normal(0.02, 0.02, 9)  # far smaller than the spread of the cases
    rows = [
        row("base", {f"case{i}": (d,) for i, d in enumerate(base)}),
        row("better", {f"case{i}": (d,) for i, d in enumerate(better)}),
    ]
    found = ComparisonTable.make(rows, metrics=["dice"], baseline="base").rows[1]
    expected = stats.permutation_test(
        (better - base,), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples", n_resamples=np.inf
    )
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.p_value is not None
    assert found.p_value < 0.2 < stats.ttest_ind(better, base).pvalue


def test_without_a_baseline_rows_are_tested_against_the_best_and_lower_distances_are_better() -> None:
    rows = [row("low", {"a": (0.5,)}), row("high", {"a": (0.6,)})]
    assert ComparisonTable.make(rows, metrics=["dice"], baseline=None).baseline == "high"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[rows]]\nname='a'", "at least two"),
        ("[[rows]]\nname='a b'\n[[rows]]\nname='a-b'", "differ in signs only"),
        ("baseline='c'\n[[rows]]\nname='a'\n[[rows]]\nname='b'", "'c' is not a row"),
        ("epochs=1\ntime_budget='2m'\n[[rows]]\nname='a'\n[[rows]]\nname='b'", "exclude each other"),
        ("time_budget='two'\n[[rows]]\nname='a'\n[[rows]]\nname='b'", "whole number with s, m or h"),
        ("foldz=[0]\n[[rows]]\nname='a'\n[[rows]]\nname='b'", "did you mean folds"),
        ("[[rows]]\nname='a'\nsett=['x=1']\n[[rows]]\nname='b'", "did you mean set"),
        ("rows = [", "cannot be read as TOML"),
        ("[[rows]]\nname='a'\npreset='spine'\nnetwork='unet'\n[[rows]]\nname='b'", "says configuration and network"),
        ("[[rows]]\nname='a'\nnetwork_options=['x=1']\n[[rows]]\nname='b'", "no network"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=expected) as raised:
        read_comparison(path)
    assert str(path) in str(raised.value)


def test_settings_are_checked_before_anything_is_trained(workspace: Workspace) -> None:
    rows = (Row(name="right"), Row(name="wrong", set=("los=dice",)))
    with pytest.raises(SettingsError, match="did you mean loss"):
        run_comparison(workspace, Comparison(name="x", configuration="2d", iterations=2, rows=rows))
    with pytest.raises(SettingsError, match="there is no fold 7"):
        run_comparison(workspace, Comparison(name="x", configuration="2d", folds=(7,), rows=rows))
    assert not (workspace.root / "results").exists()


def test_rows_are_trained_tested_and_taken_up_again(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "rates.toml"
    path.write_text(QUICK)
    words = ["compare", str(path), "-w", str(workspace.root), "--device", "cpu", "--workers", "0"]

    result = CliRunner().invoke(app, words)

    assert result.exit_code == 0, result.output
    folder = workspace.reports_dir / "compare" / "rates"
    table = read_json(ComparisonTable, folder / "comparison.json")
    usual, idle = table.rows
    assert [s.metric for s in usual.scores] == ["dice", "nsd@1mm"]
    assert usual.scores[0].num_cases == len(read_held_out(workspace))
    assert usual.scores[0].mean is not None
    assert idle.scores[0].mean is not None
    assert idle.difference == pytest.approx(idle.scores[0].mean - usual.scores[0].mean)
    assert usual.scores[0].mean > idle.scores[0].mean
    assert "**" in (folder / "comparison.md").read_text()
    with (folder / "comparison.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["row"] for line in lines] == ["usual", "hardly learns"]
    assert float(lines[0]["dice mean"]) == pytest.approx(usual.scores[0].mean)

    trained = workspace.run("2d@rates-usual", 0).final
    before = trained.stat().st_mtime_ns
    workspace.run("2d@rates-hardly-learns", 1).final.unlink()
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0, again.output
    assert trained.stat().st_mtime_ns == before  # what was complete was kept
    assert workspace.run("2d@rates-hardly-learns", 1).final.is_file()
    repeated = read_json(ComparisonTable, folder / "comparison.json")
    assert [r.scores for r in repeated.rows] == [r.scores for r in table.rows]


def test_a_row_that_fails_is_reported_and_the_others_are_compared(workspace: Workspace) -> None:
    settings = ("validation_iterations=1", "optimizer=adamw")
    rows = (Row(name="fine"), Row(name="explodes", set=("learning_rate=1e30", "gradient_clip=1e30", "optimizer=sgd")))
    comparison = Comparison(name="x", configuration="2d", folds=(0,), iterations=6, set=settings, rows=rows)

    table = run_comparison(workspace, comparison, device="cpu", workers=0)

    fine, failed = table.rows
    assert fine.scores[0].mean is not None
    assert failed.scores[0].mean is None
    assert "explodes, fold0" in failed.problems[0]
    assert table.problems == failed.problems
    assert failed.problems[0] in table.markdown()


def read_held_out(workspace: Workspace) -> set[str]:
    folds = read_splits(workspace.splits_path)
    return {case for number in (0, 1) for case in folds[number].val}


def test_a_row_may_name_a_network_with_options(ball_dataset: Path, tmp_path: Path) -> None:
    workspace = plan_and_preprocess(
        ball_dataset, workspace=tmp_path / "workspace", gpu_memory_gb=2, configurations=["2d"], workers=0
    )
    rows = (
        Row(name="planned"),
        Row(name="gates", network="unet", network_options=("skip_gate=grid",)),
    )
    settings = ("validation_iterations=1", "optimizer=adamw")
    comparison = Comparison(name="nets", configuration="2d", folds=(0,), iterations=2, set=settings, rows=rows)

    table = run_comparison(workspace, comparison, device="cpu", workers=0)

    assert not table.problems
    assert workspace.load_plan().configuration("2d@nets-gates").network.skip_gate == "grid"
    assert workspace.run("2d@nets-gates", 0).final.is_file()
    assert workspace.run("2d@nets-planned", 0).final.is_file()


@pytest.mark.slow
def test_a_row_may_be_a_preset(ball_dataset: Path, tmp_path: Path) -> None:
    workspace = plan_and_preprocess(
        ball_dataset, workspace=tmp_path / "workspace", gpu_memory_gb=2, configurations=["2d"], workers=0
    )
    rows = (Row(name="planned"), Row(name="M&Ms-2", preset="mnms2", set=("batch_size=2",)))
    comparison = Comparison(
        name="p", configuration="2d", folds=(0,), iterations=2, set=("validation_iterations=1",), rows=rows
    )

    table = run_comparison(workspace, comparison, device="cpu", workers=0)

    assert not table.problems
    assert workspace.load_plan().configuration("2d@mnms2").network.norm == "batch"
    record = read_json(RunRecord, workspace.run_record_path("2d@mnms2@p-M-Ms-2"))
    settings = record.settings
    assert (record.optimizer, settings.keep_best, settings.epochs, settings.iterations) == ("sgd", 5, None, 2)
    assert record.configuration.batch_size == 2
