"""What a preset is: values over the shared machinery, each with its reason and its source; no code of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

T = TypeVar("T")

Stage = Literal["planning", "training", "prediction"]


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
        postprocessing: Steps as ``autoseg select --postprocessing`` takes them; {label} stands for every label.
        left_out: What the source did and this does not.
    """

    name: str
    summary: str
    configuration: Literal["2d", "3d_fullres"] = "3d_fullres"
    network: Explained[str]
    network_options: tuple[Explained[str], ...] = ()
    patch: Explained[tuple[int, int, int]] | None = None
    spacing: Explained[tuple[float, float, float]] | None = None
    normalization: Explained[str] | None = None
    by_view: Explained[bool] | None = None
    settings: tuple[Explained[str], ...] = ()
    views: Explained[str] | None = None
    postprocessing: tuple[Explained[str], ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @property
    def stored_as(self) -> str:
        """Name of the configuration that it trains."""
        return f"{self.configuration}@{self.name}"

    def steps_for(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Postprocessing of a dataset with these foreground labels."""
        templates = [step.value for step in self.postprocessing]
        return tuple(t.format(label=label) for t in templates for label in (labels if "{label}" in t else ("",)))

    def rows(self) -> Iterator[tuple[Stage, Explained[str]]]:
        """Every value as a command line gives it, by stage."""
        if self.by_view is not None:
            yield "planning", _written("by_view", self.by_view)
        if self.normalization is not None:
            yield "planning", _written("normalization", self.normalization)
        if self.spacing is not None:
            yield "planning", _written("spacing", self.spacing)
        if self.patch is not None:
            yield "planning", _written("patch", self.patch)
        yield "planning", _written("network", self.network)
        for option in self.network_options:
            yield "planning", option
        for setting in self.settings:
            yield "training", setting
        if self.views is not None:
            yield "prediction", _written("tta", self.views)
        for step in self.postprocessing:
            yield "prediction", step


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
