"""The one door to worker processes; a failure names the case and keeps the worker's traceback."""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from autoseg.errors import AutosegError, WorkerError

J = TypeVar("J")
R = TypeVar("R")


def default_workers() -> int:
    """As many worker processes as this process may use processors."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1))


class WorkerPool:
    """Worker processes for several rounds of work; used in a ``with`` block, which ends them.

    Args:
        workers: Processes; 0 works in this process, with ordinary tracebacks and a debugger.

    Example:
        >>> with WorkerPool(0) as pool:
        ...     list(pool.map(abs, [-1, 2]))
        [1, 2]
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def start(self, modules: Sequence[str]) -> None:
        """Start the processes now and let them import modules while the caller does something else.

        Args:
            modules: What the work to come will import.
        """
        if self.workers > 0:
            executor = self._started()
            for _ in range(self.workers):
                executor.submit(_import_modules, tuple(modules))

    def map(self, work: Callable[[J], R], jobs: Sequence[J], *, label: Callable[[J], str] = str) -> Iterator[R]:
        """Apply ``work`` to every job and yield results in the order of the jobs.

        Args:
            work: Module-level function of one picklable job.
            jobs: What to do.
            label: Name of a job for error messages, usually the case id.

        Raises:
            AutosegError: As raised by ``work``: its message names the file.
            WorkerError: When a worker raised anything else or died; names the case.
        """
        if self.workers == 0 or len(jobs) <= 1:
            for job in jobs:
                yield work(job)
            return
        yield from _results_in_order(self._started(), work, jobs, label=label, ahead=2 * self.workers)

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            # Spawned, not forked: a fork would copy the locks of SimpleITK and BLAS in whatever state they are.
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_use_one_thread)
        return self._executor


def map_cases(
    work: Callable[[J], R], jobs: Sequence[J], *, workers: int, label: Callable[[J], str] = str
) -> Iterator[R]:
    """Do one round of work in processes of its own; see :meth:`WorkerPool.map`.

    Args:
        work: Module-level function of one picklable job.
        jobs: What to do.
        workers: Worker processes; 0 works in this process.
        label: Name of a job for error messages, usually the case id.
    """
    with WorkerPool(min(workers, len(jobs))) as pool:
        yield from pool.map(work, jobs, label=label)


def read_ahead(work: Callable[[J], R], jobs: Sequence[J], *, ahead: int) -> Iterator[tuple[J, Callable[[], R]]]:
    """Work on the next jobs in threads while the caller is busy with the present one.

    For reading files, which lets other threads compute.

    Args:
        work: What to do with a job.
        jobs: In the order in which they are wanted.
        ahead: Jobs to have ready or under way; 0 works when a result is asked for, in the caller's thread.

    Yields:
        Each job with a function that gives its result, or raises what ``work`` raised.
    """
    if ahead == 0:
        for job in jobs:
            yield job, functools.partial(work, job)
        return
    with ThreadPoolExecutor(ahead) as pool:
        waiting = deque((job, pool.submit(work, job)) for job in jobs[:ahead])
        for index in range(len(jobs)):
            job, future = waiting.popleft()
            if index + ahead < len(jobs):
                waiting.append((jobs[index + ahead], pool.submit(work, jobs[index + ahead])))
            yield job, future.result


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[R]):
    """Result or failure of a job; failures travel as values so that their traceback text survives."""

    result: R | None = None
    known_error: AutosegError | None = None
    details: str = ""


def _results_in_order(
    pool: ProcessPoolExecutor, work: Callable[[J], R], jobs: Sequence[J], *, label: Callable[[J], str], ahead: int
) -> Iterator[R]:
    waiting: deque[tuple[J, Future[_Outcome[R]]]] = deque()
    upcoming = iter(jobs)
    for job in upcoming:
        waiting.append((job, pool.submit(_guarded, work, job)))
        if len(waiting) == ahead:  # bounds the results that lie finished and unread
            break
    while waiting:
        job, future = waiting.popleft()
        try:
            outcome = future.result()
        except BrokenProcessPool:
            # Jobs start in order, so those at work were the first without a result: one per worker.
            unfinished = [j for j, f in [(job, future), *waiting] if not f.done() or f.exception() is not None]
            names = ", ".join(label(j) for j in unfinished[: ahead // 2])
            raise WorkerError(
                f"a worker process died, probably killed for want of memory, while working on one of: {names}. "
                "Try fewer: --workers 1"
            ) from None
        except Exception as error:
            raise WorkerError(f"case {label(job)} or its result cannot travel between processes: {error}") from error
        if outcome.known_error is not None:
            raise outcome.known_error
        if outcome.details:
            summary = outcome.details.strip().splitlines()[-1]
            raise WorkerError(f"case {label(job)} failed in a worker: {summary}", details=outcome.details)
        following = next(upcoming, None)
        if following is not None:
            waiting.append((following, pool.submit(_guarded, work, following)))
        yield outcome.result  # type: ignore[misc]  # a job without error has a result


def _guarded(work: Callable[[J], R], job: J) -> _Outcome[R]:
    try:
        return _Outcome(result=work(job))
    except AutosegError as error:
        return _Outcome(known_error=error)
    except (Exception, SystemExit):  # noqa: BLE001 - whatever it is, the parent must be able to name the case
        return _Outcome(details=traceback.format_exc())


def _import_modules(modules: tuple[str, ...]) -> None:
    for module in modules:
        importlib.import_module(module)


def _use_one_thread() -> None:
    """Parallelism comes from processes: threads inside each would only fight over the same cores."""
    import SimpleITK as sitk
    from threadpoolctl import threadpool_limits

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    threadpool_limits(1)
