"""What a user asks of intensities, in words: "CT=window(-42,423)", "T1=n4+histogram+zscore+clahe"."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from autoseg.dataset import Case, Dataset
from autoseg.errors import AutosegError, SettingsError
from autoseg.image import read_image
from autoseg.plan import BiasFieldPlan, ContrastPlan
from autoseg.planning import IntensityRequest
from autoseg.preprocessing.enhancement import landmarks_of
from autoseg.preprocessing.normalization import NORMALIZATIONS

_TERM = re.compile(r"\s*(?P<name>[\w.:-]+)\s*(?:\((?P<values>[^()]*)\))?\s*")
_EXAMPLES = (
    "for instance zscore, CT=window(-42,423), n4(shrink=4)+histogram(reference=CASE)+zscore, or 0=clahe(clip=0.01)"
)


def parse_intensities(text: str) -> IntensityRequest:
    """Understand what is asked of one channel or, without a name in front, of all.

    Terms joined by "+": at most one scheme of normalization; ``n4`` (shrink, threshold, mask), ``histogram``
    (reference) and ``clahe`` (clip, neighbourhood).

    Args:
        text: As given on the command line.

    Raises:
        SettingsError: When it cannot be understood.

    Example:
        >>> parse_intensities("CT=window(-42,423)").window
        (-42.0, 423.0)
    """
    front, equals, rest = text.partition("=")
    channel, terms = (front.strip(), rest) if equals and "(" not in front else (None, text)
    request = IntensityRequest(channel=channel)
    for term in re.split(r"\+(?![^(]*\))", terms):
        found = _TERM.fullmatch(term)
        if found is None:
            raise SettingsError(f"--normalization {text}: {term!r} cannot be understood; {_EXAMPLES}")
        values = [v.strip() for v in (found["values"] or "").split(",") if v.strip()]
        try:
            request = _with_term(request, found["name"], values)
        except (ValueError, TypeError, KeyError, AutosegError) as error:
            raise SettingsError(f"--normalization {text}: {_reason(error)}; {_EXAMPLES}") from None
    return request


def resolve_references(requests: Sequence[IntensityRequest], dataset: Dataset) -> tuple[IntensityRequest, ...]:
    """Read the reference of every histogram that is to be matched: the case named, else the first training case.

    Raises:
        SettingsError: When no training case or channel has the name.
        DatasetError: When the reference cannot be read.
    """
    return tuple(r if r.reference is None else _resolved(r, dataset) for r in requests)


def _resolved(request: IntensityRequest, dataset: Dataset) -> IntensityRequest:
    wanted = request.reference or dataset.training[0].id
    case: Case | None = next((c for c in dataset.training if c.id == wanted), None)
    if case is None:
        raise SettingsError(f"--normalization: there is no training case {wanted!r} to take a histogram from")
    array = read_image(case.images, frame=case.frame).array
    landmarks = tuple(landmarks_of(channel) for channel in array)
    if not all(landmarks):
        raise SettingsError(f"--normalization: case {wanted} holds nothing but zeros; name another reference")
    return replace(request, reference=wanted, landmarks=landmarks)


def _with_term(request: IntensityRequest, name: str, values: Sequence[str]) -> IntensityRequest:
    if name == "n4":
        kinds = {"shrink": int, "threshold": float, "mask": str}
        return replace(request, bias_field=BiasFieldPlan(**_named(values, kinds)))  # type: ignore[arg-type]
    if name == "histogram":
        return replace(request, reference=str(_named(values, {"reference": str}).get("reference", "")))
    if name == "clahe":
        named = _named(values, {"clip": float, "neighbourhood": float})
        if "clip" in named:
            named["clip_limit"] = named.pop("clip")
        return replace(request, contrast=ContrastPlan(**named))  # type: ignore[arg-type]
    if request.scheme is not None:
        raise ValueError(f"{request.scheme} and {name} are two schemes for one channel")
    NORMALIZATIONS.get(name)  # an unknown name lists close ones
    if name != "window":
        if values:
            raise ValueError(f"{name} takes no values")
        return replace(request, scheme=name)
    low, high = (float(value) for value in values)
    if not low < high:
        raise ValueError(f"the window must ascend, got {low:g} to {high:g}")
    return replace(request, scheme=name, window=(low, high))


def _named(values: Sequence[str], kinds: dict[str, Callable[[str], object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or key.strip() not in kinds:
            raise ValueError(f"{value!r} should be one of {', '.join(f'{kind}=...' for kind in kinds)}")
        found[key.strip()] = kinds[key.strip()](text.strip())
    if found.get("mask", "nonzero") not in ("nonzero", "otsu"):
        raise ValueError(f"mask is nonzero or otsu, got {found['mask']}")
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, ValueError) and "unpack" in str(error):
        return "a window takes two numbers"
    return str(error)
