"""A comparison or ablation from one file: every row trained on the same folds and budget, one table at the end."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoseg.codec import from_plain
from autoseg.dataset import load_dataset
from autoseg.durations import parse_duration
from autoseg.errors import ArtifactError, AutosegError, MissingArtifactError, SettingsError
from autoseg.evaluation.measures import Measuring, parse_metrics
from autoseg.evaluation.report import CaseScore, Evaluation, read_evaluation, score_case, summarize
from autoseg.image import read_segmentation
from autoseg.pipeline.comparison_table import ComparisonTable, RowScores, write_comparison
from autoseg.pipeline.folds import load_folds
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.pipeline.preset_training import prepare_preset
from autoseg.pipeline.train import train
from autoseg.presets import find_preset, preset_settings
from autoseg.progress import LoggingProgress, Progress, SilentProgress
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace

_LENGTHS = ("epochs", "iterations", "time_budget")
_SLUG = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: what differs from the others.

    Args:
        name: What the line is called.
        configuration: Which configuration is trained; None takes the comparison's.
        set: Settings of the run as ``name=value``, after the comparison's own.
        network: A network to plan the configuration with; None takes the planned one.
        network_options: Options of that network as ``name=value``.
        preset: A preset to plan and train with; ``set`` overrides its settings, and the comparison's length its own.
    """

    name: str
    configuration: str | None = None
    set: tuple[str, ...] = ()
    network: str | None = None
    network_options: tuple[str, ...] = ()
    preset: str | None = None

    def __post_init__(self) -> None:
        if not self.slug:
            raise ValueError(f"the name {self.name!r} of a row has neither letters nor digits")
        if self.network_options and self.network is None:
            raise ValueError(f"row {self.name!r} has network_options and no network")
        if self.preset is not None and (self.network is not None or self.configuration is not None):
            raise ValueError(f"row {self.name!r} has a preset, which says configuration and network itself")

    @property
    def slug(self) -> str:
        """The name as part of a file name."""
        return _SLUG.sub("-", self.name).strip("-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is compared: the content of a comparison's TOML file.

    Args:
        name: From the file's name; part of the names of what is trained.
        configuration: Trained by rows that do not say otherwise.
        folds: Folds that every row is trained on; empty takes all.
        seeds: Each row is trained once per seed.
        epochs: Length of every run; one of the three lengths.
        iterations: Optimizer steps of every run.
        time_budget: Seconds of every run, or text such as "2m".
        set: Settings that all rows share.
        metrics: What is measured, e.g. "dice" and "nsd@1mm"; the first one is tested.
        baseline: Row that the others are tested against; None takes the best one.
        rows: What is compared.
    """

    name: str
    configuration: str = "3d_fullres"
    folds: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0,)
    epochs: int | None = None
    iterations: int | None = None
    time_budget: float | None = None
    set: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("dice",)
    baseline: str | None = None
    rows: tuple[Row, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if len(self.rows) < 2:
            raise ValueError("a comparison needs at least two [[rows]]")
        slugs = [row.slug.lower() for row in self.rows]
        if twice := sorted({row.name for row in self.rows if slugs.count(row.slug.lower()) > 1}):
            raise ValueError(f"two rows are called {twice[0]!r}, or their names differ in signs only")
        if self.baseline is not None and self.baseline not in [row.name for row in self.rows]:
            raise ValueError(f"the baseline {self.baseline!r} is not a row")
        if not self.seeds or not self.metrics:
            raise ValueError("seeds and metrics must not be empty")
        if sum(getattr(self, length) is not None for length in _LENGTHS) > 1:
            raise ValueError(f"{', '.join(_LENGTHS)} exclude each other; give one")

    def settings(self, row: Row, seed: int) -> TrainingConfig:
        """Settings of a row's run.

        Raises:
            SettingsError: When a setting has no such name or value.
        """
        lengths = [f"{name}={value}" for name in _LENGTHS if (value := getattr(self, name)) is not None]
        published = () if row.preset is None else preset_settings(row.preset, lengths)
        return TrainingConfig(seed=seed).with_settings([*published, *lengths, *self.set, *row.set])

    def variant(self, row: Row, seed: int) -> str | None:
        """What the name of a row's run adds to its configuration; a planned network is a configuration already."""
        parts = [] if row.network is not None else [f"{self.name}-{row.slug}"]
        parts += [f"seed{seed}"] if len(self.seeds) > 1 else []
        return "-".join(parts) or None


def read_comparison(path: Path) -> Comparison:
    """Read a comparison's TOML file.

    Raises:
        SettingsError: Names the file and what is wrong with it.

    Example:
        A table of two losses, each trained for two minutes per fold::

            folds = [0, 1]
            time_budget = "2m"
            [[rows]]
            name = "Dice + CE"
            [[rows]]
            name = "Dice + focal"
            set = ["loss=dice+0.1*focal"]
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"{path} does not exist; a comparison is a TOML file with a [[rows]] for every line"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read as TOML: {error}") from None
    if isinstance(table.get("time_budget"), str):
        table["time_budget"] = parse_duration(table["time_budget"], where=f"{path}: time_budget")
    if "name" in table:
        raise SettingsError(f"{path}: name is the file's own and stands nowhere in it")
    try:
        return from_plain(Comparison, {"name": _SLUG.sub("-", path.stem).strip("-"), **table})
    except ArtifactError as error:
        raise SettingsError(f"{path}: {error}") from None


def run_comparison(
    workspace: Workspace | Path | str,
    comparison: Comparison,
    *,
    device: str = "auto",
    workers: int | None = None,
    progress: Progress | None = None,
) -> ComparisonTable:
    """Train what is missing of every row, score it, and write the table after each row.

    A row that fails is reported and does not stop the others; the same call later trains what is missing.

    Args:
        workspace: Holds the plan and the preprocessed cases; or its folder, or its dataset's.
        comparison: What is compared.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        workers: Loader processes; None chooses.
        progress: Told what happens; None logs.

    Raises:
        AutosegError: When a row contradicts the plan or a setting does not exist; before anything is trained.
    """
    workspace = Workspace.of(workspace)
    progress = progress or LoggingProgress()
    folds = load_folds(workspace)
    numbers = comparison.folds or tuple(range(len(folds)))
    if unknown := [number for number in numbers if not 0 <= number < len(folds)]:
        raise SettingsError(f"there is no fold {unknown[0]}; {workspace.splits_path} has {len(folds)}")
    parse_metrics(",".join(comparison.metrics))
    for row in comparison.rows:
        for seed in comparison.seeds:
            comparison.settings(row, seed)  # a typo in the last row should not show after hours
    base_names = {row.name: _configuration_of(workspace, comparison, row, progress) for row in comparison.rows}
    runs = _Runs(
        workspace=workspace, comparison=comparison, folds=numbers, device=device, workers=workers, progress=progress
    )
    done: list[RowScores] = []
    for position, row in enumerate(comparison.rows, start=1):
        progress.message(f"row {position} of {len(comparison.rows)}: {row.name}")
        done.append(runs.row(row, base_names[row.name]))
        table = ComparisonTable.make(done, metrics=comparison.metrics, baseline=comparison.baseline)
        write_comparison(table, workspace.reports_dir / "compare" / comparison.name)
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runs:
    """Trains and scores the runs of rows."""

    workspace: Workspace
    comparison: Comparison
    folds: tuple[int, ...]
    device: str
    workers: int | None
    progress: Progress

    def row(self, row: Row, configuration: str) -> RowScores:
        """All runs of a row; a failure is part of the result."""
        seconds, problems = 0.0, list[str]()
        by_seed: list[Evaluation] = []
        for seed in self.comparison.seeds:
            rows: list[CaseScore] = []
            for fold in self.folds:
                try:
                    seconds += self._train(row, configuration, seed, fold)
                    rows += self._scores(row, configuration, seed, fold)
                except AutosegError as error:
                    problems.append(f"{row.name}, fold{fold}, seed {seed}: {error}")
                    self.progress.message(f"failed: {problems[-1]}")
            by_seed.append(summarize(rows))
        return RowScores(name=row.name, seeds=tuple(by_seed), seconds=seconds, problems=tuple(problems))

    def _train(self, row: Row, configuration: str, seed: int, fold: int) -> float:
        """Train a fold, or find that it is done; return how long its training took."""
        report = train(
            self.workspace,
            configuration,
            fold,
            config=self.comparison.settings(row, seed),
            variant=self.comparison.variant(row, seed),
            device=self.device,
            workers=self.workers,
            progress=self.progress,
        )
        return report.seconds

    def _scores(self, row: Row, configuration: str, seed: int, fold: int) -> list[CaseScore]:
        """Scores of a fold's held-out cases, with every metric that was asked for."""
        variant = self.comparison.variant(row, seed)
        run = self.workspace.run(configuration if variant is None else f"{configuration}@{variant}", fold)
        known = read_evaluation(run.scores)
        if set(self.comparison.metrics) <= {"dice", "iou"}:
            return list(known.cases)
        plan, measuring = (
            self.workspace.load_plan(),
            Measuring(metrics=parse_metrics(",".join(self.comparison.metrics))),
        )
        references = {case.id: case.label for case in load_dataset(self.workspace.dataset_source).training}
        scores: list[CaseScore] = []
        for case in dict.fromkeys(score.case for score in known.cases):
            label = references.get(case)
            if label is None:
                raise MissingArtifactError(f"the reference of case {case} is not in the dataset any more")
            reference = read_segmentation(label)
            prediction = read_segmentation(run.validation / f"{case}{plan.file_ending}")
            scores += score_case(
                case,
                reference.array,
                prediction.array,
                plan.labels,
                spacing=reference.geometry.spacing,
                measuring=measuring,
            )
        return scores


def _configuration_of(workspace: Workspace, comparison: Comparison, row: Row, progress: Progress) -> str:
    """The planned configuration that a row trains; planned and preprocessed now where it names network or preset."""
    if row.preset is not None:
        preset = replace(find_preset(row.preset), by_view=None)
        if preset.stored_as not in workspace.load_plan().configuration_names:
            progress.message(f"planning {preset.stored_as}")
            memory = workspace.load_plan().gpu_memory_gb
            source = workspace.dataset_source
            prepare_preset(preset, source, workspace=workspace.root, gpu_memory_gb=memory, progress=SilentProgress())
        return preset.stored_as
    name = row.configuration or comparison.configuration
    if row.network is None:
        return workspace.load_plan().configuration(name).name
    variant = f"{comparison.name}-{row.slug}"
    planned = f"{name.partition('@')[0]}@{variant}"
    if planned not in workspace.load_plan().configuration_names:
        progress.message(f"planning {planned} with the network {row.network}")
        plan = workspace.load_plan()
        plan_and_preprocess(
            workspace.dataset_source,
            workspace=workspace.root,
            gpu_memory_gb=plan.gpu_memory_gb,
            network=row.network,
            network_options=row.network_options,
            variant=variant,
            configurations=[planned],
            progress=SilentProgress(),
        )
    return workspace.load_plan().configuration(planned).name
