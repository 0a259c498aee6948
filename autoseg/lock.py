"""One process at a time: locks that name who holds them, and that a dead process does not hold for ever.

A lock is a file that its holder touches every few seconds (``filelock.SoftFileLease``): made in one step that works
on network file systems as well, with host, process number and the process's start time in it. Whoever finds a lock of
this machine whose process is gone takes it at once. One of another machine, whose processes cannot be seen, is watched:
if nobody touches it for a minute by the watcher's own clock, it is taken over, so clocks of hosts need not agree.
Kernel locks (flock) would be simpler, but they are silently local or refused on many cluster file systems.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import SoftFileLease, Timeout

from autoseg.errors import LockedError, SettingsError

LEASE_SECONDS = 60.0
_ATTEMPT_SECONDS = 0.5  # enough to take the lock of a process that is gone
_POLL_SECONDS = 0.05
_DAMAGED_SECONDS = 5.0  # filelock removes a file that is no lock once it has seen it unchanged for two


@contextmanager
def hold(
    path: Path,
    what: str,
    *,
    wait: float = 0.0,
    tell: Callable[[str], None] = lambda _: None,
    lease_seconds: float = LEASE_SECONDS,
) -> Iterator[None]:
    """Hold a lock while the block runs.

    Args:
        path: The lock file; its folder is created.
        what: What is locked, for messages: "fold0 of 3d_fullres".
        wait: Seconds to wait for a living holder of this machine.
        tell: Told when a lock is waited for, taken over or lost.
        lease_seconds: How long an untouched lock of another machine is believed.

    Raises:
        LockedError: When a living process holds it; says which.
        SettingsError: When the folder cannot be written to.
    """
    lease = SoftFileLease(
        path,
        lease_duration=lease_seconds,
        poll_interval=_POLL_SECONDS,
        on_compromise=lambda loss: tell(
            f"the lock on {what} was lost ({loss.reason}): another process may be working on it. {path}"
        ),
    )
    is_new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _acquire(lease, path, what, wait=wait, tell=tell)
    except OSError as error:
        if isinstance(error, Timeout):
            raise _locked(lease, path, what) from None
        raise SettingsError(f"{path.parent} cannot be written to: {error.strerror or error}") from None
    try:
        yield
    finally:
        lease.release(force=True)
        if is_new:
            with suppress(OSError):  # there is something in it by now
                path.parent.rmdir()


def holder(path: Path) -> str | None:
    """Who holds a lock, in words; None where nobody does or the file went meanwhile."""
    owner = SoftFileLease(path, lease_duration=LEASE_SECONDS).owner if path.is_file() else None
    return None if owner is None else f"process {owner.pid} on {_host(owner.hostname)}"


def _acquire(lease: SoftFileLease, path: Path, what: str, *, wait: float, tell: Callable[[str], None]) -> None:
    with suppress(Timeout):
        lease.acquire(timeout=_ATTEMPT_SECONDS)
        return
    owner = lease.owner
    elsewhere = owner is not None and _host(owner.hostname) != socket.gethostname()
    patience = max(wait, 1.5 * lease.lease_duration if elsewhere else 0.0, _DAMAGED_SECONDS if owner is None else 0.0)
    if patience == 0.0:
        raise Timeout(str(path))
    if elsewhere:
        tell(f"{what} is locked by {holder(path)}, which cannot be seen from here; waiting whether it is alive")
    lease.acquire(timeout=patience)


def _locked(lease: SoftFileLease, path: Path, what: str) -> LockedError:
    owner = lease.owner
    who = "another process" if owner is None else f"process {owner.pid} on {_host(owner.hostname)}"
    return LockedError(
        f"{what} is in use by {who}. Wait for it or end it; if it does not exist, the lock is given up within "
        f"{lease.lease_duration:.0f} s, or remove {path}"
    )


def _host(recorded: str) -> str:
    """The host's name without what tells containers of one host apart."""
    return recorded.partition("?")[0]
