"""What a preset is: values over the shared machinery, each with its reason and its source; no code of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from string import Formatter
from typing import Any, Generic, Literal, TypeVar

T = TypeVar("T")

Stage = Literal["planning", "training", "prediction", "evaluation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained(Generic[T]):
    """A value, and where it is from.

    Args:
        value: As the shared machinery takes it.
        why: What it does, or why it is what it is.
        source: Publication or program; "autoseg" where the source is silent and autoseg chose.
    """

    value: T
    why: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Something that the source did and the preset does not.

    Args:
        what: In a few words.
        instead: What happens, and why.
    """

    what: str
    instead: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A published system as values.

    Args:
        name: On the command line.
        summary: The system, in one line.
        configuration: What its model is planned as.
        network: Name in the network registry.
        network_options: Options of it, ``name=value``.
        patch: Voxels (z, y, x), axes as stored; the planner cuts it to the median case and the memory.
        spacing: Millimetres (z, y, x); None leaves it to the planner.
        normalization: Of the intensities, as ``--normalization`` takes it; None leaves it to the planner.
        by_view: Each view of the dataset gets a model of its own, where the dataset's table names views.
        settings: Of the training run, ``name=value``.
        views: Views of a window that are averaged, as ``--tta`` takes them; None mirrors as in training.
        postprocessing: Steps as ``autoseg select --postprocessing`` takes them; {label} stands for every label, another
            name in braces for the label of that name: without it the step is left out.
        slices: Slices of a stack, where the configuration has stacks.
        outputs: What else is written, ``option=value`` of ``autoseg ensemble-predict``.
        metrics: What ``autoseg evaluate -m`` measures; None takes the usual.
        left_out: What the source did and this does not.
    """

    name: str
    summary: str
    configuration: Literal["2d", "2p5d", "3d_fullres"] = "3d_fullres"
    network: Explained[str]
    network_options: tuple[Explained[str], ...] = ()
    patch: Explained[tuple[int, int, int]] | None = None
    spacing: Explained[tuple[float, float, float]] | None = None
    normalization: Explained[str] | None = None
    by_view: Explained[bool] | None = None
    settings: tuple[Explained[str], ...] = ()
    views: Explained[str] | None = None
    postprocessing: tuple[Explained[str], ...] = ()
    slices: Explained[int] | None = None
    outputs: tuple[Explained[str], ...] = ()
    metrics: Explained[str] | None = None
    left_out: tuple[LeftOut, ...] = ()

    @property
    def stored_as(self) -> str:
        """Name of the configuration that it trains."""
        return f"{self.configuration}@{self.name}"

    def steps_for(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Postprocessing of a dataset with these foreground labels."""
        named = {label: label for label in labels}
        found = list[str]()
        for template in (step.value for step in self.postprocessing):
            asked = {field for _, field, _, _ in Formatter().parse(template) if field}
            if "label" in asked:
                found += [template.format(label=label) for label in labels]
            elif asked <= set(labels):
                found.append(template.format(**named))
        return tuple(found)

    def rows(self) -> Iterator[tuple[Stage, Explained[str]]]:
        """Every value as a command line gives it, by stage."""
        yield from self._planning()
        for setting in self.settings:
            yield "training", setting
        if self.views is not None:
            yield "prediction", _written("tta", self.views)
        for step in (*self.postprocessing, *self.outputs):
            yield "prediction", step
        if self.metrics is not None:
            yield "evaluation", _written("metrics", self.metrics)

    def _planning(self) -> Iterator[tuple[Stage, Explained[str]]]:
        values: dict[str, Explained[Any] | None] = {
            "by_view": self.by_view,
            "normalization": self.normalization,
            "spacing": self.spacing,
            "patch": self.patch,
            "slices": self.slices,
            "network": self.network,
        }
        for name, given in values.items():
            if given is not None:
                yield "planning", _written(name, given)
        for option in self.network_options:
            yield "planning", option


def _written(name: str, explained: Explained[T]) -> Explained[str]:
    value = explained.value
    text = " ".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)
    return Explained(value=f"{name}={text}", why=explained.why, source=explained.source)


def explained(source: str, **whys: str) -> tuple[Explained[str], ...]:
    """Several settings of one source; keywords are written ``name="value | reason"``.

    Args:
        source: Of all of them.
        whys: Setting -> value and reason.

    Example:
        >>> explained("a paper", epochs="200 | until it converges")[0].value
        'epochs=200'
    """
    pairs = ((name, *text.split(" | ", 1)) for name, text in whys.items())
    return tuple(Explained(value=f"{name}={value}", why=why, source=source) for name, value, why in pairs)
