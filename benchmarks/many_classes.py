"""Predict a large volume with many classes under a limit on memory, as a program of its own.

The network is one 1x1x1 convolution, so that everything but the network is measured: tiles, sums, resampling,
labels, files. The limit is RLIMIT_DATA (memory that belongs to the program alone; scratch files do not count, the
system may write them to disk whenever it likes): so many gigabytes above the image as read and the segmentation.

    python benchmarks/many_classes.py --scratch /data/scratch
"""

from __future__ import annotations

import argparse
import math
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

GIGABYTE = 1 << 30


def main() -> None:
    """Make the image, predict it in a child process under the limit, check its labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(600, 512, 512), metavar=("Z", "Y", "X"))
    parser.add_argument("--classes", type=int, default=120)
    parser.add_argument("--patch", type=int, nargs=3, default=(64, 128, 128))
    parser.add_argument("--step", type=float, default=0.5)
    parser.add_argument("--limit", type=float, default=4.0, help="GB above the image and its segmentation")
    parser.add_argument("--scratch", type=Path, default=None)
    parser.add_argument("--child", type=Path, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        _predict(arguments)
        return
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        _make_image(Path(folder) / "image.nii.gz", tuple(arguments.shape))
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--child", folder], check=True)
        _check(Path(folder), arguments.classes)


def _make_image(path: Path, shape: tuple[int, ...]) -> None:
    from autoseg.geometry import Geometry
    from autoseg.image import Image, write_image

    z, y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    array = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    # Stored as CT is: 16-bit integers, never zero, so that nothing is cropped.
    stored = np.rint(1 + array * 1000).astype(np.int16)[None]
    write_image(path, Image(array=stored, geometry=Geometry(shape=shape, spacing=(1.0, 0.8, 0.8))))


def _predict(arguments: argparse.Namespace) -> None:
    import torch

    from autoseg.image import read_image, write_segmentation
    from autoseg.inference.export import decide_labels
    from autoseg.inference.model import ModelRecord, TrainedModel
    from autoseg.inference.predictor import ConfigurationPredictor, InferenceOptions
    from autoseg.labels import LabelScheme
    from autoseg.networks.base import SegmentationNetwork
    from autoseg.plan import Configuration, NetworkPlan, NormalizationPlan, Plan

    class Rings(SegmentationNetwork):
        """Class j wins where the intensity is nearest to its own: 2 m x - m m of a distance to m."""

        def __init__(self, classes: int) -> None:
            super().__init__()
            self.convolution = torch.nn.Conv3d(1, classes, 1)
            middle = torch.linspace(-1.5, 2.5, classes)
            with torch.no_grad():
                self.convolution.weight.copy_((2 * middle).reshape(-1, 1, 1, 1, 1))
                self.convolution.bias.copy_(-(middle**2))

        def forward(self, patches: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.convolution(patches)
            return answer

    shape, classes = tuple(arguments.shape), arguments.classes
    one = ((1, 1, 1),)
    configuration = Configuration(
        name="3d_fullres",
        data="3d_fullres",
        spacing=(1.25, 1.0, 1.0),
        median_shape=tuple(float(n) for n in shape),
        patch_size=tuple(arguments.patch),
        batch_size=1,
        batch_dice=False,
        normalization=(NormalizationPlan(scheme="zscore"),),
        network=NetworkPlan(
            name="unet", features=(8,), strides=one, kernel_sizes=one, encoder_blocks=(1,), decoder_blocks=()
        ),
    )
    table = {"background": 0} | {f"class {i}": i for i in range(1, classes)}
    labels = LabelScheme.from_table(table, where="benchmark")
    plan = Plan(
        planner="unet",
        dataset="Dataset001_Rings",
        channels=("CT",),
        labels=labels,
        file_ending=".nii.gz",
        gpu_memory_gb=8.0,
        gpu_memory_source="benchmark",
        orientation=None,
        transpose=(0, 1, 2),
        median_spacing=(1.0, 1.0, 1.0),
        median_shape=tuple(float(n) for n in shape),
        configurations=(configuration,),
    )
    record = ModelRecord(
        configuration=configuration, labels=labels, num_channels=1, mirror_axes=(), iterations=0, plan_digest=""
    )
    network = Rings(classes).requires_grad_(requires_grad=False).eval()
    above = (4 + 1) * math.prod(shape)  # float32 image, 8-bit labels
    limit = above + int(arguments.limit * GIGABYTE)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    options = InferenceOptions(
        step=arguments.step,
        max_memory_gb=limit / GIGABYTE,
        scratch=None if arguments.scratch is None else str(arguments.scratch),
    )
    predictor = ConfigurationPredictor(plan, [TrainedModel(record=record, network=network)], options)
    watch = _Watch()
    watch.start()
    started, spent = time.perf_counter(), time.process_time()
    image = read_image([arguments.child / "image.nii.gz"])
    need = predictor.forecast(image)
    place = predictor.memory_for(image)
    window = f"scratch files, behind a window of at most {place.in_memory / 1e9:.2f} GB"
    where = window if need.sums > place.in_memory else "memory"
    print(
        f"limit {limit / 1e9:.2f} GB ({arguments.limit:g} GiB above {above / 1e9:.2f} GB); forecast: arrays "
        f"{need.arrays / 1e9:.2f} GB, sums {need.sums / 1e9:.2f} GB in {where}; logits of the whole volume would be "
        f"{4 * classes * math.prod(shape) / 1e9:.1f} GB",
        flush=True,
    )
    segmentation = decide_labels(predictor.predict(image), labels)
    seconds = time.perf_counter() - started
    write_segmentation(arguments.child / "segmentation.nii.gz", segmentation)
    print(
        f"predicted in {seconds:.0f} s, {time.process_time() - spent:.0f} s of processor time; at most "
        f"{watch.most('VmData')} of own memory (VmData), {watch.most('RssAnon')} resident of it, {watch.most('VmRSS')} "
        "resident with mapped files"
    )


class _Watch(threading.Thread):
    """Looks at the program's memory five times a second; VmData is what the limit counts."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest = dict.fromkeys(("VmData", "RssAnon", "VmRSS"), 0)

    def run(self) -> None:
        while True:
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            for name, highest in self.highest.items():
                self.highest[name] = max(highest, int(status[name].split()[0]) * 1024)
            time.sleep(0.2)

    def most(self, name: str) -> str:
        return f"{self.highest[name] / 1e9:.2f} GB"


def _check(folder: Path, classes: int) -> None:
    """Labels are rings: they may differ from the closed form by one where interpolation rounds."""
    from autoseg.image import read_image, read_segmentation

    image = read_image([folder / "image.nii.gz"]).array[0]
    labels = read_segmentation(folder / "segmentation.nii.gz").array
    normalized = (image - image.mean(dtype=np.float64)) / image.std(dtype=np.float64)
    expected = np.clip(np.rint((normalized + 1.5) / (4 / (classes - 1))), 0, classes - 1)
    print(f"labels more than one ring off: {np.mean(np.abs(labels - expected) > 1):.2e} of the voxels")


if __name__ == "__main__":
    main()
