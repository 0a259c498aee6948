"""Slices of one axis against slices of all three: one 2.5D network on synthetic tubes, with its table and its picture.

    python benchmarks/slice_axes.py --folder FOLDER [--iterations 150] [--device cpu]

Writes a dataset of TIFF stacks (autoseg.synthetic.tubes), trains two folds of the preset "sennet" for a number of
steps, predicts images that it never saw along each axis and along all, with and without the further views and the
kidney's bound, and scores them by Dice and by surface Dice at tolerance 0. FOLDER/slice_axes.md and slice_axes.png hold
the result. Synthetic tubes say that the merging works; nothing about vessels.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from autoseg.evaluation.report import read_evaluation
from autoseg.image import read_image, read_segmentation
from autoseg.presets import PRESETS
from autoseg.synthetic.tubes import TUBE, write_tube_dataset

SENNET = PRESETS["sennet"]
BRIEF = ("learning_rate=1e-3", "validation_iterations=4", "batch_size=8")  # the preset's rate is for hours of training


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to predict: what it is called, and the words of the command."""

    name: str
    words: tuple[str, ...]
    is_bounded: bool = False


WAYS = (
    Way(name="slices across z", words=("--slice-axes", "0", "--no-mirroring")),
    Way(name="slices across y", words=("--slice-axes", "1", "--no-mirroring")),
    Way(name="slices across x", words=("--slice-axes", "2", "--no-mirroring")),
    Way(name="all three", words=("--no-mirroring",)),
    Way(name="all three, six views", words=("--tta", "six")),
    Way(name="all three, six views, bounded by the kidney", words=("--tta", "six"), is_bounded=True),
)


def autoseg(*words: str | int | Path) -> None:
    """One command, shown."""
    print("$ autoseg", *words, flush=True)
    subprocess.run([sys.executable, "-m", "autoseg", *map(str, words)], check=True)


def measure(way: Way, folder: Path, device: str) -> tuple[Path, list[str]]:
    """Predict and score; where predictions lie, and a row of the table."""
    dataset, workspace = folder / "dataset", folder / "workspace"
    predictions = folder / "predicted" / way.name.replace(" ", "_").replace(",", "")
    # What was selected has the bound; models that are named predict without postprocessing.
    models = () if way.is_bounded else ("--members", SENNET.stored_as)
    autoseg(
        "ensemble-predict",
        "-i",
        dataset / "imagesTs",
        "-o",
        predictions,
        "-w",
        workspace,
        *models,
        *way.words,
        "--device",
        device,
    )
    scores = folder / f"{predictions.name}.json"
    autoseg("evaluate", "-r", dataset / "labelsTs", "-p", predictions, "-m", "dice,nsd@0mm", "-o", scores)
    evaluation = read_evaluation(scores)
    row = [way.name]
    for label in ("kidney", "vessel"):
        row += [f"{evaluation.labels[label][metric]:.3f}" for metric in ("dice", "nsd@0mm")]
    return predictions, row


def draw(folder: Path, predictions: dict[str, Path], path: Path) -> None:
    """The vessels of one image, seen along each axis: the reference, and what some of the ways found."""
    case = "test_00"
    image = read_image((folder / "dataset" / "imagesTs" / f"{case}_0000.tif",)).array[0]
    masks = {"reference": read_segmentation(folder / "dataset" / "labelsTs" / f"{case}.tif").array == TUBE}
    masks |= {name: read_segmentation(found / f"{case}.tif").array == TUBE for name, found in predictions.items()}
    figure = Figure(figsize=(2.1 * (len(masks) + 1), 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, len(masks) + 1)
    for axis, row in enumerate(axes):
        row[0].imshow(image.max(axis=axis), cmap="gray")
        for place, mask in zip(row[1:], masks.values(), strict=True):
            place.imshow(mask.sum(axis=axis), cmap="magma", vmin=0, vmax=12)
        row[0].set_ylabel(f"along {'zyx'[axis]}")
    for place, name in zip(axes[0], ("image (brightest)", *masks), strict=True):
        place.set_title("\n".join(name.split(", ")), fontsize=8)
    for place in axes.ravel():
        place.set_xticks([])
        place.set_yticks([])
    figure.savefig(path, dpi=100)


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=150, help="of each of the two folds")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    folder: Path = given.folder
    dataset, workspace = folder / "dataset", folder / "workspace"
    if not (dataset / "dataset.json").is_file():  # a run that is taken up again
        write_tube_dataset(dataset, num_training=10, num_test=4)
    settings = [word for setting in BRIEF for word in ("--set", setting)]
    for fold in ("fold0", "fold1"):
        length = ("--folds", "2", "--iterations", given.iterations, "--device", given.device)
        # With so little memory the planner makes the network narrower, as suits a minute of training.
        autoseg(
            "preset", "train", SENNET.name, dataset, fold, "-w", workspace, "--gpu-memory", "1.25", *length, *settings
        )
    steps = SENNET.steps_for(("kidney", "vessel"))
    autoseg("select", "-w", workspace, *(word for step in steps for word in ("--postprocessing", step)))
    header = ["slices", "kidney Dice", "kidney surface Dice", "vessel Dice", "vessel surface Dice"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    found: dict[str, Path] = {}
    for way in WAYS:
        found[way.name], row = measure(way, folder, given.device)
        lines.append(f"| {' | '.join(row)} |")
    (folder / "slice_axes.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    draw(folder, {name: found[name] for name in found if name != WAYS[4].name}, folder / "slice_axes.png")


if __name__ == "__main__":
    main()
