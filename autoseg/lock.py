"""One process at a time: locks that name who holds them, and that a dead process does not hold for ever.

A lock is a file that its holder touches every few seconds (``filelock.SoftFileLease``): made in one step that works
on network file systems as well, with host, process number and the process's start time in it. Whoever finds a lock of
this machine whose process is gone takes it at once. One of another machine, whose processes cannot be seen, is watched:
if nobody touches it for a minute by the watcher's own clock, it is taken over, so clocks of hosts need not agree.
Kernel locks (flock) would be simpler, but they are silently local or refused on many cluster file systems.

A process that is killed between making the file and writing into it leaves an empty one, which names nobody. Once it
has not changed for a few seconds it is removed; among those who wait for it the one that makes a second file beside it
does that, so that nobody removes the living lock that the first of them made in its place.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import SoftFileLease, Timeout

from autoseg.errors import LockedError, SettingsError

LEASE_SECONDS = 60.0
_ATTEMPT_SECONDS = 0.5  # enough to take the lock of a process that is gone
_POLL_SECONDS = 0.05
_ABANDONED_SECONDS = 3600.0
_DAMAGED_SECONDS = 5.0  # filelock itself removes a file that is no lock, unless it is empty, after two


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
    if lease.owner is None and _is_given_up(lease, path, tell):
        return
    owner = lease.owner
    elsewhere = owner is not None and _host(owner.hostname) != socket.gethostname()
    patience = max(wait, 1.5 * lease.lease_duration if elsewhere else 0.0)
    if patience == 0.0:
        raise Timeout(str(path))
    if elsewhere:
        tell(f"{what} is locked by {holder(path)}, which cannot be seen from here; waiting whether it is alive")
    lease.acquire(timeout=patience)


def _is_given_up(lease: SoftFileLease, path: Path, tell: Callable[[str], None]) -> bool:
    """Wait whether a lock that names nobody gets a holder or goes; otherwise take it. Says whether it is ours now."""
    before = _state(path)
    with suppress(Timeout):
        lease.acquire(timeout=_DAMAGED_SECONDS)
        return True
    if before is None or lease.owner is not None or not _remove(path, before):
        return False
    tell(f"{path} named no process and nobody touched it for {_DAMAGED_SECONDS:.0f} s: taken over")
    with suppress(Timeout):
        lease.acquire(timeout=_ATTEMPT_SECONDS)
        return True
    return False


def _state(path: Path) -> tuple[int, int, int] | None:
    """What changes when a lock file is written to, touched or replaced."""
    with suppress(OSError):
        found = path.lstat()
        return found.st_ino, found.st_mtime_ns, found.st_size
    return None


def _remove(path: Path, state: tuple[int, int, int]) -> bool:
    """Remove a file that names nobody, unless it changed or another process is at that."""
    claim = path.with_name(f"{path.name}.removing")
    with suppress(OSError):
        # Left by a process killed within this block, which takes no time; clocks of hosts differ by less.
        if time.time() - claim.stat().st_mtime > _ABANDONED_SECONDS:
            claim.unlink()
    try:
        claim.touch(exist_ok=False)
    except OSError:
        return False
    try:
        if _state(path) != state:
            return False
        path.unlink()
    except OSError:
        return False
    finally:
        claim.unlink(missing_ok=True)
    return True


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
