"""Faults of every kind against the three commands, each followed by a resume that must end in the same results.

``make test-faults`` runs all of them and prints the report of docs/reliability.md; ``make test`` runs a few.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from crashing import Fault, Run, Server
from scenario import Scenario, differences, finished_units, prepare, steps_taken

TRAIN = 1  # number of the step that takes optimizer steps
NOBODY = 65534


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault and what came of it.

    Args:
        kind: What was done.
        where: Which command, and at which moment or to which file.
        wrong: What was wrong afterwards; empty if nothing.
        lost: Finished work that was done again; empty if none.
        is_hung: Whether something had to be ended from outside.
        answered: Seconds from the signal to the end of the command.
    """

    kind: str
    where: str
    wrong: str = ""
    lost: str = ""
    is_hung: bool = False
    answered: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Laboratory:
    """A scenario whose commands were run undisturbed once, and the server that runs them again."""

    scenario: Scenario
    server: Server
    undisturbed: tuple[Run, ...]

    def strike(self, number: int, fault: Fault, *, workers: int = 0) -> Run:
        """Run a step from its beginning, with a fault."""
        self.scenario.put_back(self.scenario.state(number))
        step = self.scenario.steps(workers=workers)[number]
        return self.server.run(step.name, *step.arguments, fault=fault)

    def resume(self, number: int, kind: str, where: str, struck: Run, *, workers: int = 0) -> Finding:
        """Repeat the command as a user would, and compare with the undisturbed results."""
        finding = Finding(kind=kind, where=where, is_hung=struck.is_hung, answered=struck.answered)
        if struck.orphans:
            return replace(finding, wrong=f"{struck.orphans} processes outlived the command")
        workspace = self.scenario.workspace
        before, steps = finished_units(workspace), steps_taken(workspace) if number == TRAIN else 0
        step = self.scenario.steps(workers=workers)[number]
        again = self.server.run(step.name, *step.arguments)
        if again.is_hung or again.code != 0:
            return replace(finding, wrong=f"resume: {_ending(again)}", is_hung=again.is_hung)
        after, lost = finished_units(workspace), ""
        if repeated := [name for name, state in before.items() if after.get(name) != state]:
            lost = f"{repeated[0]} was made again"
        if number == TRAIN and steps and not _went_on(again, steps):
            lost = f"{steps} optimizer steps were taken again"
        return replace(finding, wrong="; ".join(differences(self.expected(number), workspace)), lost=lost)

    def expected(self, number: int) -> Path:
        return self.scenario.result(number)


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
            yield Finding(kind="SIGKILL at a file operation", where=where, wrong=f"not killed: {_ending(struck)}")
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
            finding = replace(finding, wrong=f"{_ending(struck)}; {finding.wrong}")
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
            finding = replace(finding, wrong=f"{_ending(struck)}; {finding.wrong}")
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
        yield finding if "AS" in limit and is_told else _with_one_sentence(finding, struck)


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
            yield _with_one_sentence(finding, struck)


def damaged_files(lab: Laboratory, rng: random.Random, *, most: int | None = None) -> Iterator[Finding]:
    """Every file of a finished workspace truncated, with a flipped bit, emptied, or replaced by another of its kind."""
    result = lab.scenario.result(2)
    names = sorted(path.relative_to(result).as_posix() for path in result.rglob("*") if path.is_file())
    tries = [(name, how) for name in names if _maker(name) is not None for how in ("truncated", "flipped", "foreign")]
    rng.shuffle(tries)
    for name, how in tries[:most]:
        lab.scenario.put_back(result)
        _damage(lab.scenario.workspace / name, how, rng)
        number = _maker(name)
        assert number is not None
        step = lab.scenario.steps()[number]
        run = lab.server.run(step.name, *step.arguments)
        wrong = ""
        if run.code == 0 and "was edited since" not in run.text:
            wrong = "; ".join(differences(result, lab.scenario.workspace))
        elif (
            run.code not in (0, 2)
            or not _is_one_sentence(run)
            or (run.code == 2 and Path(name).name.split(".")[0] not in run.text)
        ):
            wrong = _ending(run)
        yield Finding(kind=f"{how} file", where=name, wrong=wrong, is_hung=run.is_hung)


def damaged_inputs(lab: Laboratory, rng: random.Random) -> Iterator[Finding]:
    """Images and labels truncated, emptied, or no images at all: one sentence with the file's name."""
    for name in ("imagesTr/c1_0000.nii.gz", "labelsTr/c2.nii.gz", "dataset.json", "splits_final.json"):
        for how in ("truncated", "flipped", "foreign"):
            path = lab.scenario.dataset / name
            original = path.read_bytes()
            _damage(path, how, rng)
            lab.scenario.put_back(lab.scenario.state(0))
            step = lab.scenario.steps()[0]
            run = lab.server.run(step.name, *step.arguments)
            path.write_bytes(original)
            is_named = Path(name).name in run.text or "c1" in run.text
            wrong = "" if run.code == 2 and _is_one_sentence(run) and is_named else _ending(run)
            yield Finding(kind=f"{how} input", where=name, wrong=wrong, is_hung=run.is_hung)


