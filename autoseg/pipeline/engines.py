"""Where jobs run: on a Ray cluster, or submitted to Slurm. Each job is an ``autoseg train`` command of its own.

A process per job keeps GPU memory, threads and crashes apart, its output lies in a file, and what it does can be
repeated by hand. Ray and submitit are optional packages.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from autoseg.errors import SettingsError
from autoseg.pipeline.jobs import FoldJob
from autoseg.workspace import Workspace

EngineName = Literal["local", "ray", "slurm"]

_POLL_SECONDS = 1.0
_TAIL_BYTES = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class JobNeeds:
    """What every job gets.

    Args:
        gpus: GPUs; with several they share the batches of one fold. None takes one where there are any.
        cpus: Processors, for loading and for training without a GPU.
        slurm: Options of sbatch, such as ``partition`` or ``time`` (minutes).
    """

    gpus: int | None = None
    cpus: int | None = None
    slurm: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.gpus is not None and self.gpus < 0) or (self.cpus is not None and self.cpus < 1):
            raise ValueError(f"a job cannot have {self.gpus} GPUs and {self.cpus} processors")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldCommand:
    """How a job's command is written.

    Args:
        workspace: Where the job finds its plan.
        options: Words after ``autoseg train CONFIGURATION FOLD -w WORKSPACE``.
    """

    workspace: Workspace
    options: tuple[str, ...] = ()

    def words(self, job: FoldJob, *, gpus: int) -> list[str]:
        """What Python is to be called with."""
        own = ["train", job.configuration, f"fold{job.fold}", "-w", str(self.workspace.root), *self.options]
        if gpus > 1:
            return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}", "-m", "autoseg", *own]
        return ["-m", "autoseg", *own]

    def log(self, job: FoldJob) -> Path:
        """File with what the job says."""
        return self.workspace.run(job.stored, job.fold).root / "job.log"


def run_logged(words: Sequence[str], log: str) -> str:
    """Call Python and wait; the last error it printed, or an empty text when it ended well.

    Args:
        words: What Python is called with.
        log: File to which its output is added.
    """
    path = Path(log)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        code = subprocess.run([sys.executable, *words], stdout=file, stderr=file, check=False).returncode  # noqa: S603
    if code == 0:
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    errors = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
    return f"{errors[-1] if errors else 'it ended without a message'} (exit code {code}, {path})"


class RayEngine:
    """Jobs as tasks of the Ray cluster that runs on this machine or that RAY_ADDRESS names, else of a new local one.

    Args:
        command: How a job's command is written.
        needs: What every job gets.

    Raises:
        SettingsError: When Ray is not installed, or no machine of the cluster has what a job needs.
    """

    def __init__(self, command: FoldCommand, needs: JobNeeds) -> None:
        self._ray, self._command = _require("ray", "ray"), command
        self._ray.init(log_to_driver=False, logging_level="error", ignore_reinit_error=True)
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        has_gpu = any(machine.get("GPU", 0) >= 1 for machine in machines)
        largest = max(int(machine.get("CPU", 1)) for machine in machines)
        self._gpus = int(has_gpu) if needs.gpus is None else needs.gpus
        self._cpus = min(4, largest) if needs.cpus is None else needs.cpus
        fits = [m for m in machines if m.get("GPU", 0) >= self._gpus and m.get("CPU", 0) >= self._cpus]
        if not fits:
            self.close()
            raise SettingsError(
                f"no machine of the Ray cluster has {self._gpus} GPUs and {self._cpus} processors for a job; "
                "lower --gpus-per-job or --cpus-per-job"
            )
        self._running: dict[Any, FoldJob] = {}

    def start(self, job: FoldJob) -> None:
        """Put the job into Ray's queue."""
        task = self._ray.remote(num_gpus=self._gpus, num_cpus=self._cpus, max_retries=0)(run_logged)
        words = self._command.words(job, gpus=self._gpus)
        self._running[task.remote(words, str(self._command.log(job)))] = job

    def ended(self) -> Iterator[tuple[FoldJob, str]]:
        """Jobs that ended; a worker that died is a failure like any other."""
        references, _ = self._ray.wait(list(self._running), num_returns=1)
        for reference in references:
            job = self._running.pop(reference)
            try:
                yield job, str(self._ray.get(reference))
            except self._ray.exceptions.RayError as error:
                yield job, f"Ray lost it: {str(error).splitlines()[0]}"

    def close(self) -> None:
        """Leave the cluster; what still runs is ended, and goes on with the next command."""
        self._ray.shutdown()


class SlurmEngine:
    """Jobs submitted to Slurm by submitit, watched until they end.

    Args:
        command: How a job's command is written.
        needs: What every job gets.
        cluster: "slurm"; submitit's "local" and "debug" run jobs on this machine.

    Raises:
        SettingsError: When submitit is not installed, or there is no Slurm here.
    """

    def __init__(self, command: FoldCommand, needs: JobNeeds, *, cluster: str = "slurm") -> None:
        submitit = _require("submitit", "slurm")
        if cluster == "slurm" and shutil.which("sbatch") is None:
            raise SettingsError(
                "there is no sbatch on this machine; give the command where jobs are submitted to Slurm"
            )
        self._command, self._gpus = command, 1 if needs.gpus is None and cluster == "slurm" else needs.gpus or 0
        options = dict(needs.slurm)
        self._executor = submitit.AutoExecutor(folder=str(command.workspace.root / "jobs"), cluster=cluster)
        self._executor.update_parameters(
            name="autoseg",
            timeout_min=_minutes(options.pop("time", "2880")),
            cpus_per_task=needs.cpus or 4,
            gpus_per_node=self._gpus,
            slurm_additional_parameters=options,
        )
        self._running: dict[str, tuple[Any, FoldJob]] = {}

    def start(self, job: FoldJob) -> None:
        """Submit the job."""
        words = self._command.words(job, gpus=self._gpus)
        self._running[job.name] = (self._executor.submit(run_logged, words, str(self._command.log(job))), job)

    def ended(self) -> Iterator[tuple[FoldJob, str]]:
        """Jobs that ended; one that Slurm ended is a failure with its state."""
        while not (done := [name for name, (handle, _) in self._running.items() if handle.done()]):
            time.sleep(_POLL_SECONDS)
        for name in done:
            handle, job = self._running.pop(name)
            error = handle.exception()
            yield job, str(handle.result()) if error is None else f"job {handle.job_id} {handle.state}: {_last(error)}"

    def close(self) -> None:
        """Nothing to do: jobs that were submitted go on without this command."""


def _minutes(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise SettingsError(f"--slurm time={text}: give a whole number of minutes")
    return int(text)


def _last(error: BaseException) -> str:
    """The line of an error that says what happened; submitit's begin with a traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _require(package: str, extra: str) -> Any:  # noqa: ANN401 - an optional package
    try:
        return importlib.import_module(package)
    except ImportError:
        raise SettingsError(f"--engine {extra} needs {package}: pip install 'autoseg[{extra}]'") from None
