"""Faults of every kind against the three commands, each followed by a resume that must end in the same results.

``make test-faults`` runs all of them and prints the report of docs/reliability.md; ``make test`` runs a few.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from queue import SimpleQueue

from crashing import Fault, Server
from damage import damaged_files, damaged_inputs, other_commands
from laboratory import Finding, Laboratory, ending, with_one_sentence
from scenario import prepare


def kills_by_time(lab: Laboratory, number: int, count: int, rng: random.Random) -> Iterator[Finding]:
    """SIGKILL in each of ``count`` equal parts of a command's duration; every third time with worker processes."""
    name = lab.scenario.steps()[number].name
    durations = {0: lab.undisturbed[number].seconds}
    for part in range(count):
        workers = 1 if part % 6 == 5 else 0
        if workers not in durations:
            durations[workers] = lab.strike(number, Fault(), workers=workers).seconds
        share = (part + rng.random()) / count
        whom = "group" if rng.random() < 0.5 else "main"
        struck = lab.strike(number, Fault(after=share * durations[workers], whom=whom), workers=workers)
        while struck.code == 0:  # it was quicker this time
            share *= 0.9
            durations[workers] = struck.seconds
            struck = lab.strike(number, Fault(after=share * struck.seconds, whom=whom), workers=workers)
        durations[workers] += 0.2 * (max(durations[workers], struck.seconds) - durations[workers])
        where = f"{name} at {share:.0%} ({whom}, --workers {workers})"
        yield lab.resume(number, "SIGKILL at a moment", where, struck, workers=workers)


