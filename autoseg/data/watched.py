"""A loader whose failures are told as what they are: the case, the exception of the worker, the death of a process."""

from __future__ import annotations

import functools
import re
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Protocol, TypeVar

from torch.utils.data import DataLoader, Dataset

from autoseg.errors import AutosegError, WorkerError
from autoseg.memory import in_gigabytes, most_of_children, own_peak
from autoseg.workers import how_it_ended, interrupts_blocked

B_co = TypeVar("B_co", covariant=True)
B = TypeVar("B")

_KILLED = re.compile(r"killed by signal: (.+?)\.")
_SIGNALS = {signal.strsignal(number): number for number in signal.Signals}


class StepSource(Protocol[B_co]):
    """Batches by step."""

    def __getitem__(self, step: int) -> B_co:
        """The batch of a step."""

    def cases_of(self, step: int) -> tuple[str, ...]:
        """Which cases a step shows, without making its batch."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """Travels as a value: torch would build the exception anew, with the traceback in its message."""

    error: AutosegError


class _Guarded(Dataset[B | _Failure]):
    """Turns exceptions into values; what raised them is named."""

    def __init__(self, source: StepSource[B]) -> None:
        self.source = source

    def __getitem__(self, step: int) -> B | _Failure:
        try:
            return self.source[step]
        except AutosegError as error:
            return _Failure(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent must be able to name the cases
            cases = ", ".join(dict.fromkeys(self.source.cases_of(step)))
            summary = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
            message = f"the batch of {cases} cannot be made: {summary} (peak memory {in_gigabytes(own_peak())})"
            return _Failure(WorkerError(message, details=traceback.format_exc()))


class WatchedLoader(DataLoader[B]):
    """A torch loader of the batches of some steps, in order.

    Its processes leave Ctrl-C to their parent. Iterating raises what a batch failed with, and WorkerError when a
    process dies; see also :func:`deaths_told`.

    Args:
        source: Batches by step.
        steps: Which of them.
        workers: Loader processes; 0 loads in this process.
        options: Further arguments of torch's loader.
    """

    def __init__(self, source: StepSource[B], steps: range, *, workers: int, **options: object) -> None:
        guarded = _Guarded(source)
        self._source, self._steps = source, steps
        super().__init__(guarded, batch_size=None, sampler=steps, num_workers=workers, **options)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[B]:  # type: ignore[override]  # a torch iterator, looked through
        with interrupts_blocked():
            made = super().__iter__()
        return self._looked_through(made)

    def _looked_through(self, made: Iterator[B | _Failure]) -> Iterator[B]:
        for step in self._steps:
            with deaths_told(functools.partial(self._source.cases_of, step), getattr(made, "_workers", ())):
                item = next(made, None)
            if item is None:
                return
            if isinstance(item, _Failure):
                raise item.error
            yield item


@contextmanager
def deaths_told(
    cases: Callable[[], tuple[str, ...]] | None = None, processes: Sequence[BaseProcess] = ()
) -> Iterator[None]:
    """Say how a loader process died; torch raises it wherever the main thread happens to be.

    Args:
        cases: Function that names the cases it may have been at, if they are known.
        processes: The loader's, if they are known: torch does not always say how one ended.

    Raises:
        WorkerError: When one died.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        found = _KILLED.search(str(error))
        codes = [process.exitcode for process in processes if process.exitcode]
        code = codes[0] if codes else None if found is None else -_SIGNALS.get(found[1], 0)
        most = most_of_children()
        ended = how_it_ended(code, most) if code else "ended unexpectedly"
        near = f" near a batch of {', '.join(dict.fromkeys(cases()))}" if cases is not None else ""
        raise WorkerError(
            f"a loader process {ended}{near}. The same command goes on from the last checkpoint; with less memory: "
            "--workers 0"
        ) from None
