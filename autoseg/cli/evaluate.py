"""autoseg evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from autoseg.cli.app import EXIT_SOME_FAILED, command
from autoseg.cli.console import errors, messages, output
from autoseg.cli.dataset_options import LabelMap, read_label_map
from autoseg.cli.options import Workers
from autoseg.errors import SettingsError

if TYPE_CHECKING:
    from autoseg.evaluation.report import Evaluation

Reference = Annotated[Path, typer.Option("--reference", "-r", help="Folder of reference segmentations.")]
Prediction = Annotated[Path, typer.Option("--prediction", "-p", help="Folder of predictions with the same names.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write all scores to FILE.json or FILE.csv.")]
Metrics = Annotated[
    str,
    typer.Option(
        "--metrics", "-m", help='What to measure, e.g. "dice,hd95,asd,nsd@1mm,lesion_f1"; "all" measures everything.'
    ),
]
Empty = Annotated[
    Literal["undefined", "perfect", "worst"],
    typer.Option("--empty", help="What a label that neither reference nor prediction has in a case counts as."),
]
Groups = Annotated[
    Path | None,
    typer.Option("--groups", help="Table (CSV) with the column case and others: phase, view, domain, ..."),
]
Report = Annotated[
    Path | None, typer.Option("--report", help="Folder for tables per case, label and group, and a report.md.")
]
Collect = Annotated[
    bool, typer.Option("--collect", help="With --report: copy reference, prediction and scores of each case there.")
]
Panels = Annotated[
    Path | None,
    typer.Option(
        "--panels",
        help="With --groups and --images: folder for a picture per view and phase, prediction and reference.",
    ),
]
Images = Annotated[Path | None, typer.Option("--images", help="With --panels: folder of the images.")]
NnunetSummary = Annotated[
    Path | None, typer.Option("--nnunet-summary", help="Also write the scores as nnU-Net's summary.json.")
]
ViewWeights = Annotated[
    str | None,
    typer.Option("--view-weights", help="With --groups: weighted mean over views, e.g. SA=0.75,LA=0.25 (M&Ms-2)."),
]


@command("evaluate")
def evaluate(
    reference: Reference,
    prediction: Prediction,
    output_path: Output = None,
    label_map: LabelMap = None,
    metrics: Metrics = "dice,iou",
    empty: Empty = "undefined",
    groups: Groups = None,
    report: Report = None,
    panels: Panels = None,
    images: Images = None,
    nnunet_summary: NnunetSummary = None,
    view_weights: ViewWeights = None,
    workers: Workers = None,
    *,
    collect: Collect = False,
) -> None:
    """Score predictions against references: overlap, surfaces, volumes and lesions per case and label."""
    from autoseg.evaluation.folder import declared_labels, evaluate_folder
    from autoseg.evaluation.measures import Measuring, parse_metrics
    from autoseg.evaluation.publishing import collect_cases, publish, read_groups
    from autoseg.evaluation.report import with_spread

    if output_path is not None and output_path.suffix not in (".json", ".csv"):
        raise SettingsError(f"-o {output_path}: the name must end in .json or .csv")
    _check_together(collect=collect, report=report, panels=panels, groups=groups, images=images)
    weights = None if view_weights is None else _parse_weights(view_weights)
    labels = None if label_map is None else declared_labels(reference, label_map=read_label_map(label_map))[0]
    evaluation = with_spread(
        evaluate_folder(
            reference,
            prediction,
            labels,
            measuring=Measuring(metrics=parse_metrics(f"dice,iou,{metrics}"), both_empty=empty),
            groups=None if groups is None else read_groups(groups),
            workers=workers,
        )
    )
    show_evaluation(evaluation)
    if weights is not None:
        _show_weighted(evaluation, weights)
    if output_path is not None:
        _write(evaluation, output_path)
    if nnunet_summary is not None:
        _write_nnunet(evaluation, nnunet_summary, reference, prediction)
    if report is not None:
        publish(evaluation, report)
        messages.print(f"tables: {report / 'report.md'}", highlight=False)
    _draw(evaluation, reference, prediction, images, panels)
    if report is not None and collect:
        collect_cases(evaluation, reference, prediction, report / "cases")
    for problem in evaluation.problems:
        errors.print(problem, style="yellow", markup=False, highlight=False)
    if evaluation.problems:
        raise typer.Exit(EXIT_SOME_FAILED)


def _check_together(
    *, collect: bool, report: Path | None, panels: Path | None, groups: Path | None, images: Path | None
) -> None:
    """Refuse options that need others."""
    if collect and report is None:
        raise SettingsError("--collect copies the cases into the folder of --report; name one")
    if panels is not None and (groups is None or images is None):
        raise SettingsError("--panels draws cases by group over their images; name both: --groups FILE --images FOLDER")


def _draw(evaluation: Evaluation, reference: Path, prediction: Path, images: Path | None, panels: Path | None) -> None:
    if panels is None or images is None:
        return
    from autoseg.pipeline.group_panels import draw_group_panels

    for path in draw_group_panels(evaluation, reference, prediction, images, panels):
        messages.print(f"picture: {path}", highlight=False)


def show_evaluation(evaluation: Evaluation) -> None:
    """Print the means as a table, with their confidence intervals where these are known."""
    titles = [_TITLES.get(metric, metric) for metric in evaluation.metrics]
    rows = []
    for label, means in [*evaluation.labels.items(), ("mean", evaluation.mean)]:
        intervals = evaluation.mean_intervals if label == "mean" else evaluation.intervals.get(label, {})
        rows.append([label, *(_in_words(means.get(m), intervals.get(m)) for m in evaluation.metrics)])
    columns = ["label", *titles]
    if len(columns) > _WIDEST:  # turned, and cut into tables of a few labels each
        columns = ["metric", *(row[0] for row in rows)]
        rows = [list(line) for line in zip(titles, *(row[1:] for row in rows), strict=True)]
    for start in range(1, len(columns), _WIDEST):
        table = Table(columns[0], *columns[start : start + _WIDEST])
        for row in rows:
            table.add_row(row[0], *row[start : start + _WIDEST])
        output.print(table)


_WIDEST = 4
_TITLES = {"dice": "Dice", "iou": "IoU"}


def _in_words(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4f}" + ("" if interval is None else f" ({interval[0]:.3f}-{interval[1]:.3f})")


def _write(evaluation: Evaluation, path: Path) -> None:
    from autoseg.evaluation.report import write_csv, write_evaluation

    (write_evaluation if path.suffix == ".json" else write_csv)(evaluation, path)
    messages.print(f"scores of every case: {path}", highlight=False)


def _write_nnunet(evaluation: Evaluation, path: Path, reference: Path, prediction: Path) -> None:
    from autoseg.evaluation.folder import commonest_ending, declared_labels
    from autoseg.interop.nnunet_summary import write_summary

    ending = declared_labels(reference)[1] or commonest_ending(reference)
    write_summary(evaluation, path, reference_dir=reference, prediction_dir=prediction, file_ending=ending)


def _show_weighted(evaluation: Evaluation, weights: dict[str, float]) -> None:
    from autoseg.evaluation.summaries import weighted_views

    listing = ", ".join(f"{weight:g} {name}" for name, weight in weights.items())
    for metric in evaluation.metrics:
        score = weighted_views(evaluation, weights, metric=metric)
        output.print(f"{metric}, weighted {listing}: {_in_words(score, None)}", highlight=False)


def _parse_weights(text: str) -> dict[str, float]:
    weights = {}
    for word in text.split(","):
        name, equals, value = word.partition("=")
        try:
            weights[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise SettingsError(f"--view-weights {text}: give names and numbers, for instance SA=0.75,LA=0.25")
    return weights
