"""Seconds that nnU-Net takes for every step of a folder's cases; run by prediction.py in an environment of nnU-Net."""

from __future__ import annotations

import time

started = time.perf_counter()

import argparse  # noqa: E402 - imports are what is timed first
import json  # noqa: E402
import multiprocessing  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
from nnunetv2.inference.export_prediction import (  # noqa: E402
    convert_predicted_logits_to_segmentation_with_correct_shape,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--no-mirroring", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(multiprocessing.cpu_count())  # as its command does
    predictor = nnUNetPredictor(use_mirroring=not arguments.no_mirroring, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(arguments.model), (0,))
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    reader = plans.image_reader_writer_class()
    preprocessor = configuration.preprocessor_class(verbose=False)
    taken = dict.fromkeys(("start", "read", "preprocess", "infer", "resample", "write"), 0.0)
    last = started

    def ended(step: str) -> None:
        nonlocal last
        now = time.perf_counter()
        taken[step] += now - last
        last = now

    ended("start")
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(arguments.images.glob("*_0000.nii.gz")):
            image, properties = reader.read_images([str(path)])
            ended("read")
            data, _, properties = preprocessor.run_case_npy(
                image, None, properties, plans, configuration, predictor.dataset_json
            )
            ended("preprocess")
            logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).cpu()
            ended("infer")
            found = convert_predicted_logits_to_segmentation_with_correct_shape(
                logits, plans, configuration, predictor.label_manager, properties, return_probabilities=False
            )
            ended("resample")
            reader.write_seg(found, str(Path(folder) / path.name), properties)
            ended("write")
    print(json.dumps(taken))


if __name__ == "__main__":
    main()