def kills_by_operation(lab: Laboratory, number: int, count: int) -> Iterator[Finding]:
    """SIGKILL right before and right after file operations: fsync, rename, unlink, mkdir."""
    name, total = lab.scenario.steps()[number].name, 2 * lab.undisturbed[number].operations
    for operation in sorted({index * total // count for index in range(count)}):
        struck = lab.strike(number, Fault(operation=operation))
        where = f"{name}, {'after' if operation % 2 else 'before'} file operation {operation // 2} of {total // 2}"
        if struck.code != -signal.SIGKILL:
            yield Finding(kind="SIGKILL at a file operation", where=where, wrong=f"not killed: {ending(struck)}")
            continue
        yield lab.resume(number, "SIGKILL at a file operation", where, struck)


def interrupts(lab: Laboratory, number: int, count: int, *, workers: int) -> Iterator[Finding]:
    """Ctrl-C, as the terminal sends it to all processes and as ``kill -INT`` sends it to one."""
    name, duration = lab.scenario.steps()[number].name, lab.undisturbed[number].seconds
    for index in range(count):
        share, whom = (index + 0.5) / count, ("group", "main")[index % 2]
        fault = Fault(after=share * duration, signal=signal.SIGINT, whom=whom)
        struck = lab.strike(number, fault, workers=workers)
        where = f"{name} at {share:.0%} ({whom}, --workers {workers})"
        finding = lab.resume(number, "Ctrl-C", where, struck, workers=workers)
        if struck.code not in (0, 130, -signal.SIGINT) or "Traceback" in struck.text:
            finding = replace(finding, wrong=f"{ending(struck)}; {finding.wrong}")
        yield finding


def killed_workers(lab: Laboratory, number: int, count: int) -> Iterator[Finding]:
    """SIGKILL to a worker process: the command goes on without it, or ends at once with one sentence."""
    name, duration = lab.scenario.steps()[number].name, lab.undisturbed[number].seconds
    for index in range(count):
        fault = Fault(after=(index + 0.5) / count * duration, whom="worker")
        struck = lab.strike(number, fault, workers=2)
        where = f"{name}, worker killed at about {(index + 0.5) / count:.0%}"
        finding = lab.resume(number, "worker killed", where, struck, workers=0)
        if struck.code not in (0, 2) or "Traceback" in struck.text or (struck.code and "SIGKILL" not in struck.text):
            finding = replace(finding, wrong=f"{ending(struck)}; {finding.wrong}")
        if struck.code and struck.answered > 10:
            finding = replace(finding, is_hung=True)
        yield finding


def starvation(lab: Laboratory, number: int, limits: list[dict[str, int]]) -> Iterator[Finding]:
    """Limits on file size (what a full quota looks like) and on memory."""
    name = lab.scenario.steps()[number].name
    for limit in limits:
        struck = lab.strike(number, Fault(limits=limit))
        where = f"{name} with {', '.join(f'{key} {value}' for key, value in limit.items())}"
        finding = lab.resume(number, "resource limit", where, struck)
        # Libraries add words of their own when memory is short; autoseg's are the last.
        is_told = struck.code in (0, 2) and (struck.code == 0 or struck.text.count("Error: ") >= 1)
        yield finding if "AS" in limit and is_told else with_one_sentence(finding, struck)


def full_disks(lab: Laboratory, number: int, sizes_kb: list[int]) -> Iterator[Finding]:
    """The workspace on a file system of its own that is too small; then it is given more room."""
    name, workspace = lab.scenario.steps()[number].name, lab.scenario.workspace
    step = lab.scenario.steps()[number]
    for size in sizes_kb:
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir()
        with _small_disk(workspace) as resize:
            if lab.scenario.state(number).is_dir():
                shutil.copytree(lab.scenario.state(number), workspace, dirs_exist_ok=True)
            used = shutil.disk_usage(workspace).used // 1024
            resize(used + size)
            struck = lab.server.run(step.name, *step.arguments)
            resize(100_000)
            finding = lab.resume(number, "disk full", f"{name} with {size} kB free", struck)
            yield with_one_sentence(finding, struck)


def read_only(lab: Laboratory) -> Iterator[Finding]:
    """A workspace that may not be written to, for root by a mount and else by its modes."""
    for number, step in enumerate(lab.scenario.steps()):
        lab.scenario.put_back(lab.scenario.state(number))
        lab.scenario.workspace.mkdir(exist_ok=True)
        with _read_only(lab.scenario.workspace):
            struck = lab.server.run(step.name, *step.arguments)
        finding = lab.resume(number, "read-only workspace", step.name, struck)
        finding = with_one_sentence(finding, struck)
        yield finding if struck.code == 2 else replace(finding, wrong=f"{ending(struck)}; {finding.wrong}")
    lab.scenario.put_back(lab.scenario.state(0))
    with _read_only(lab.scenario.dataset):
        step = lab.scenario.steps()[0]
        struck = lab.server.run(step.name, *step.arguments)
    finding = lab.resume(0, "read-only dataset", step.name, struck)
    yield finding if struck.code == 0 else replace(finding, wrong=ending(struck))


@contextmanager
def _small_disk(folder: Path) -> Iterator[Callable[[int], None]]:
    """A tmpfs of its own on a folder; needs root."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100000k", "none", str(folder)], check=True)

    def resize(kilobytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(folder)], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def can_mount() -> bool:
    """Whether file systems can be mounted here."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "none", folder], capture_output=True, check=False)
        if mounted.returncode == 0:
            subprocess.run(["umount", folder], check=True)
    return mounted.returncode == 0


def part_of(lab: Laboratory, part: int, kills: int, seed: int) -> Iterator[Finding]:
    """One of the parts that the campaign is made of; the first three are the kills spread over durations."""
    rng = random.Random(f"{seed} {part}")
    if part < 3:
        yield from kills_by_time(lab, part, round(kills * (0.4, 0.3, 0.3)[part]), rng)
    elif part == 3:
        for number in range(3):
            yield from kills_by_operation(lab, number, 24)
        for number in (0, 1):
            yield from killed_workers(lab, number, 5)
    elif part == 4:
        for number in range(3):
            yield from interrupts(lab, number, 4, workers=0)
            yield from interrupts(lab, number, 2, workers=1)
        for number, memory in enumerate((1 << 20, 1 << 24, 1 << 24)):
            sizes = [{"FSIZE": size} for size in (1500, 3000, 6000, 12_000, 30_000)]
            yield from starvation(lab, number, [*sizes, {"AS": memory}, {"AS": 4 * memory}])
        if can_mount():
            for number in range(3):
                yield from full_disks(lab, number, [4, 8, 20, 40, 80, 160])
            yield from read_only(lab)
    elif part == 5:
        yield from other_commands(lab)
        yield from damaged_inputs(lab, rng)
    else:
        yield from damaged_files(lab, rng)


PARTS = 7


def report(findings: list[Finding], *, kills: int, seed: int, seconds: float) -> str:
    """The table of docs/reliability.md."""
    kinds = sorted({finding.kind for finding in findings})
    lines = [
        f"Seed {seed}, {kills} kills spread over the durations, {len(findings)} faults in all, "
        f"{seconds / 60:.0f} minutes.",
        "",
        "| fault | tried | wrong results | work lost | hangs |",
        "|---|---|---|---|---|",
    ]
    for kind in [*kinds, "all"]:
        some = [finding for finding in findings if kind in ("all", finding.kind)]
        counts = (sum(bool(f.wrong) for f in some), sum(bool(f.lost) for f in some), sum(f.is_hung for f in some))
        lines.append(f"| {kind} | {len(some)} | {' | '.join(str(c) if c else 'none' for c in counts)} |")
    answers = [f.answered for f in findings if f.kind.startswith("Ctrl-C") or f.kind == "worker killed"]
    if answers:
        lines += ["", f"From Ctrl-C, or a worker's death, to the end of the command: at most {max(answers):.1f} s."]
    return "\n".join(lines)


def run_part(part: int, kills: int, seed: int) -> None:
    """Run one part; every finding is a line of JSON on standard output."""
    memory = Path("/dev/shm")  # flushing to a disk takes longer than everything else
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        Server(Path(folder) / "log") as server,
    ):
        scenario, runs = prepare(Path(folder), server)
        lab = Laboratory(scenario=scenario, server=server, undisturbed=tuple(runs))
        for finding in part_of(lab, part, kills, seed):
            print(json.dumps(asdict(finding)), flush=True)


def gather(parts: Sequence[int], kills: int, seed: int, jobs: int) -> Iterator[Finding]:
    """Findings of all parts, as they come; so many parts run side by side, each in a process and a folder of its own.

    Raises:
        RuntimeError: When a part ends before it is through.
    """
    queue: SimpleQueue[Finding | RuntimeError | None] = SimpleQueue()

    def follow(part: int) -> None:
        command = [sys.executable, __file__, "--part", str(part), "--kills", str(kills), "--seed", str(seed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                queue.put(Finding(**json.loads(line)))
        queue.put(RuntimeError(f"part {part} ended with {process.returncode}") if process.returncode else None)

    with ThreadPoolExecutor(jobs) as pool:
        for part in parts:
            pool.submit(follow, part)
        running = len(parts)
        while running:
            found = queue.get()
            if isinstance(found, RuntimeError):
                raise found
            if found is None:
                running -= 1
            else:
                yield found


def main() -> int:
    """Run the campaign and print its report; the exit code is 1 if anything was wrong, lost or hung."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs spread over the durations of the commands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", help=f"only some of the parts 0 to {PARTS - 1}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="parts that run side by side")
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        run_part(options.part, options.kills, options.seed)
        return 0
    findings, started = list[Finding](), time.monotonic()
    # The longest first: steps that train, then the many files.
    for finding in gather(options.only or (1, 6, 0, 2, 3, 4, 5), options.kills, options.seed, options.jobs):
        findings.append(finding)
        bad = finding.wrong or finding.lost or ("hung" if finding.is_hung else "")
        print(f"{len(findings):4d} {finding.kind}: {finding.where}: {bad or 'ok'}", file=sys.stderr, flush=True)
    print(report(findings, kills=options.kills, seed=options.seed, seconds=time.monotonic() - started))
    return int(any(f.wrong or f.lost or f.is_hung for f in findings))


if __name__ == "__main__":
    sys.exit(main())
