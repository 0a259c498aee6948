"""Damaged files and inputs, and commands besides the three."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from crashing import Fault
from laboratory import Finding, Laboratory, ending, is_one_sentence
from scenario import differences


def damaged_files(lab: Laboratory, rng: random.Random, *, most: int | None = None) -> Iterator[Finding]:
    """Every file of a finished workspace truncated, with a flipped bit, emptied, or replaced by another of its kind."""
    result = lab.scenario.result(2)
    names = sorted(path.relative_to(result).as_posix() for path in result.rglob("*") if path.is_file())
    tries = [
        (name, how)
        for name in names
        if _maker(name) is not None or _is_report(name)
        for how in ("truncated", "flipped", "foreign")
    ]
    rng.shuffle(tries)
    for name, how in tries[:most]:
        lab.scenario.put_back(result)
        _damage(lab.scenario.workspace / name, how, rng)
        if _is_report(name):
            yield _damaged_report(lab, name, how)
            continue
        number = _maker(name)
        assert number is not None
        step = lab.scenario.steps()[number]
        run = lab.server.run(step.name, *step.arguments)
        wrong = ""
        if run.code == 0 and "was edited since" not in run.text:
            wrong = "; ".join(differences(result, lab.scenario.workspace))
        elif (
            run.code not in (0, 2)
            or not is_one_sentence(run)
            or (run.code == 2 and Path(name).name.split(".")[0] not in run.text)
        ):
            wrong = ending(run)
        yield Finding(kind=f"{how} file", where=name, wrong=wrong, is_hung=run.is_hung)


def _is_report(name: str) -> bool:
    """Whether a file is for people: no command reads it, so only a look through the workspace can find it damaged."""
    return name.startswith("reports/") and not name.endswith(".png") and "/." not in name


def _damaged_report(lab: Laboratory, name: str, how: str) -> Finding:
    """Doctor must name it, and what doctor says must make it again."""
    place = ("-w", lab.scenario.workspace)
    seen, again = lab.server.run("doctor", *place), lab.server.run("select", *place)
    wrong = "; ".join(differences(lab.scenario.result(2), lab.scenario.workspace))
    if again.code != 0:
        wrong = ending(again)
    if seen.code != 0 or Path(name).name not in seen.text or "autoseg select" not in seen.text:
        wrong = f"not noticed: {ending(seen)}"
    return Finding(kind=f"{how} file", where=name, wrong=wrong, is_hung=seen.is_hung or again.is_hung)


def other_commands(lab: Laboratory) -> Iterator[Finding]:
    """Ctrl-C and SIGKILL in commands besides the three: the same command again ends as if nothing had happened."""
    scenario, place = lab.scenario, ("-w", lab.scenario.workspace)
    validation = scenario.workspace / "results" / "3d_fullres" / "fold0" / "validation"
    commands: tuple[tuple[str | Path, ...], ...] = (
        ("check", scenario.dataset, "-o", scenario.workspace / "check_again.json"),
        ("doctor", *place, "--verify"),
        ("select", *place),
        ("report", "3d_fullres", *place),
        ("gap", "3d_fullres", "fold0", *place),
        ("export", scenario.workspace / "model.zip", *place),
        ("evaluate", "-r", scenario.dataset / "labelsTr", "-p", validation, "-o", scenario.workspace / "scores.json"),
    )
    for words in commands:
        scenario.put_back(scenario.result(2))
        whole = lab.server.run(*words)
        expected = scenario.root / f"after_{words[0]}"
        shutil.copytree(scenario.workspace, expected)
        if whole.code not in (0, 1):
            yield Finding(kind="other commands", where=str(words[0]), wrong=ending(whole))
            continue
        for share, number, whom in (
            (0.2, signal.SIGINT, "group"),
            (0.5, signal.SIGINT, "main"),
            (0.8, signal.SIGINT, "group"),
            (0.3, signal.SIGKILL, "main"),
            (0.6, signal.SIGKILL, "group"),
            (0.9, signal.SIGKILL, "main"),
        ):
            scenario.put_back(scenario.result(2))
            fault = Fault(after=share * whole.seconds, signal=number, whom=whom)
            struck, again = lab.server.run(*words, fault=fault), lab.server.run(*words)
            wrong = "; ".join(differences(expected, scenario.workspace))
            if again.code != whole.code:
                wrong = f"resume: {ending(again)}"
            if struck.code not in (0, 1, 130, -number) or "Traceback" in struck.text or struck.orphans:
                wrong = f"{struck.orphans} orphans, {ending(struck)}"
            kind = "Ctrl-C, other commands" if number == signal.SIGINT else "SIGKILL, other commands"
            is_hung = struck.is_hung or again.is_hung
            where = f"{words[0]} at {share:.0%} ({whom})"
            yield Finding(kind=kind, where=where, wrong=wrong, is_hung=is_hung, answered=struck.answered)
        shutil.rmtree(expected)


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
            wrong = "" if run.code == 2 and is_one_sentence(run) and is_named else ending(run)
            yield Finding(kind=f"{how} input", where=name, wrong=wrong, is_hung=run.is_hung)


def _maker(name: str) -> int | None:
    """Number of the command that makes, or uses first, a file; None for what nobody reads again."""
    if name.endswith(
        (".png", "check.json", "prediction.json", "checkpoint_best.pt", "checkpoint_last.pt", "forecast.json")
    ):
        return None
    if name.startswith("reports/"):
        return None
    if "/.autoseg/cases/" in name:  # times and warnings for prediction.json; a damaged one is left out of it
        return None
    for number, parts in enumerate(
        ((".autoseg/", "preprocessed", "plan.", "splits", "finger", "workspace."), ("results",))
    ):
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
