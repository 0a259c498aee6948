"""Many folds: what waits for what, and what becomes of the others when one fails."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.errors import JobsFailedError, SettingsError
from autoseg.pipeline.engines import FoldCommand, JobNeeds, RayEngine, SlurmEngine, run_logged
from autoseg.pipeline.jobs import Engine, FoldJob, follow
from autoseg.pipeline.train import missing_jobs, train_missing, train_on, with_budget_share
from autoseg.progress import LoggingProgress
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace

QUICK = ["iterations=2", "validation_iterations=1"]
OPTIONS = (*(word for setting in QUICK for word in ("--set", setting)), "--device", "cpu", "--workers", "0")


@pytest.fixture
def cascade(planned_cascade: Path, tmp_path: Path) -> Workspace:
    return Workspace(Path(shutil.copytree(planned_cascade, tmp_path / "workspace")))


class RandomEngine:
    """Ends jobs in random order; some fail."""

    def __init__(self, seed: int, failing: set[str]) -> None:
        self.random, self.failing = random.Random(seed), failing
        self.running: list[FoldJob] = []
        self.events: list[tuple[str, str]] = []
        self.is_closed = False

    def start(self, job: FoldJob) -> None:
        self.running.append(job)
        self.events.append(("start", job.name))

    def ended(self) -> Iterator[tuple[FoldJob, str]]:
        for _ in range(self.random.randint(1, len(self.running))):
            job = self.running.pop(self.random.randrange(len(self.running)))
            self.events.append(("end", job.name))
            yield job, "no luck" if job.name in self.failing else ""

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("seed", range(30))
def test_every_job_runs_once_after_what_it_needs_or_not_at_all(seed: int) -> None:
    rng = random.Random(seed)
    jobs: list[FoldJob] = []
    for number in range(12):
        after = tuple(job.name for job in jobs if rng.random() < 0.25)
        jobs.append(FoldJob(configuration="c", stored="c", fold=number, after=after))
    failing = {job.name for job in jobs if rng.random() < 0.2}
    engine = RandomEngine(seed, failing)
    shuffled = rng.sample(jobs, len(jobs))
    failures = follow(shuffled, engine, LoggingProgress())
    started = [name for event, name in engine.events if event == "start"]
    doomed: set[str] = set()  # jobs are in an order in which nothing waits for later ones
    for job in jobs:
        if job.name in failing or doomed & set(job.after):
            doomed.add(job.name)
        if doomed & set(job.after):
            assert job.name not in started
            assert failures[job.name].startswith("skipped, because it needs ")
            assert any(name in failures[job.name] for name in doomed & set(job.after))
        else:
            assert started.count(job.name) == 1
            begun = engine.events.index(("start", job.name))
            assert all(engine.events.index(("end", name)) < begun for name in job.after)
    assert set(failures) == doomed
    assert engine.is_closed


def test_cascades_wait_for_the_missing_folds_of_their_previous_stage(cascade: Workspace) -> None:
    names, jobs = missing_jobs(cascade, ["all"], None)
    assert set(names) == {"2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"}
    assert len(jobs) == 8
    for job in jobs:
        waits = ("3d_lowres fold0", "3d_lowres fold1") if job.configuration == "3d_cascade_fullres" else ()
        assert job.after == waits
    assert [job.after for job in missing_jobs(cascade, ["3d_cascade_fullres"], None)[1]] == [(), ()]


def test_a_time_budget_is_that_of_the_whole_command_wherever_folds_are_trained(
    cascade: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two folds of four configurations: an eighth each. The words for an engine ask for the same as one process."""
    config = TrainingConfig(time_budget=3600.0)
    assert with_budget_share(config, cascade, ["all"]).time_budget == 450.0
    assert with_budget_share(config, cascade, ["2d"]).time_budget == 1800.0
    assert with_budget_share(TrainingConfig(epochs=3), cascade, ["all"]) == TrainingConfig(epochs=3)
    asked: list[list[str]] = []

    class Recording:
        def __init__(self, command: FoldCommand, needs: JobNeeds) -> None:  # noqa: ARG002 - an engine's
            asked.append(list(command.options))
            raise SettingsError("seen enough")

    monkeypatch.setattr("autoseg.pipeline.engines.RayEngine", Recording)
    words = ["train", "all", "-w", str(cascade.root), "--engine", "ray", "--time-budget", "1h", "--set", "seed=3"]
    CliRunner().invoke(app, words)
    (options,) = asked
    settings = [value for word, value in pairwise(options) if word == "--set"]
    assert "time_budget=450.0" in settings
    assert [setting for setting in settings if setting.startswith("time_budget")] == ["time_budget=450.0"]
    assert TrainingConfig().with_settings(settings) == TrainingConfig(time_budget=450.0, seed=3)


