"""The workspace: every path that autoseg writes to, in one place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.codec import read_json, write_json
from autoseg.dataset import DatasetSource
from autoseg.errors import MissingArtifactError, SettingsError
from autoseg.fingerprint import Fingerprint
from autoseg.plan import Plan
from autoseg.splits import FoldName, SplitRule, fold_dir_name

SCHEMA_VERSION = 1
_RECORD = "workspace.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceRecord:
    """What workspace.json says: which dataset the workspace belongs to.

    Args:
        dataset: Its folder; None for a workspace that can only predict.
        source: How it was given, where its dataset.json does not say everything.
        folds: How its cases are split, where somebody asked for it.
        views: Views of its cases, each with a workspace of its own below views/; empty for one workspace of all cases.
    """

    schema_version: int = SCHEMA_VERSION
    dataset: str | None
    source: DatasetSource | None = None
    folds: SplitRule | None = None
    views: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Files of one trained fold, below results/<configuration>/fold<k>/."""

    root: Path

    @property
    def last(self) -> Path:
        """Checkpoint to resume from."""
        return self.root / "checkpoint_last.pt"

    @property
    def previous(self) -> Path:
        """The checkpoint before the last one, while training goes on; taken where the last cannot be read."""
        return self.root / "checkpoint_previous.pt"

    @property
    def damaged(self) -> Path:
        """A last checkpoint that could not be read, kept for a look at it."""
        return self.root / "checkpoint_damaged.pt"

    @property
    def best(self) -> Path:
        """Checkpoint with the best validation score."""
        return self.root / "checkpoint_best.pt"

    def epoch(self, number: int) -> Path:
        """Weights of one of the best epochs, where several are kept."""
        return self.root / f"checkpoint_epoch{number}.pt"

    @property
    def final(self) -> Path:
        """Checkpoint of the finished run."""
        return self.root / "checkpoint_final.pt"

    @property
    def log(self) -> Path:
        """One row per epoch."""
        return self.root / "log.csv"

    @property
    def transfer_report(self) -> Path:
        """What became of every parameter of the weights that the run began with."""
        return self.root / "pretrained.json"

    @property
    def progress_picture(self) -> Path:
        """Curves of the losses and scores."""
        return self.root / "progress.png"

    @property
    def validation(self) -> Path:
        """Predictions of the held-out cases."""
        return self.root / "validation"

    @property
    def gap(self) -> Path:
        """Scores of training, held-out and test cases side by side."""
        return self.root / "gap.json"

    @property
    def pseudo_labels(self) -> Path:
        """Segmentations of training cases that an earlier model completed."""
        return self.root / "pseudo_labels"

    @property
    def scores(self) -> Path:
        """Scores of the held-out cases; written last, so its presence means the fold is complete."""
        return self.validation / "scores.json"

    @property
    def lock(self) -> Path:
        """Held by the process that trains or scores the fold."""
        return self.root / ".lock"

    def next_stage(self, data: str, case_id: str) -> Path:
        """Segmentation of a held-out case on the grid of the preprocessed ``data``, which a cascade trains with."""
        return self.root / "next_stage" / data / f"{case_id}.b2nd"


