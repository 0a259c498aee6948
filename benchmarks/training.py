"""What fifteen minutes of training are worth: autoseg and nnU-Net on fold 0, scored on its held-out cases at full size.

    python benchmarks/training.py DATASET --peer-python PEER/bin/python --minutes 15 --seeds 0 1 2

DATASET is in nnU-Net's raw format; PEER is an environment with nnunetv2. Three methods take turns, seed by seed:

- autoseg: ``autoseg train 3d_fullres fold0 --time-budget``;
- nnunet_stopped: nnU-Net's trainer as it is, stopped when the time is up;
- nnunet_fitted: nnU-Net with as many epochs as the time allows, by the speed of the stopped run of the same seed.

All get two threads and one loader process, the same split, the same time from the first batch on, and are scored by
``autoseg evaluate`` after their own full-size prediction of the held-out cases. Each run leaves a file in the scratch
folder as soon as it is done; a repeated command takes finished runs from there. Ends with a table and a picture.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from preprocessing import DATASET_ID, prepare_peer

from autoseg.figures.canvas import save_picture
from autoseg.history import read_rows
from autoseg.splits import read_splits

METHODS = {
    "autoseg": "autoseg, its budget",
    "nnunet_stopped": "nnU-Net, stopped",
    "nnunet_fitted": "nnU-Net, schedule fitted",
}
COLORS = {"autoseg": "tab:blue", "nnunet_stopped": "tab:gray", "nnunet_fitted": "tab:orange"}
VALIDATION_COST = 0.35  # of a training step, until it was measured
SMOOTHED = 25  # steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training.

    Args:
        method: One of METHODS.
        seed: Its seed.
        budget: Seconds it was given.
        train_seconds: Seconds it took, from its first batch to the end of training.
        total_seconds: Seconds of the whole command, held-out prediction included.
        iterations: Optimizer steps.
        dice: Label -> mean Dice over the held-out cases.
        mean_dice: Mean over labels.
        curve_seconds, curve_loss: The training loss over time.
        step_seconds: Seconds per step without validation passes.
        validation_step_seconds: Seconds per validation batch; None where there was none.
        note: Network and schedule.
    """

    method: str
    seed: int
    budget: float
    train_seconds: float
    total_seconds: float
    iterations: int
    dice: dict[str, float]
    mean_dice: float
    curve_seconds: list[float]
    curve_loss: list[float]
    step_seconds: float
    validation_step_seconds: float | None
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where everything lies, and how long a run may take."""

    dataset: Path
    peer_python: Path
    scratch: Path
    budget: float
    threads: int

    @property
    def references(self) -> Path:
        return self.scratch / "references"

    def record(self, method: str, seed: int) -> Path:
        return self.scratch / "runs" / f"{method}_seed{seed}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", type=Path, default=Path("benchmark_scratch/training"))
    parser.add_argument("--figure", type=Path, default=Path("docs/images/training_curves.png"))
    arguments = parser.parse_args()
    setting = Setting(
        dataset=arguments.dataset.resolve(),
        peer_python=arguments.peer_python.absolute(),
        scratch=arguments.scratch.resolve() / f"{arguments.minutes:g}m",
        budget=60 * arguments.minutes,
        threads=arguments.threads,
    )
    environment = prepare(setting)
    runs = []
    for seed in arguments.seeds:
        for method in METHODS:  # the fitted run needs the stopped one
            if method in arguments.methods:
                runs.append(take(setting, environment, method, seed))
                print(in_words(runs[-1]), flush=True)
    print(table(runs))
    draw(runs, arguments.figure)
    print(f"curves: {arguments.figure}")


def prepare(setting: Setting) -> dict[str, str]:
    """Plan and preprocess with both programs, once; collect the references of the held-out cases."""
    peer, done = setting.scratch / "peer", setting.scratch / "prepared"
    names = {f"nnUNet_{part}": str(peer / part) for part in ("raw", "preprocessed", "results")}
    environment = {**os.environ, **names, "nnUNet_n_proc_DA": "1", "OMP_NUM_THREADS": str(setting.threads)}
    if done.is_file():
        return environment
    environment |= {key: value for key, value in prepare_peer(setting.dataset, peer).items() if key in names}
    program = (
        "from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry as run"
    )
    words = ["-d", str(DATASET_ID), "-npfp", "2", "-np", "2", "-c", "3d_fullres"]
    call([setting.peer_python, "-c", f"{program}; run()", *words], environment)
    workspace = setting.scratch / "planned"
    autoseg("plan-and-preprocess", setting.dataset, "-w", workspace, "--gpu-memory", "8", environment=environment)
    setting.references.mkdir(exist_ok=True)
    ending = json.loads((setting.dataset / "dataset.json").read_text())["file_ending"]
    for case in read_splits(workspace / "splits.json")[0].val:
        shutil.copy(setting.dataset / "labelsTr" / f"{case}{ending}", setting.references)
    shutil.copy(setting.dataset / "dataset.json", setting.scratch)
    done.touch()
    return environment


def take(setting: Setting, environment: dict[str, str], method: str, seed: int) -> Run:
    """The run's record, or the run."""
    path = setting.record(method, seed)
    if path.is_file():
        return Run(**json.loads(path.read_text()))
    if method == "autoseg":
        run = run_autoseg(setting, environment, seed)
    else:
        run = run_peer(setting, environment, method, seed)
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(asdict(run)))
    temporary.replace(path)
    return run


