"""Datasets described by patterns such as ``imgs/{case}_ct.nii.gz``: no file has to be renamed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from autoseg.dataset.case import Case, Dataset
from autoseg.dataset.source import DatasetSource
from autoseg.errors import DatasetError
from autoseg.image import is_series, read_header, read_segmentation
from autoseg.labels import LabelScheme

_PLACE = "{case}"
IMAGE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".gipl", ".png", ".bmp", ".tif", ".tiff")


def load_patterns(source: DatasetSource) -> Dataset:
    """Load a dataset from patterns; an image without label is a case to predict.

    Args:
        source: With one pattern per channel and one for the labels.

    Raises:
        DatasetError: When a pattern is malformed or finds nothing, or a case lacks a channel.
    """
    assert source.labels is not None  # DatasetSource sees to it
    labels = {case: files[0] for case, files in cases_by_patterns(source.root, (source.labels,)).items()}
    found = cases_by_patterns(source.root, source.images)
    # Where labels lie beside images, {case}.nii.gz fits a_seg.nii.gz as well.
    images = {case: files for case, files in found.items() if not set(files) & set(labels.values())}
    if not images:
        raise DatasetError(f"{source.root} has nothing like {', '.join(source.images)}")
    if lost := sorted(set(labels) - set(images)):
        raise DatasetError(f"{labels[lost[0]]} is a label without an image like {source.images[0]}")
    cases = [Case(id=case, images=files, label=labels.get(case)) for case, files in sorted(images.items())]
    if not labels:
        raise DatasetError(f"{source.root} has no label like {source.labels} for {cases[0].id} or any other case")
    return assemble(source, cases, declared_in=", ".join(source.images))


def assemble(source: DatasetSource, cases: Sequence[Case], *, declared_in: str) -> Dataset:
    """A dataset without dataset.json: channels and labels as they were given, else as the files have them.

    Args:
        source: May name channels and labels.
        cases: Those with a label are for training.
        declared_in: Where they come from, for messages.

    Raises:
        DatasetError: When no case has a label.
    """
    training = tuple(case for case in cases if case.label is not None)
    if not training:
        raise DatasetError(f"{declared_in}: no case has a label; there is nothing to learn from")
    first = training[0]
    assert first.label is not None
    values = source.label_values or _values_that_occur(training)
    return Dataset(
        root=source.root.resolve(),
        name=source.root.resolve().name,
        channels=source.channel_names or _channels_of(first),
        labels=LabelScheme.from_table({"background": 0} | values, where=declared_in, label_map=source.label_map),
        file_ending=file_ending(first.label),
        declared_count=len(training),
        training=training,
        test=tuple(case for case in cases if case.label is None),
        declared_in="the command line",
    )


def cases_by_patterns(root: Path, patterns: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """Files that fit, by what stands for ``{case}`` in their path.

    Args:
        root: Folder that relative patterns start from.
        patterns: One per channel; ``*`` stands for any part of a name.

    Raises:
        DatasetError: When a pattern has no ``{case}``, two files fit one case, or a case lacks a channel.
    """
    found = [_files(root, pattern) for pattern in patterns]
    every = sorted(set().union(*found)) if found else []
    for case in every:
        for files, pattern in zip(found, patterns, strict=True):
            if case not in files:
                raise DatasetError(f"case {case} has no image {root / pattern.replace(_PLACE, case)}")
    return {case: tuple(files[case] for files in found) for case in every}


def file_ending(path: Path) -> str:
    """Ending of an image file with the dot, ``.nii.gz`` as one.

    Raises:
        DatasetError: When the name has none.
    """
    known = next((ending for ending in IMAGE_ENDINGS if path.name.lower().endswith(ending)), "")
    ending = path.name[-len(known) :] if known else path.suffix
    if not ending:
        raise DatasetError(f"{path} has no file ending that says how to read it")
    return ending


def _files(root: Path, pattern: str) -> dict[str, Path]:
    if _PLACE not in pattern:
        raise DatasetError(f"the pattern {pattern} must say where the name of the case stands: imgs/{_PLACE}.nii.gz")
    where = Path(pattern)
    base = Path(where.anchor) if where.is_absolute() else root
    relative = str(where.relative_to(where.anchor)) if where.is_absolute() else pattern
    found: dict[str, Path] = {}
    expression = _expression(relative)
    anything = re.sub(r"\*+", "*", relative.replace("[", "[[]").replace(_PLACE, "*"))
    for path in sorted(base.glob(anything)):
        match = expression.fullmatch(path.relative_to(base).as_posix())
        if match is None or any(part.startswith(".") for part in path.relative_to(base).parts):
            continue
        if not is_series(path) and not (path.is_file() and where.suffix):
            continue  # a pattern without file ending is meant for folders
        if match["case"] in found:
            raise DatasetError(f"{path} and {found[match['case']]} are both {pattern} of case {match['case']}")
        found[match["case"]] = path
    return found


def _expression(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression; the case's name is the same at every place where it stands."""
    parts, is_first = [], True
    for part in re.split(r"(\{case\}|\*)", pattern):
        if part == _PLACE:
            parts.append("(?P<case>[^/]+)" if is_first else "(?P=case)")
            is_first = False
        else:
            parts.append("[^/]*" if part == "*" else re.escape(part))
    return re.compile("".join(parts))


def _channels_of(case: Case) -> tuple[str, ...]:
    """Names for channels that nobody named; the normalization is then that of any image but CT."""
    number = len(case.images) if len(case.images) > 1 else read_header(case.images[0], frame=case.frame).num_channels
    return tuple(f"channel {index}" for index in range(number)) if number > 1 else ("image",)


def _values_that_occur(cases: Sequence[Case]) -> dict[str, int]:
    """Every value above zero in the label files, named after itself: all files are read, once."""
    found: set[int] = set()
    for case in cases:
        assert case.label is not None
        found.update(read_segmentation(case.label, frame=case.frame).values)
    return {str(value): value for value in sorted(found - {0})}
