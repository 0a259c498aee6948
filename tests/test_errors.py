"""Errors are raised in worker processes and must arrive whole."""

from __future__ import annotations

import pickle

import pytest

from autoseg import errors
from autoseg.errors import AutosegError, CasesFailedError, JobsFailedError, WorkerError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AutosegError)]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not issubclass(kind, CasesFailedError)])
def test_message_survives_the_way_between_processes(kind: type[AutosegError]) -> None:
    error = pickle.loads(pickle.dumps(kind("the file is short")))
    assert type(error) is kind
    assert str(error) == "the file is short"


def test_details_and_failures_survive_as_well() -> None:
    worker = pickle.loads(pickle.dumps(WorkerError("case 7 failed", details="Traceback ...")))
    assert worker.details == "Traceback ..."
    failed = pickle.loads(pickle.dumps(CasesFailedError({"a": "too dark", "b": "too bright"})))
    assert failed.failures == {"a": "too dark", "b": "too bright"}
    assert str(failed) == "2 case(s) failed: a: too dark; b: too bright"
    jobs = pickle.loads(pickle.dumps(JobsFailedError({"2d fold0": "no memory"})))
    assert (type(jobs), jobs.failures) == (JobsFailedError, {"2d fold0": "no memory"})
    assert "2d fold0: no memory" in str(jobs)