def run_autoseg(setting: Setting, environment: dict[str, str], seed: int) -> Run:
    workspace = setting.scratch / f"autoseg_seed{seed}"
    if not workspace.is_dir():
        shutil.copytree(setting.scratch / "planned", workspace)
    words = ["--time-budget", f"{setting.budget:.0f}s", "--seed", str(seed), "--device", "cpu", "--workers", "1"]
    started = time.perf_counter()
    autoseg("train", "3d_fullres", "fold0", "-w", workspace, *words, environment=environment)
    seconds = time.perf_counter() - started
    fold = workspace / "results" / "3d_fullres" / "fold0"
    rows = read_rows(fold / "log.csv")
    record = json.loads((fold.parent / "run.json").read_text())
    dice, mean = score(setting, fold / "validation", environment)
    network = record["configuration"]
    return Run(
        method="autoseg",
        seed=seed,
        budget=setting.budget,
        train_seconds=rows[-1].seconds,
        total_seconds=seconds,
        iterations=rows[-1].iterations,
        dice=dice,
        mean_dice=mean,
        curve_seconds=[row.seconds for row in rows],
        curve_loss=[row.train_loss for row in rows],
        step_seconds=rows[-1].seconds / rows[-1].iterations,
        validation_step_seconds=None,
        note=f"{network['network']['features'][0]} features, batch {network['batch_size']}, {record['optimizer']}, "
        f"{record['precision']}",
    )


def run_peer(setting: Setting, environment: dict[str, str], method: str, seed: int) -> Run:
    results = setting.scratch / "peer" / "results" / f"{method}_seed{seed}"
    shutil.rmtree(results, ignore_errors=True)  # nnU-Net resumes only what it finished
    environment = {**environment, "nnUNet_results": str(results)}
    preprocessed = Path(environment["nnUNet_preprocessed"]) / f"Dataset{DATASET_ID}_Benchmark"
    report_path = setting.scratch / f"{method}_seed{seed}.report.json"
    words = ["--budget", str(setting.budget), "--seed", str(seed), "--threads", str(setting.threads)]
    if method == "nnunet_fitted":
        words += ["--iterations", str(affordable(take(setting, environment, "nnunet_stopped", seed)))]
    script = Path(__file__).with_name("peer_training.py")
    started = time.perf_counter()
    call([setting.peer_python, script, preprocessed, report_path, *words], environment)
    seconds = time.perf_counter() - started
    report = json.loads(report_path.read_text())
    dice, mean = score(setting, Path(report["validation"]), environment)
    return Run(
        method=method,
        seed=seed,
        budget=setting.budget,
        train_seconds=report["train_seconds"],
        total_seconds=seconds,
        iterations=report["iterations"],
        dice=dice,
        mean_dice=mean,
        curve_seconds=report["loss_seconds"],
        curve_loss=report["losses"],
        step_seconds=report["loop_seconds"],
        validation_step_seconds=report["validation_step_seconds"],
        note=f"{report['num_epochs']} epochs of {report['iterations_per_epoch']} iterations planned, learning rate at "
        f"the end {report['last_learning_rate']:.1e}",
    )


