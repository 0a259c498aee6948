"""Errors that are the user's to act on: one sentence saying what, where, what was found and what helps.

Everything else that is raised is a defect of autoseg and keeps its traceback.
"""

from __future__ import annotations


class AutosegError(Exception):
    """Base of every error that the command line prints as one sentence (exit code 2)."""


class DatasetError(AutosegError):
    """Something in the dataset contradicts itself or cannot be read."""


class PlanError(AutosegError):
    """No plan can be made, or the plan does not have what was asked for."""


class ArtifactError(AutosegError):
    """A file that autoseg wrote is truncated, foreign, edited wrongly, or from a newer version."""


class MissingArtifactError(AutosegError):
    """A step needs the output of an earlier step that has not been run."""


class StorageError(AutosegError):
    """A file cannot be written: no space, a quota, no permission."""


class LockedError(AutosegError):
    """Another process works on the same thing."""


class SettingsError(AutosegError):
    """A setting has an impossible value, or contradicts what a run recorded before."""


class TrainingError(AutosegError):
    """Training cannot go on: a non-finite loss, too little memory, a budget that is too short."""


class CasesFailedError(AutosegError):
    """Some cases failed while the others were done (exit code 1).

    Args:
        failures: Case id -> one sentence about its failure.
    """

    def __init__(self, failures: dict[str, str]) -> None:
        self.failures = failures
        listing = "; ".join(f"{case}: {reason}" for case, reason in failures.items())
        super().__init__(f"{len(failures)} case(s) failed: {listing}")

    def __reduce__(self) -> tuple[type[CasesFailedError], tuple[dict[str, str]]]:
        """Travel between processes as the failures, not as the message."""
        return type(self), (self.failures,)


class JobsFailedError(CasesFailedError):
    """Some folds could not be trained while the others were (exit code 1).

    Args:
        failures: Name of the job -> one sentence about its failure.
    """

    def __init__(self, failures: dict[str, str]) -> None:
        super().__init__(failures)
        listing = "; ".join(f"{job}: {reason}" for job, reason in failures.items())
        self.args = (f"{len(failures)} fold(s) are not trained: {listing}. The same command tries them again",)


class WorkerError(AutosegError):
    """A worker process failed on a case; the worker's traceback is kept in ``details``."""

    def __init__(self, message: str, *, details: str = "") -> None:
        self.details = details
        super().__init__(message)