def read_only(lab: Laboratory) -> Iterator[Finding]:
    """A workspace that may not be written to, for root by a mount and else by its modes."""
    for number, step in enumerate(lab.scenario.steps()):
        lab.scenario.put_back(lab.scenario.state(number))
        lab.scenario.workspace.mkdir(exist_ok=True)
        with _read_only(lab.scenario.workspace):
            struck = lab.server.run(step.name, *step.arguments)
        finding = lab.resume(number, "read-only workspace", step.name, struck)
        finding = _with_one_sentence(finding, struck)
        yield finding if struck.code == 2 else replace(finding, wrong=f"{_ending(struck)}; {finding.wrong}")
    lab.scenario.put_back(lab.scenario.state(0))
    with _read_only(lab.scenario.dataset):
        step = lab.scenario.steps()[0]
        struck = lab.server.run(step.name, *step.arguments)
    finding = lab.resume(0, "read-only dataset", step.name, struck)
    yield finding if struck.code == 0 else replace(finding, wrong=_ending(struck))


def _went_on(run: Run, steps: int) -> bool:
    found = re.search(r"going on after (\d+) iterations", run.text)
    return f": {2 * 2} iterations in" in run.text and (found is None or int(found[1]) == steps)


def _with_one_sentence(finding: Finding, run: Run) -> Finding:
    """A command that could not go on must have said so in one sentence."""
    if run.code in (0, 2) and _is_one_sentence(run):
        return finding
    return replace(finding, wrong=f"{_ending(run)}; {finding.wrong}")


def _is_one_sentence(run: Run) -> bool:
    errors = [line for line in run.text.splitlines() if line.startswith("Error: ")]
    return "Traceback" not in run.text and len(errors) == (1 if run.code else 0)


def _ending(run: Run) -> str:
    return f"exit code {run.code} after {run.seconds:.1f} s: ...{run.text.strip()[-400:]}"


def _maker(name: str) -> int | None:
    """Number of the command that makes, or uses first, a file; None for what nobody reads again."""
    if name.endswith(
        (".png", "check.json", "prediction.json", "checkpoint_best.pt", "checkpoint_last.pt", "forecast.json")
    ):
        return None
    if "/.autoseg/cases/" in name:  # times and warnings for prediction.json; a damaged one is left out of it
        return None
    for number, parts in enumerate((("preprocessed", "plan.", "splits", "finger", "workspace."), ("results",))):
        if name.startswith(parts):
            return number
    return 2


def _damage(path: Path, how: str, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(content[: rng.randrange(len(content))])
    elif how == "flipped":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    else:
        path.write_bytes(b"something else altogether\n" * 3)


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


def everything(lab: Laboratory, kills: int, seed: int, *, only: int | None = None) -> Iterator[Finding]:
    """The whole campaign; without kills, everything else."""
    rng = random.Random(seed)
    for number, share in enumerate((0.4, 0.3, 0.3)):
        if only in (None, number):
            yield from kills_by_time(lab, number, round(kills * share), rng)
    if only is not None:
        return
    for number, count in enumerate((24, 24, 24)):
        yield from kills_by_operation(lab, number, count)
    for number in range(3):
        yield from interrupts(lab, number, 4, workers=0)
        yield from interrupts(lab, number, 2, workers=1)
    for number in (0, 1):
        yield from killed_workers(lab, number, 5)
    for number, memory in enumerate((1 << 20, 1 << 24, 1 << 24)):
        sizes = [{"FSIZE": size} for size in (1500, 3000, 6000, 12_000, 30_000)]
        yield from starvation(lab, number, [*sizes, {"AS": memory}, {"AS": 4 * memory}])
    if can_mount():
        for number in range(3):
            yield from full_disks(lab, number, [4, 8, 20, 40, 80, 160])
        yield from read_only(lab)
    yield from damaged_files(lab, rng)
    yield from damaged_inputs(lab, rng)


def report(findings: list[Finding], *, kills: int, seed: int, seconds: float) -> str:
    """The table of docs/reliability.md."""
    kinds = list(dict.fromkeys(finding.kind for finding in findings))
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
    answers = [f.answered for f in findings if f.kind in ("Ctrl-C", "worker killed")]
    if answers:
        lines += ["", f"From Ctrl-C, or a worker's death, to the end of the command: at most {max(answers):.1f} s."]
    return "\n".join(lines)


def main() -> int:
    """Run the campaign and print its report; the exit code is 1 if anything was wrong, lost or hung."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs spread over the durations of the commands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="only the kills of one command, 0 to 2; --kills 0 is all the rest")
    options = parser.parse_args()
    memory = Path("/dev/shm")  # flushing to a disk takes longer than everything else
    findings, started = list[Finding](), time.monotonic()
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        Server(Path(folder) / "log") as server,
    ):
        scenario, runs = prepare(Path(folder), server)
        lab = Laboratory(scenario=scenario, server=server, undisturbed=tuple(runs))
        for finding in everything(lab, options.kills, options.seed, only=options.only):
            findings.append(finding)
            bad = finding.wrong or finding.lost or ("hung" if finding.is_hung else "")
            print(f"{len(findings):4d} {finding.kind}: {finding.where}: {bad or 'ok'}", file=sys.stderr, flush=True)
    print(report(findings, kills=options.kills, seed=options.seed, seconds=time.monotonic() - started))
    return int(any(f.wrong or f.lost or f.is_hung for f in findings))


if __name__ == "__main__":
    sys.exit(main())
