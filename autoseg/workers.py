"""Worker processes: how they start, what they answer, how they end; :mod:`autoseg.parallel` gives them work.

The process that gives the work is never forked: its locks of SimpleITK and BLAS would be copied in whatever state they
are. On Linux a server process that has imported what is needed and does nothing else is forked instead: half a second
once and not once per worker, and its memory is shared. Elsewhere processes are spawned. Each has a pipe of its own and
works on one task at a time, so that it is known what a process was at when it died.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

from autoseg.errors import AutosegError, WorkerError
from autoseg.memory import in_gigabytes, own_peak, process_memory

_HAS_SERVER = sys.platform == "linux"
_ALWAYS = ("SimpleITK", "threadpoolctl")  # what every worker imports

_TRIES = 5
_RETRY_SECONDS = 0.1

KILLED = -9
"""Exit code of a process that SIGKILL ended; Windows has no such signal."""

END_SECONDS = 2.0
"""Between asking a process to end and making it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmup:
    """Modules to import while there is nothing else to do."""

    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One job of a round, by its place there."""

    round: int
    index: int
    work: Callable[[Any], Any]
    job: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Result or failure of a task; failures travel as values so that their traceback text survives."""

    peak: int = 0
    result: Any = None
    error: AutosegError | None = None
    is_out_of_memory: bool = False


@dataclass(slots=True, eq=False)
class Worker:
    """A process, its pipe, and what it is at."""

    process: BaseProcess
    pipe: Connection
    task: Task | Warmup | None = None
    peak: int = 0
    has_answered: bool = False

    @classmethod
    def spawn(cls) -> Worker:
        """Start a process."""
        for _ in range(_TRIES):
            with suppress(EOFError, ConnectionError):  # the server was killed in this moment; soon there is a new one
                return cls._spawn()
            time.sleep(_RETRY_SECONDS)
        raise WorkerError("no worker process can be started: the process that makes them is killed again and again")

    @classmethod
    def _spawn(cls) -> Worker:
        context = multiprocessing.get_context("forkserver" if _HAS_SERVER else "spawn")
        ours, theirs = context.Pipe()
        # The stubs know Process on the concrete contexts only.
        process: BaseProcess = context.Process(target=_serve, args=(theirs,), daemon=True)  # type: ignore[attr-defined]
        resource_tracker.ensure_running()
        with interrupts_blocked(), _main_unseen():
            process.start()
        theirs.close()
        return cls(process=process, pipe=ours)

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a task."""
        return self.task is None

    def give(self, task: Task | Warmup) -> None:
        """Send a task; what pickling raises is raised before anything is sent."""
        message = ForkingPickler.dumps(task)
        self.task = task
        self.pipe.send_bytes(message)

    def look(self) -> None:
        """Note how much memory the process has taken so far: once it is dead, nobody can tell."""
        if self.process.pid is not None and (memory := process_memory(self.process.pid)):
            self.peak = max(self.peak, memory.peak)


def prepare_to_start(modules: Sequence[str]) -> bool:
    """Let the server process start and import modules, without waiting for it.

    Args:
        modules: What workers will import.

    Returns:
        Whether there is a server; if not, each worker has to import for itself.
    """
    if not _HAS_SERVER:
        return False
    multiprocessing.get_context("forkserver").set_forkserver_preload([*_ALWAYS, *modules])
    resource_tracker.ensure_running()  # which lets interrupts through again when it starts
    with interrupts_blocked():
        forkserver.ensure_running()
    return True


@contextmanager
def _main_unseen() -> Iterator[None]:
    """Hide the script that runs.

    Workers call functions of installed modules only. Otherwise each would run the script again up to its
    ``if __name__ == "__main__"``, and one without would begin anew.
    """
    main = sys.modules["__main__"]
    spec, path = getattr(main, "__spec__", None), main.__dict__.pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        main.__spec__ = spec
        if path is not None:
            main.__file__ = path


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Keep Ctrl-C back while a process starts: the child inherits that, and leaves interrupts to its parent.

    The terminal sends it to all processes, and a child that is importing would answer with a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def how_it_ended(exit_code: int | None, peak: int) -> str:
    """The end of a process in words.

    Example:
        >>> how_it_ended(-9, 7_800_000_000)
        'was killed by SIGKILL at 7.8 GB: out of memory?'
    """
    used = f" at {in_gigabytes(peak)}" if peak else ""
    if exit_code is None or exit_code >= 0:
        return f"ended with exit code {exit_code}{used}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"was killed by {name}{used}{': out of memory?' if exit_code == KILLED else ''}"


def end_workers(workers: Sequence[Worker]) -> None:
    """End processes at once, whatever they are at; what they leave half-written has names that nobody trusts."""
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(END_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.pipe.close()


def _serve(pipe: Connection) -> None:
    """What a worker process does: one task after the other, until its parent is gone."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _use_one_thread()
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        except Exception as error:  # noqa: BLE001 - the job cannot be rebuilt here
            pipe.send(Outcome(error=WorkerError(f"cannot travel between processes: {error}")))
            continue
        try:
            pipe.send_bytes(ForkingPickler.dumps(_answer(task)))
        except OSError:  # nobody listens any more
            return
        except Exception as error:  # noqa: BLE001 - the result cannot be pickled
            pipe.send(Outcome(error=WorkerError(f"cannot travel between processes: {error}")))


def _answer(task: Task | Warmup) -> Outcome:
    if isinstance(task, Warmup):
        for module in task.modules:
            importlib.import_module(module)
        return Outcome()
    try:
        return Outcome(result=task.work(task.job), peak=own_peak())
    except AutosegError as error:
        return Outcome(error=error, peak=own_peak())
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, the parent must be able to name the case
        details = traceback.format_exc()
        summary = f"failed in a worker: {details.strip().splitlines()[-1]} (peak memory {in_gigabytes(own_peak())})"
        return Outcome(
            peak=own_peak(),
            error=WorkerError(summary, details=details),
            is_out_of_memory=isinstance(error, MemoryError),
        )


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _use_one_thread() -> None:
    """Parallelism comes from processes: threads inside each would only fight over the same cores."""
    import SimpleITK as sitk
    from threadpoolctl import threadpool_limits

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    threadpool_limits(1)
