"""Runs autoseg's commands in processes that are killed, starved or interrupted at a chosen moment.

Importing torch takes longer than the tiny commands themselves. So one server process imports everything once, and forks
a child per run that does what the ``autoseg`` script does: same arguments, same entry point, a session of its own, its
output in a file. Worker processes are spawned by the child as always.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

Whom = Literal["main", "group", "worker"]

_ORPHANS_SECONDS = 60.0  # torch's loader processes look every five for their parent; others finish an import first


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong in a run.

    Args:
        after: Seconds after which a signal is sent; None sends none.
        signal: Its number.
        whom: The command's own process, all processes of the command, or one of its worker processes.
        operation: Kill before (even) or after (odd) the n-th file operation, n being half of it; None does not.
        limits: Resource limits by name, e.g. {"FSIZE": 10_000}.
        user: Number of the user that the command runs as; None stays root or whoever runs the tests.
    """

    after: float | None = None
    signal: int = signal.SIGKILL
    whom: Whom = "main"
    operation: int | None = None
    limits: dict[str, int] = field(default_factory=dict)
    user: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What became of a command.

    Args:
        code: Exit code, or minus the signal that ended it.
        seconds: How long it ran.
        answered: Seconds from the signal to the end; 0 without one.
        was_hit: Whether the signal found a process.
        is_hung: Whether it had to be ended after the time limit.
        orphans: Processes of the command that outlived it.
        operations: File operations it did; 0 where it was killed.
        text: Everything it printed.
    """

    code: int
    seconds: float
    answered: float
    was_hit: bool
    is_hung: bool
    orphans: int
    operations: int
    text: str


class Server:
    """Client of the process that forks the runs; used in a ``with`` block."""

    def __init__(self, log: Path) -> None:
        self._log = log
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "1000"}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def run(self, *arguments: str | Path, fault: Fault | None = None, limit: float = 120.0) -> Run:
        """Run ``autoseg arguments...``; at most ``limit`` seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {
            "arguments": [str(a) for a in arguments],
            "log": str(self._log),
            "limit": limit,
            "fault": asdict(fault or Fault()),
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Run(**answer, text=self._log.read_text(encoding="utf-8", errors="replace"))


def _serve() -> None:
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401

    import autoseg.cli.main
    import autoseg.figures.curves
    import autoseg.pipeline.checking
    import autoseg.pipeline.predict
    import autoseg.pipeline.prepare
    import autoseg.pipeline.train
    import autoseg.trainers.supervised

    # nnU-Net's ten million intensities per dataset take longer than everything else; how many there are changes nothing
    # about files and processes.
    autoseg.pipeline.checking.samples_per_case = lambda _: 1000
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # also in children, until they are the command
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _warm_up()
    gc.freeze()  # else every child copies what the collector touches
    for line in sys.stdin:
        request = json.loads(line)
        counts = Path(request["log"] + ".operations")
        counts.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            _be_the_command(request, counts)  # does not return
        answer = _watch(child, Fault(**request["fault"]), request["limit"])
        answer["operations"] = int(counts.read_text()) if counts.is_file() else 0
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _warm_up() -> None:
    """Import, and draw once, what the commands import and look up when they are first used."""
    import tempfile

    import torch._dynamo  # noqa: F401 - torch's optimizers import it

    from autoseg.cli.main import app
    from autoseg.figures import draw_progress
    from autoseg.history import EpochRow

    row = EpochRow(
        **dict.fromkeys(("seconds", "learning_rate", "train_loss", "val_loss", "val_dice", "ema_dice", "waiting"), 1.0),
        epoch=0,
        iterations=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        draw_progress([row, row], Path(folder) / "picture.png")

    for command in ("plan-and-preprocess", "train", "ensemble-predict"):
        try:
            app([command, "--help"], prog_name="autoseg")
        except SystemExit:
            continue


def _be_the_command(request: dict[str, Any], counts: Path) -> None:
    os.setsid()
    nothing, log = os.open(os.devnull, os.O_RDONLY), os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.fchmod(log, 0o666)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    fault = Fault(**request["fault"])
    counter = _count_operations(fault.operation)
    _restrict(fault)
    sys.argv = ["autoseg", *request["arguments"]]
    from autoseg.cli.main import main

    code = 0
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # until now it would have met this file, not autoseg
        main()
    except SystemExit as chosen:
        code = chosen.code if isinstance(chosen.code, int) else 0
    except BaseException:  # noqa: BLE001 - what the interpreter itself would do
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with contextlib.suppress(OSError):
        counts.write_text(str(counter[0]))
    os._exit(code)  # taking torch's modules apart would take longer than the command


def _restrict(fault: Fault) -> None:
    import resource

    for name, value in fault.limits.items():
        held = 0
        if name == "AS":  # beyond what the imports took
            held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (held + value, held + value))
    if fault.user is not None:
        os.setgid(fault.user)
        os.setuid(fault.user)


def _count_operations(deadly: int | None) -> list[int]:
    """Count what changes names on the disk; kill this process before or after one of them."""
    counter = [0]

    def watched(name: str) -> None:
        original = getattr(os, name)

        def operation(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - whatever os takes
            number, counter[0] = counter[0], counter[0] + 1
            if deadly == 2 * number:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return original(*arguments, **options)
            finally:
                if deadly == 2 * number + 1:
                    os.kill(os.getpid(), signal.SIGKILL)

        setattr(os, name, operation)

    for name in ("fsync", "replace", "rename", "unlink", "mkdir"):
        watched(name)
    return counter


def _watch(child: int, fault: Fault, limit: float) -> dict[str, Any]:
    started = time.monotonic()
    sent, is_hung, status = None, False, None
    while status is None:
        ended, found = os.waitpid(child, os.WNOHANG)
        now = time.monotonic() - started
        if ended:
            status = found
        elif fault.after is not None and sent is None and now >= fault.after:
            sent = now if _send(child, fault) else None
            if sent is None and fault.whom != "worker":
                sent = now
        elif now > limit:
            is_hung = True
            os.killpg(child, signal.SIGKILL)
        else:
            time.sleep(0.001)
    seconds = time.monotonic() - started
    return {
        "code": os.waitstatus_to_exitcode(status),
        "seconds": seconds,
        "answered": 0.0 if sent is None else seconds - sent,
        "was_hit": sent is not None or os.waitstatus_to_exitcode(status) == -signal.SIGKILL,
        "is_hung": is_hung,
        "orphans": _end_orphans(child),
    }


def _send(child: int, fault: Fault) -> bool:
    try:
        if fault.whom == "group":
            os.killpg(child, fault.signal)
        elif fault.whom == "main":
            os.kill(child, fault.signal)
        else:
            workers = _workers(child)
            if not workers:
                return False  # not started yet, or all done: looked for again
            os.kill(workers[-1], fault.signal)
    except ProcessLookupError:
        return False
    return True


def _workers(parent: int) -> list[int]:
    """Descendants, the youngest last; multiprocessing's resource tracker is none that computes."""
    processes, found = _processes(), [parent]
    for above in found:  # grows: workers may be children of a server process
        found += [process for process, of, _, words in processes if of == above and "resource_tracker" not in words]
    return sorted(found[1:])


def _end_orphans(session: int) -> int:
    """Processes of a session that live on after some seconds; they are ended then."""
    deadline = time.monotonic() + _ORPHANS_SECONDS
    while True:
        left = [process for process, _, of, words in _processes() if of == session and "resource_tracker" not in words]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    for process in left:
        os.kill(process, signal.SIGKILL)
    return len(left)


def _processes() -> list[tuple[int, int, int, str]]:
    """Number, parent, session and command line of every living process."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            words = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if fields[0] not in ("Z", "X"):
            found.append((int(folder.name), int(fields[1]), int(fields[3]), words))
    return found


if __name__ == "__main__":
    _serve()