def affordable(stopped: Run) -> int:
    """Steps that fit with their validation passes: nnU-Net validates 50 batches per 250 steps."""
    validation = stopped.validation_step_seconds or VALIDATION_COST * stopped.step_seconds
    return max(1, int(stopped.budget / (stopped.step_seconds + 0.2 * validation)))


def score(setting: Setting, predictions: Path, environment: dict[str, str]) -> tuple[dict[str, float], float]:
    path = predictions.parent / "benchmark_scores.json"
    autoseg("evaluate", "-r", setting.references, "-p", predictions, "-o", path, environment=environment)
    scores = json.loads(path.read_text())
    return {label: metrics["dice"] for label, metrics in scores["labels"].items()}, scores["mean"]["dice"]


def autoseg(*words: str | Path, environment: dict[str, str]) -> None:
    call([sys.executable, "-m", "autoseg", *words], environment)


def call(words: Sequence[str | Path], environment: dict[str, str]) -> None:
    done = subprocess.run([str(word) for word in words], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")


def in_words(run: Run) -> str:
    labels = ", ".join(f"{label} {dice:.3f}" for label, dice in run.dice.items())
    return (
        f"{run.method} seed {run.seed}: held-out Dice {run.mean_dice:.3f} ({labels}) after {run.iterations} iterations "
        f"in {run.train_seconds:.0f} s, {run.total_seconds:.0f} s with prediction; {run.note}"
    )


def table(runs: Sequence[Run]) -> str:
    """For docs/benchmarks.md."""
    lines = ["", "| method | held-out Dice per seed | mean | iterations | training, s | with prediction, s |"]
    lines.append("|---|---|---|---|---|---|")
    for method, name in METHODS.items():
        own = [run for run in runs if run.method == method]
        if own:
            dice = [run.mean_dice for run in own]
            columns = [
                listing(dice, ".3f"),
                f"{np.mean(dice):.3f}",
                listing([run.iterations for run in own], "d"),
                listing([run.train_seconds for run in own], ".0f"),
                listing([run.total_seconds for run in own], ".0f"),
            ]
            lines.append(f"| {name} | {' | '.join(columns)} |")
    return "\n".join(lines)


def listing(values: Sequence[float], form: str) -> str:
    return ", ".join(f"{value:{form}}" for value in values)


def draw(runs: Sequence[Run], path: Path) -> None:
    """Training loss over time, and the Dice that came of it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    curves, scores = figure.subplots(1, 2, width_ratios=(2, 1))
    for run in runs:
        seconds, losses = np.asarray(run.curve_seconds), np.asarray(run.curve_loss)
        if run.method != "autoseg" and len(losses) > SMOOTHED:  # autoseg's are means over an epoch
            losses = np.convolve(losses, np.full(SMOOTHED, 1 / SMOOTHED), mode="valid")
            seconds = seconds[SMOOTHED - 1 :]
        label = METHODS[run.method] if run.seed == runs[0].seed else None
        curves.plot(seconds / 60, losses, color=COLORS[run.method], linewidth=1.2, label=label)
    curves.set_xlabel("minutes")
    curves.set_ylabel("training loss (-1 at best)")
    curves.legend(frameon=False, fontsize=8)
    for place, method in enumerate(METHODS):
        own = [run.mean_dice for run in runs if run.method == method]
        scores.plot([place] * len(own), own, "o", color=COLORS[method])
    scores.set_xticks(range(len(METHODS)), [name.replace(", ", ",\n") for name in METHODS.values()], fontsize=7)
    scores.set_xlim(-0.5, len(METHODS) - 0.5)
    scores.set_ylabel("held-out Dice, full size")
    for axes in (curves, scores):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(figure, path)


if __name__ == "__main__":
    main()
