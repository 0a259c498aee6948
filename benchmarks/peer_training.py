"""Train fold 0 with nnU-Net for a wall time; run by training.py in an environment that holds nnU-Net, not autoseg.

Its trainer is left as it is but for the clock: a step that would begin after the budget is not taken, then nnU-Net's
own final validation follows. With ``--iterations`` the number of epochs is set so that the schedule ends there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

_EPOCHS_WANTED = 10  # fewer would hardly anneal: nnU-Net sets its learning rate once per epoch


class OutOfTime(Exception):  # noqa: N818 - not an error
    """The budget is spent."""


class Clock:
    """Counts steps and keeps what they cost, until the time is up."""

    def __init__(self, trainer: nnUNetTrainer, budget: float) -> None:
        self.budget, self.started = budget, 0.0
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.train_seconds = self.validation_seconds = 0.0
        self.num_validated = 0
        self._train_step, self._validation_step = trainer.train_step, trainer.validation_step

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        self._stop_in_time()
        begun = time.perf_counter()
        answer = self._train_step(batch)
        self.train_seconds += time.perf_counter() - begun
        self.losses.append(float(answer["loss"]))
        self.seconds.append(self.elapsed())
        return answer

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        self._stop_in_time()
        begun = time.perf_counter()
        answer = self._validation_step(batch)
        self.validation_seconds += time.perf_counter() - begun
        self.num_validated += 1
        return answer

    def _stop_in_time(self) -> None:
        if self.elapsed() >= self.budget:
            raise OutOfTime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preprocessed", type=Path, help="nnU-Net's folder of the dataset")
    parser.add_argument("report", type=Path)
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--budget", type=float, required=True, help="seconds")
    parser.add_argument("--iterations", type=int, help="steps in which the schedule is to end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    np.random.seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    plans = json.loads((arguments.preprocessed / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False  # where nnU-Net 2.8 looks for it
    dataset = json.loads((arguments.preprocessed / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, arguments.configuration, 0, dataset, device=torch.device("cpu"))
    if arguments.iterations is not None:
        fit_schedule(trainer, arguments.iterations)
    clock = train(trainer, arguments.budget)
    trained = clock.elapsed()
    trainer.perform_actual_validation(save_probabilities=False)
    report = {
        "train_seconds": trained,
        "iterations": len(clock.losses),
        "num_epochs": trainer.num_epochs,
        "iterations_per_epoch": trainer.num_iterations_per_epoch,
        "step_seconds": clock.train_seconds / max(1, len(clock.losses)),
        "loop_seconds": (trained - clock.validation_seconds) / max(1, len(clock.losses)),
        "validation_step_seconds": clock.validation_seconds / clock.num_validated if clock.num_validated else None,
        "loss_seconds": clock.seconds,
        "losses": clock.losses,
        "last_learning_rate": trainer.optimizer.param_groups[0]["lr"],
        "validation": str(Path(trainer.output_folder) / "validation"),
    }
    arguments.report.write_text(json.dumps(report))


def fit_schedule(trainer: nnUNetTrainer, iterations: int) -> None:
    """Epochs of nnU-Net's length where ten of them fit, else ten shorter ones."""
    usual = trainer.num_iterations_per_epoch
    trainer.num_epochs = max(iterations // usual, _EPOCHS_WANTED)
    trainer.num_iterations_per_epoch = max(1, min(usual, iterations // trainer.num_epochs))
    trainer.num_val_iterations_per_epoch = max(1, trainer.num_iterations_per_epoch // 5)  # nnU-Net's share, 50 of 250


def train(trainer: nnUNetTrainer, budget: float) -> Clock:
    trainer.initialize()
    clock = Clock(trainer, budget)
    trainer.train_step, trainer.validation_step = clock.train_step, clock.validation_step
    clock.started = time.perf_counter()
    try:
        trainer.run_training()
    except OutOfTime:
        trainer.on_train_end()
    return clock


if __name__ == "__main__":
    main()
