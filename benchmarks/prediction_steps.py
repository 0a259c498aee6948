"""Seconds that autoseg takes for every step of a folder's cases, one step after the other; run by prediction.py."""

from __future__ import annotations

import time

started = time.perf_counter()

import argparse  # noqa: E402 - imports are what is timed first
import json  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

from autoseg.dataset import find_cases  # noqa: E402
from autoseg.image import read_image, write_segmentation  # noqa: E402
from autoseg.inference.export import decide_labels  # noqa: E402
from autoseg.inference.predictor import InferenceOptions  # noqa: E402
from autoseg.pipeline.model_choice import choose_models  # noqa: E402
from autoseg.workspace import Workspace  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workspace", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--compile", choices=("none", "openvino"), default="none")
    parser.add_argument("--no-mirroring", action="store_true")
    arguments = parser.parse_args()
    workspace = Workspace(arguments.workspace)
    options = InferenceOptions(compiler=arguments.compile, augmentation="none" if arguments.no_mirroring else "mirrors")
    choice = choose_models(workspace, options=options, device="cpu")
    predictor = choice.load(choice.ensemble.members[0])
    taken = dict.fromkeys(("start", "read", "preprocess", "infer", "resample", "write"), 0.0)
    last = started

    def ended(step: str) -> None:
        nonlocal last
        now = time.perf_counter()
        taken[step] += now - last
        last = now

    ended("start")
    plan = workspace.load_plan()
    with tempfile.TemporaryDirectory() as folder:
        for case in find_cases(arguments.images, plan.file_ending, num_channels=len(plan.channels)):
            image = read_image(case.images)
            ended("read")
            prepared = predictor.prepare(image, case_id=case.id)
            ended("preprocess")
            logits = np.concatenate(list(predictor.logit_slabs(prepared.channels)), axis=1)
            ended("infer")
            found = decide_labels(predictor.finish(iter([logits]), prepared.trace, case.id), plan.labels)
            ended("resample")
            write_segmentation(Path(folder) / f"{case.id}{plan.file_ending}", found)
            ended("write")
    print(json.dumps(taken))


if __name__ == "__main__":
    main()
