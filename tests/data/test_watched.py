"""A training loader that fails says with which cases, and how; it never hangs."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import pytest

from autoseg.data.watched import WatchedLoader
from autoseg.errors import DatasetError, WorkerError


@dataclass(frozen=True)
class Batches:
    """Numbers instead of batches; one step goes wrong."""

    wrong: int = -1
    how: str = ""

    def __getitem__(self, step: int) -> int:
        if step == self.wrong and self.how == "told":
            raise DatasetError("a.b2nd is damaged")
        if step == self.wrong and self.how == "raised":
            raise ZeroDivisionError("by nothing")
        if step == self.wrong and self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return step

    def cases_of(self, step: int) -> tuple[str, ...]:
        return (f"case{step}", f"case{step}", "other")


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order(workers: int) -> None:
    assert list(WatchedLoader(Batches(), range(3, 9), workers=workers)) == list(range(3, 9))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_names_its_cases_and_keeps_its_traceback(workers: int) -> None:
    batches, seen = iter(WatchedLoader(Batches(wrong=2, how="raised"), range(5), workers=workers)), []
    with pytest.raises(WorkerError, match=r"^the batch of case2, other cannot be made: ZeroDivisionError") as caught:
        seen.extend(batches)
    assert "in __getitem__" in caught.value.details


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_for_the_user_arrives_as_it_is(workers: int) -> None:
    with pytest.raises(DatasetError, match=r"^a\.b2nd is damaged$"):
        list(WatchedLoader(Batches(wrong=1, how="told"), range(5), workers=workers))


def test_a_killed_process_is_told_with_its_signal_and_the_cases_near() -> None:
    with pytest.raises(WorkerError, match=r"a loader process .*SIGKILL.* near a batch of case\d, other.*--workers 0"):
        list(WatchedLoader(Batches(wrong=1, how="killed"), range(5), workers=1))
