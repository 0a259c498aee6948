"""What loader processes deliver: augmented patches per second of autoseg and of nnU-Net, on the same dataset and plan.

    python benchmarks/loading.py DATASET --peer-python PEER/bin/python --workers 1 2

DATASET is in nnU-Net's raw format; PEER is an environment with nnunetv2. Nothing trains meanwhile, so the figures say
how fast a device may be before it waits; how long it does wait is in every run's log.csv.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import time
from pathlib import Path

from training import Setting, prepare

from autoseg.data.loading import make_loader
from autoseg.data.policy import SamplingPolicy
from autoseg.preprocessing.store import CaseStore
from autoseg.splits import read_splits
from autoseg.workspace import Workspace

CONFIGURATION = "3d_fullres"
PEER_PROGRAM = """
import itertools, json, sys, time
from pathlib import Path
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
folder, num = Path(sys.argv[1]), int(sys.argv[2])
plans, dataset = (json.loads((folder / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
plans["continue_training"] = False
trainer = nnUNetTrainer(plans, "3d_fullres", 0, dataset, device=torch.device("cpu"))
trainer.initialize()
batches, held_out = trainer.get_dataloaders()
held_out._finish()
for _ in range(12):
    next(batches)
started = time.perf_counter()
patches = sum(len(next(batches)["data"]) for _ in range(num))
print("RATE", patches / (time.perf_counter() - started))
batches._finish()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=Path("benchmark_scratch/loading"))
    arguments = parser.parse_args()
    setting = Setting(
        dataset=arguments.dataset.resolve(),
        peer_python=arguments.peer_python.absolute(),
        scratch=arguments.scratch.resolve(),
        budget=0.0,
        threads=1,
    )
    environment = prepare(setting)
    for workers in arguments.workers:
        for number in range(arguments.rounds):
            own = autoseg_rate(Workspace(setting.scratch / "planned"), workers, arguments.batches)
            peer = peer_rate(setting, environment, workers, arguments.batches)
            print(
                f"{workers} worker(s), round {number + 1}: autoseg {own:.1f}, nnU-Net {peer:.1f} patches per second, "
                f"ratio {own / peer:.2f}",
                flush=True,
            )


def autoseg_rate(workspace: Workspace, workers: int, num: int) -> float:
    """Patches per second after the first twelve batches, as nnU-Net's are counted."""
    plan = workspace.load_plan()
    configuration = plan.configuration(CONFIGURATION)
    loader = make_loader(
        CaseStore(workspace.preprocessed_dir(configuration.data)),
        read_splits(workspace.splits_path)[0].train,
        configuration,
        plan.labels,
        augment=True,
        sampling=SamplingPolicy(),
        seed=0,
        num_steps=num + 12,
        workers=workers,
    )
    batches = iter(loader)
    for _ in itertools.islice(batches, 12):
        pass
    started = time.perf_counter()
    patches = sum(len(batch.images) for batch in batches)
    return patches / (time.perf_counter() - started)


def peer_rate(setting: Setting, environment: dict[str, str], workers: int, num: int) -> float:
    folder = Path(environment["nnUNet_preprocessed"]) / "Dataset701_Benchmark"
    environment = {**os.environ, **environment, "nnUNet_n_proc_DA": str(workers)}
    words = [str(setting.peer_python), "-c", PEER_PROGRAM, str(folder), str(num)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    rates = [line for line in done.stdout.splitlines() if line.startswith("RATE ")]
    if not rates:
        raise SystemExit(json.dumps((done.stdout + done.stderr)[-3000:]))
    return float(rates[0].split()[1])


if __name__ == "__main__":
    main()