@dataclass(frozen=True, slots=True)
class Workspace:
    """Folder that holds everything derived from one dataset."""

    root: Path

    @classmethod
    def create(
        cls,
        root: Path,
        dataset: Path | None,
        *,
        source: DatasetSource | None = None,
        folds: SplitRule | None = None,
        views: tuple[str, ...] = (),
    ) -> Workspace:
        """Make the folder and record its dataset; an existing workspace of the same dataset is kept.

        Args:
            root: The folder.
            dataset: Folder of the dataset; None for a workspace that can only predict.
            source: How the dataset was given; None keeps what is recorded.
            folds: How cases are split; None keeps what is recorded.
            views: Views that have a workspace of their own; empty keeps what is recorded.

        Raises:
            SettingsError: When the folder is the workspace of another dataset. One whose recorded dataset is gone is
                taken over: the dataset was moved.
        """
        workspace = cls(root.resolve())
        if dataset is not None and workspace.record_path.is_file() and workspace.has_dataset:
            recorded = workspace.dataset_root
            if recorded != dataset.resolve() and recorded.is_dir():
                raise SettingsError(f"{workspace.root} is the workspace of {recorded}; name another folder with -w")
        known = WorkspaceRecord(dataset=None)
        if workspace.record_path.is_file():
            known = read_json(WorkspaceRecord, workspace.record_path)
        record = WorkspaceRecord(
            dataset=None if dataset is None else str(dataset.resolve()),
            source=source or known.source,
            folds=folds or known.folds,
            views=views or known.views,
        )
        write_json(record, workspace.record_path)
        return workspace

    @classmethod
    def discover(cls, folder: Path) -> Workspace:
        """Find the workspace that ``folder`` is, or that lies in ``folder``/autoseg.

        Raises:
            MissingArtifactError: When there is none.
        """
        for candidate in (folder, folder / "autoseg"):
            if (candidate / _RECORD).is_file():
                return cls(candidate.resolve())
        raise MissingArtifactError(
            f"{folder.resolve()} is no workspace and has none in autoseg/. "
            "Make one: autoseg plan-and-preprocess DATASET; or name one with -C"
        )

    @classmethod
    def of(cls, place: Workspace | Path | str) -> Workspace:
        """The workspace itself, or the one that a folder is or holds; see :meth:`discover`."""
        return place if isinstance(place, Workspace) else cls.discover(Path(place))

    @property
    def record_path(self) -> Path:
        """Marks the folder as a workspace."""
        return self.root / _RECORD

    @property
    def dataset_root(self) -> Path:
        """Folder of the dataset.

        Raises:
            MissingArtifactError: When the workspace was made without a dataset.
        """
        recorded = read_json(WorkspaceRecord, self.record_path).dataset
        if recorded is None:
            raise MissingArtifactError(f"the workspace {self.root} has no dataset; it can only predict")
        return Path(recorded)

    @property
    def dataset_source(self) -> DatasetSource:
        """How to load the dataset again as it was given.

        Raises:
            MissingArtifactError: When the workspace was made without a dataset.
        """
        recorded = read_json(WorkspaceRecord, self.record_path)
        return replace(recorded.source or DatasetSource(root=Path()), root=self.dataset_root)

    @property
    def split_rule(self) -> SplitRule | None:
        """How cases were asked to be split; None where nobody asked."""
        return read_json(WorkspaceRecord, self.record_path).folds

    @property
    def by_view(self) -> dict[str, Workspace]:
        """View -> workspace of its cases; empty where there is one workspace for all cases."""
        views = read_json(WorkspaceRecord, self.record_path).views if self.record_path.is_file() else ()
        return {view: Workspace(self.root / "views" / view) for view in views}

    @property
    def has_dataset(self) -> bool:
        """Whether it was made from a dataset, not from an imported model."""
        return read_json(WorkspaceRecord, self.record_path).dataset is not None

    @property
    def fingerprint_path(self) -> Path:
        """What was measured."""
        return self.root / "fingerprint.json"

    @property
    def plan_path(self) -> Path:
        """What was decided."""
        return self.root / "plan.json"

    @property
    def splits_path(self) -> Path:
        """Folds."""
        return self.root / "splits.json"

    @property
    def ensemble_path(self) -> Path:
        """Which models predict, and what happens afterwards."""
        return self.root / "ensemble.json"

    @property
    def trust_path(self) -> Path:
        """What the cross-validation says about single predictions."""
        return self.root / "trust.json"

    @property
    def check_path(self) -> Path:
        """Problems found in the dataset."""
        return self.root / "check.json"

    @property
    def predictions_dir(self) -> Path:
        """Default place of predictions."""
        return self.root / "predictions"

    @property
    def preparation_lock(self) -> Path:
        """Held by the process that plans and preprocesses."""
        return self.root / ".preparation.lock"

    @property
    def plan_lock(self) -> Path:
        """Held for the moment in which plan.json is read, changed and written."""
        return self.root / ".plan.lock"

    @property
    def reports_dir(self) -> Path:
        """Tables and pictures for people."""
        return self.root / "reports"

    @property
    def forecast_path(self) -> Path:
        """What preparation and training will take, as forecast before they began."""
        return self.root / "forecast.json"

    @property
    def cache_dir(self) -> Path:
        """What takes minutes to compute and may be deleted at any time: fields of bias-field correction."""
        return self.root / "cache"

    def preprocessed_dir(self, data: str) -> Path:
        """Preprocessed cases of a configuration's ``data`` name."""
        return self.root / "preprocessed" / data

    def results_dir(self, configuration: str) -> Path:
        """Everything trained for a configuration."""
        return self.root / "results" / configuration

    def run_record_path(self, configuration: str) -> Path:
        """Settings and effective network that all folds of a configuration share."""
        return self.results_dir(configuration) / "run.json"

    def run(self, configuration: str, fold: FoldName) -> RunPaths:
        """Files of one fold."""
        return RunPaths(self.results_dir(configuration) / fold_dir_name(fold))

    def trained_folds(self, configuration: str) -> tuple[FoldName, ...]:
        """Folds of a configuration that have a final checkpoint, in order, "all" last."""
        numbers = []
        for folder in self.results_dir(configuration).glob("fold*"):
            number = folder.name.removeprefix("fold")
            if number.isdecimal() and self.run(configuration, int(number)).final.is_file():
                numbers.append(int(number))
        every: tuple[FoldName, ...] = ("all",) if self.run(configuration, "all").final.is_file() else ()
        return (*sorted(numbers), *every)

    def load_fingerprint(self) -> Fingerprint:
        """Read fingerprint.json.

        Raises:
            MissingArtifactError: When nothing was measured, as in workspaces of imported models.
        """
        return read_json(Fingerprint, self.fingerprint_path)

    def load_plan(self) -> Plan:
        """Read plan.json.

        Raises:
            MissingArtifactError: When nothing has been planned yet.
        """
        if not self.plan_path.is_file() and (parts := self.by_view):
            first = next(iter(parts.values()))
            raise MissingArtifactError(
                f"{self.root} holds one workspace per view ({', '.join(parts)}); name one of them: -w {first.root}"
            )
        if not self.plan_path.is_file():
            raise MissingArtifactError(f"{self.root} has no plan.json. Make it: autoseg plan-and-preprocess DATASET")
        return read_json(Plan, self.plan_path, may_be_edited=True)
