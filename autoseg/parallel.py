"""The one door to worker processes; a failure names the case, keeps the worker's traceback, and is told at once."""

from __future__ import annotations

import functools
import itertools
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Generic, Self, TypeVar

from autoseg.errors import AutosegError, WorkerError
from autoseg.memory import in_gigabytes, memory_state, process_memory
from autoseg.workers import (
    END_SECONDS,
    KILLED,
    Outcome,
    Task,
    Warmup,
    Worker,
    end_workers,
    how_it_ended,
    prepare_to_start,
)

J = TypeVar("J")
R = TypeVar("R")
logger = logging.getLogger("autoseg")

_LOOK_SECONDS = 0.2  # between looks at the memory of processes that work
_GRACE_SECONDS = 2.0  # for results of earlier jobs, once one has failed
_AHEAD = 4  # results per process that may lie finished and unread
_round_numbers = itertools.count()


def default_workers() -> int:
    """As many worker processes as this process may use processors."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1))


class WorkerPool:
    """Worker processes for several rounds of work; used in a ``with`` block, which ends them.

    Fewer of them work at a time while memory is short. A job whose process was killed, as the system does when memory
    runs out, is tried once more with half as many at work.

    Args:
        workers: Processes; 0 works in this process, with ordinary tracebacks and a debugger.
        tell: Told when fewer processes work than were asked for; None logs.

    Example:
        >>> with WorkerPool(0) as pool:
        ...     list(pool.map(abs, [-1, 2]))
        [1, 2]
    """

    def __init__(self, workers: int, *, tell: Callable[[str], None] | None = None) -> None:
        self.workers = workers
        self._crew = _Crew(size=workers, most_at_work=workers, tell=tell or logger.warning)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        end_workers(self._crew.members)
        self._crew.members, self._crew.homes = [], {}

    def start(self, modules: Sequence[str]) -> None:
        """Start the processes now and let them import modules while the caller does something else.

        Args:
            modules: What the work to come will import.
        """
        if self.workers == 0 or prepare_to_start(modules):
            return
        self._crew.fill(self.workers)
        for worker in self._crew.members:
            if worker.is_idle:
                worker.give(Warmup(modules=tuple(modules)))

    def map(
        self,
        work: Callable[[J], R],
        jobs: Sequence[J],
        *,
        label: Callable[[J], str] = str,
        home: Callable[[J], str] | None = None,
    ) -> Iterator[R]:
        """Apply ``work`` to every job and yield results in the order of the jobs.

        Args:
            work: Module-level function of one picklable job.
            jobs: What to do.
            label: Name of a job for error messages, usually the case id.
            home: Name of what a job works on. The process that worked on it in an earlier round, and may have kept
                something of it, gets it again, unless another one has nothing else to do.

        Raises:
            AutosegError: As raised by ``work``: its message names the file.
            WorkerError: When a worker raised anything else or died; names the case, and says how and with how much
                memory.
        """
        if self.workers == 0 or len(jobs) <= 1:
            for job in jobs:
                yield work(job)
            return
        yield from _Round(crew=self._crew, work=work, jobs=jobs, label=label, home=home).results()


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
    pool = ThreadPoolExecutor(ahead)
    try:
        waiting = deque((job, pool.submit(work, job)) for job in jobs[:ahead])
        for index in range(len(jobs)):
            job, future = waiting.popleft()
            if index + ahead < len(jobs):
                waiting.append((jobs[index + ahead], pool.submit(work, jobs[index + ahead])))
            yield job, future.result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interrupted command does not wait for a file


class WriteBehind(Generic[R]):
    """Finishes jobs in a thread while the caller goes on; used in a ``with`` block.

    Args:
        threads: 0 finishes each job at once.
    """

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads) if threads else None
        self._waiting: deque[Future[R]] = deque()
        self._done: deque[R] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True)

    def put(self, job: Callable[[], R]) -> None:
        """Hand a job over; waits while two are unfinished, so that results do not pile up."""
        if self._executor is None:
            self._done.append(job())
            return
        if len(self._waiting) >= 2:
            self._done.append(self._waiting.popleft().result())
        self._waiting.append(self._executor.submit(job))

    def finished(self) -> Iterator[R]:
        """Results that are there, in the order of the jobs."""
        while self._waiting and self._waiting[0].done():
            self._done.append(self._waiting.popleft().result())
        while self._done:
            yield self._done.popleft()

    def rest(self) -> Iterator[R]:
        """Results of everything that was handed over."""
        while self._waiting:
            self._done.append(self._waiting.popleft().result())
        yield from self.finished()


@dataclass(slots=True, kw_only=True)
class _Crew:
    """The processes of a pool, and how many of them may work at a time."""

    size: int
    most_at_work: int
    tell: Callable[[str], None]
    members: list[Worker] = field(default_factory=list)
    homes: dict[str, Worker] = field(default_factory=dict)
    has_told: bool = False

    @property
    def at_work(self) -> list[Worker]:
        return [worker for worker in self.members if not worker.is_idle]

    def fill(self, wanted: int) -> None:
        """Replace the dead, and start processes until there are as many as are wanted."""
        self.members = [worker for worker in self.members if not worker.is_idle or worker.process.is_alive()]
        while len(self.members) < min(wanted, self.size):
            self.members.append(Worker.spawn())

    def may_begin(self, candidate: Worker) -> bool:
        """Whether there is memory for one more at work: each may come to need as much as the greediest so far."""
        busy = self.at_work
        if not busy:
            return True
        if len(busy) >= self.most_at_work:
            return False
        most, available = max(worker.peak for worker in self.members), memory_state().available
        if available is None or sum(_growth(worker, most) for worker in [*busy, candidate]) <= available:
            return True
        if not self.has_told:
            self.has_told = True
            self.tell(
                f"memory is short: {in_gigabytes(available)} are left, a case took up to {in_gigabytes(most)}; "
                f"{len(busy)} of {self.size} worker processes go on"
            )
        return False

    def halve(self, reason: str) -> None:
        """Let fewer work at a time from now on."""
        self.most_at_work = max(1, self.most_at_work // 2)
        self.tell(f"{reason} It is tried again, with {self.most_at_work} of {self.size} worker processes")


def _growth(worker: Worker, most: int) -> int:
    """Bytes that a process may still come to need."""
    memory = process_memory(worker.process.pid or 0)
    return max(0, most - (memory.now if memory else 0))


@dataclass(slots=True, kw_only=True)
class _Round(Generic[J, R]):
    """One pass over a list of jobs."""

    crew: _Crew
    work: Callable[[J], R]
    jobs: Sequence[J]
    label: Callable[[J], str]
    home: Callable[[J], str] | None = None
    number: int = field(default_factory=lambda: next(_round_numbers))
    done: dict[int, Outcome] = field(default_factory=dict)
    todo: deque[int] = field(default_factory=deque)
    retried: set[int] = field(default_factory=set)
    failure: tuple[int, AutosegError] | None = None

    def results(self) -> Iterator[R]:
        self.todo.extend(range(len(self.jobs)))
        for index in range(len(self.jobs)):
            while index not in self.done:
                self._advance(index)
            yield self.done.pop(index).result

    def _advance(self, wanted: int) -> None:
        """Wait until something happens; raise the failure that there may be once nothing before it is awaited."""
        if self.failure is None:
            self._hand_out(wanted)
            self._collect(_LOOK_SECONDS)
            return
        failed, error = self.failure
        earlier = [worker for worker in self.crew.at_work if self._index(worker) in range(failed)]
        if not (wanted < failed and earlier and self._collect(_GRACE_SECONDS)):
            raise error

    def _hand_out(self, wanted: int) -> None:
        self.crew.fill(len(self.todo) + len(self.crew.at_work))
        for worker in self.crew.members:
            near = [index for index in self.todo if index < wanted + _AHEAD * self.crew.size]
            if not near:
                return
            if worker.is_idle and self.crew.may_begin(worker):
                chosen = self._choose(worker, near)
                self.todo.remove(chosen)
                self._give(worker, chosen)

    def _choose(self, worker: Worker, near: Sequence[int]) -> int:
        """The first job that is this worker's or nobody's; else the last one of whoever has most to do."""
        if self.home is None:
            return near[0]
        names = {index: self.home(self.jobs[index]) for index in near}
        owners = {index: self.crew.homes.get(name) for index, name in names.items()}
        owners = {index: owner if owner in self.crew.members else None for index, owner in owners.items()}
        chosen = next((index for index, owner in owners.items() if owner in (worker, None)), None)
        if chosen is None:
            counts = Counter(map(id, owners.values()))
            chosen = max(owners, key=lambda index: (counts[id(owners[index])], index))
        self.crew.homes[names[chosen]] = worker
        return chosen

    def _give(self, worker: Worker, index: int) -> None:
        try:
            worker.give(Task(round=self.number, index=index, work=self.work, job=self.jobs[index]))
        except OSError:  # it died in this moment, as the next look will find
            return
        except Exception as error:  # noqa: BLE001 - whatever pickling says
            self._fail(index, WorkerError(f"{self._case(index)} cannot travel between processes: {error}"))

    def _collect(self, seconds: float) -> bool:
        """Take what arrives within some time; False when nothing did."""
        busy = self.crew.at_work
        by_source = {source: worker for worker in busy for source in (worker.pipe, worker.process.sentinel)}
        ready = wait(list(by_source), timeout=seconds)
        for worker in dict.fromkeys(by_source[source] for source in ready):  # type: ignore[index]  # typed as object
            self._receive(worker)
        for worker in busy:
            worker.look()
        return bool(ready)

    def _receive(self, worker: Worker) -> None:
        index = self._index(worker)
        try:
            outcome: Outcome | None = worker.pipe.recv() if worker.pipe.poll() else None
        except (EOFError, OSError):
            outcome = None
        except Exception as error:  # noqa: BLE001 - whatever unpickling says
            outcome = Outcome(error=WorkerError(f"cannot travel between processes: {error}"))
        if outcome is None:
            self._bury(worker, index)
            return
        worker.task, worker.has_answered, worker.peak = None, True, max(worker.peak, outcome.peak)
        if index is None:  # a warm-up, or what is left of an earlier round
            return
        if outcome.error is None:
            self.done[index] = outcome
        elif outcome.is_out_of_memory and index not in self.retried:
            self._try_again(index, f"{self._case(index)}: memory ran out.")
        elif isinstance(outcome.error, WorkerError):
            details = outcome.error.details
            self._fail(index, WorkerError(f"{self._case(index)} {outcome.error}", details=details))
        else:
            self._fail(index, outcome.error)

    def _bury(self, worker: Worker, index: int | None) -> None:
        """A process died."""
        worker.process.join(END_SECONDS)
        self.crew.members.remove(worker)
        worker.pipe.close()
        code = worker.process.exitcode
        if code == 1 and not worker.has_answered:
            hint = 'In a script, the call that starts workers must stand below if __name__ == "__main__":'
            self._fail(0, WorkerError(f"a worker process ended before it began, its own words are above. {hint}"))
        if index is None:
            return
        died = f"{self._case(index)}: its worker process {how_it_ended(code, worker.peak)}".removesuffix("?")
        died += "?" if code == KILLED else "."
        if code == KILLED and index not in self.retried:
            self._try_again(index, died)
            return
        state, again = memory_state(), " So it did when it was tried before." if index in self.retried else ""
        left = f"{in_gigabytes(state.available)} of {in_gigabytes(state.total)} memory are free ({state.limited_by})."
        self._fail(index, WorkerError(f"{died}{again} {left} Try fewer: --workers 1"))

    def _try_again(self, index: int, reason: str) -> None:
        self.retried.add(index)
        self.todo.appendleft(index)
        self.crew.halve(reason)

    def _index(self, worker: Worker) -> int | None:
        """Which of this round's jobs a process is at."""
        task = worker.task
        return task.index if isinstance(task, Task) and task.round == self.number else None

    def _case(self, index: int) -> str:
        return f"case {self.label(self.jobs[index])}"

    def _fail(self, index: int, error: AutosegError) -> None:
        if self.failure is None or index < self.failure[0]:
            self.failure = (index, error)
