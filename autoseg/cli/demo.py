"""autoseg demo: the whole way on a small synthetic dataset, each step shown as the command one would type."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.app import command
from autoseg.cli.console import ConsoleProgress, messages, output
from autoseg.cli.options import Device
from autoseg.durations import parse_duration

Folder = Annotated[Path, typer.Option("--workspace", "-w", help="Folder for the demo's dataset and results.")]
Budget = Annotated[str, typer.Option(help="Wall time of training.")]


@command("demo")
def demo(folder: Folder = Path("demo"), time_budget: Budget = "90s", device: Device = "auto") -> None:
    """Make a small dataset, then plan, train, predict and score on it: about two minutes on two CPU cores."""
    seconds, started = parse_duration(time_budget), time.perf_counter()
    dataset, workspace, progress = folder / "dataset", folder / "workspace", ConsoleProgress()
    from autoseg.cli.evaluate import show_evaluation
    from autoseg.pipeline.pictures import draw_prediction
    from autoseg.synthetic import write_synthetic_dataset

    _say(f"a synthetic dataset of thick and thin slices, with an organ and a small lesion: {dataset}")
    write_synthetic_dataset(dataset)
    _say(f"autoseg plan-and-preprocess {dataset} -w {workspace}")
    from autoseg.pipeline.prepare import plan_and_preprocess

    plan_and_preprocess(dataset, workspace=workspace, progress=progress)
    _say(f"autoseg train 3d_fullres fold0 -w {workspace} --time-budget {time_budget}")
    from autoseg.pipeline.train import train
    from autoseg.training_config import TrainingConfig
    from autoseg.workspace import Workspace

    found = Workspace.discover(workspace)
    report = train(found, "3d_fullres", 0, config=TrainingConfig(time_budget=seconds), device=device, progress=progress)
    messages.print(report.summary(), markup=False, highlight=False)
    _say(f"autoseg ensemble-predict -w {workspace}")
    from autoseg.pipeline.predict import ensemble_predict

    predicted = ensemble_predict(found, device=device, progress=progress)
    _say(f"autoseg evaluate -r {dataset / 'labelsTs'} -p {predicted.output}")
    from autoseg.evaluation.folder import evaluate_folder

    evaluation = evaluate_folder(dataset / "labelsTs", Path(predicted.output))
    show_evaluation(evaluation)
    picture = draw_prediction(found, found.reports_dir / "overlay.png")
    output.print(
        f"done in {time.perf_counter() - started:.0f} s\n"
        f"segmentations: {predicted.output}\n"
        f"scores of the held-out cases: {report.results / 'validation' / 'scores.json'}\n"
        f"training curves: {report.results / 'progress.png'}\n"
        f"picture: {picture}",
        markup=False,
        highlight=False,
    )


def _say(text: str) -> None:
    messages.print(f"\n$ {text}" if text.startswith("autoseg") else f"\n{text}", style="bold", markup=False)