def test_a_fold_that_fails_does_not_keep_the_others_from_training(cascade: Workspace) -> None:
    run = cascade.run("3d_lowres", 1)
    run.root.mkdir(parents=True)
    run.final.write_bytes(b"damaged")  # a damaged last checkpoint would give way to a new start
    result = CliRunner().invoke(app, ["train", "3d_lowres", "-w", str(cascade.root), *OPTIONS])
    text = " ".join(result.output.split())
    assert result.exit_code == 1, text
    assert "1 fold(s) are not trained: 3d_lowres fold1: " in text
    assert str(run.final) in text
    assert cascade.run("3d_lowres", 0).scores.is_file()
    config = TrainingConfig().with_settings(QUICK)
    with pytest.raises(JobsFailedError) as failed:
        list(train_missing(cascade, ["3d_lowres", "3d_cascade_fullres"], config=config, device="cpu", workers=0))
    skipped = "skipped, because it needs 3d_lowres fold1"
    assert (
        failed.value.failures["3d_cascade_fullres fold0"]
        == failed.value.failures["3d_cascade_fullres fold1"]
        == skipped
    )
    assert len(failed.value.failures) == 3


def test_settings_that_cannot_be_trained_end_everything_at_once(cascade: Workspace) -> None:
    result = CliRunner().invoke(app, ["train", "all", "-w", str(cascade.root), *OPTIONS, "--set", "loss=dcie"])
    assert result.exit_code == 2, result.output
    assert not any(cascade.root.glob("results/*/fold*/checkpoint*"))


def test_a_job_is_a_command_and_several_gpus_share_a_fold(cascade: Workspace) -> None:
    command = FoldCommand(workspace=cascade, options=("--set", "epochs=3"))
    job = FoldJob(configuration="2d", stored="2d@fast", fold=4)
    one, two = command.words(job, gpus=1), command.words(job, gpus=2)
    assert one == ["-m", "autoseg", "train", "2d", "fold4", "-w", str(cascade.root), "--set", "epochs=3"]
    assert two == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *one]
    assert command.log(job) == cascade.root / "results" / "2d@fast" / "fold4" / "job.log"


def test_what_a_failed_command_said_last_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "folder" / "job.log"
    assert run_logged(["-c", "print('fine')"], str(log)) == ""
    reason = run_logged(["-m", "autoseg", "train", "2d", "-w", str(tmp_path)], str(log))
    assert reason.startswith(f"{tmp_path} is no workspace")
    assert run_logged(["-c", "import os; os.kill(os.getpid(), 9)"], str(log)).endswith(f"(exit code -9, {log})")
    assert "fine" in log.read_text()


def check_engine(engine: Engine, cascade: Workspace) -> None:
    trained = train_on(engine, cascade, ["3d_lowres", "3d_cascade_fullres"])
    assert len(trained) == 4
    for name in ("3d_lowres", "3d_cascade_fullres"):
        times = []
        for fold in range(2):
            run = cascade.run(name, fold)
            assert json.loads(run.scores.read_text())["cases"]
            assert "2 iterations" in (run.root / "job.log").read_text()
            times.append(run.scores.stat().st_mtime_ns)
        if name == "3d_lowres":
            first_stage = max(times)
        assert min(times) >= first_stage or name == "3d_lowres"


def test_submitit_trains_folds(cascade: Workspace) -> None:
    pytest.importorskip("submitit")
    command = FoldCommand(workspace=cascade, options=OPTIONS)
    trained = train_on(SlurmEngine(command, JobNeeds(cpus=1), cluster="local"), cascade, ["2d"])
    assert trained == ("2d fold0", "2d fold1")
    for fold in range(2):
        assert cascade.run("2d", fold).scores.is_file()
        assert "2 iterations" in (cascade.run("2d", fold).root / "job.log").read_text()


def test_submitit_reports_a_failure(cascade: Workspace) -> None:
    pytest.importorskip("submitit")
    command = FoldCommand(workspace=cascade, options=("--set", "loss=dcie"))
    with pytest.raises(JobsFailedError, match=r"2d fold0: .*'dcie'.*exit code 2"):
        train_on(SlurmEngine(command, JobNeeds(), cluster="local"), cascade, ["2d"])


@pytest.mark.slow
def test_ray_trains_a_cascade_and_reports_failures(cascade: Workspace) -> None:
    pytest.importorskip("ray")
    command = FoldCommand(workspace=cascade, options=OPTIONS)
    check_engine(RayEngine(command, JobNeeds(cpus=1)), cascade)
    with pytest.raises(SettingsError, match="no machine of the Ray cluster has 3 GPUs"):
        RayEngine(command, JobNeeds(gpus=3))
    broken = FoldCommand(workspace=cascade, options=("--set", "loss=dcie"))
    with pytest.raises(JobsFailedError, match=r"2d fold0: .*'dcie'.*exit code 2"):
        train_on(RayEngine(broken, JobNeeds(cpus=1)), cascade, ["2d"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "ry"], "--engine ry: choose local, ray or slurm"),
        (["--gpus-per-job", "1"], "need --engine ray or slurm"),
        (["fold0", "--engine", "ray"], "leave out FOLD"),
        (["--engine", "slurm", "--slurm", "gpu"], "write it as in partition=gpu"),
        (["--engine", "slurm"], "no sbatch on this machine"),
    ],
)
def test_wrong_use_is_told_in_a_sentence(words: list[str], message: str, cascade: Workspace) -> None:
    result = CliRunner().invoke(app, ["train", "2d", *words, "-w", str(cascade.root)])
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
