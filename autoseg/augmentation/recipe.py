"""Which random variations patches get, and how often: a strength, and single steps added to it or taken away."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

_CHANCES = {
    "histogram": 0.2,
    "rotation": 0.2,
    "scaling": 0.2,
    "translation": 1.0,
    "elastic": 0.2,
    "noise": 0.1,
    "blur": 0.2,
    "brightness": 0.15,
    "contrast": 0.15,
    "low_resolution": 0.25,
    "inverted_gamma": 0.1,
    "gamma": 0.3,
    "mirror": 0.5,
    "rot90": 0.5,
    "transpose": 0.5,
    "median": 0.2,
    "additive_brightness": 0.1,
    "rectangles": 0.4,
    "brightness_gradient": 0.3,
    "local_gamma": 0.3,
    "sharpening": 0.2,
}
"""Step -> share of patches, nnU-Net's where nnU-Net has the step."""

OF_DA5 = (
    *("rot90", "transpose", "median", "additive_brightness"),
    *("rectangles", "brightness_gradient", "local_gamma", "sharpening"),
)
"""What nnU-Net has in its trainer DA5 only."""

_DA5 = {"rotation": 0.4, "low_resolution": 0.15, "contrast": 0.2}  # shares that differ there
_ASKED_FOR = ("histogram", *OF_DA5)  # in no strength but da5
_FLAGS = ("all_planes", "nearest_labels")
_SPATIAL = ("rotation", "scaling", "translation", "elastic")
_STRENGTHS: dict[str, tuple[str, ...]] = {
    "nnunet": tuple(name for name in _CHANCES if name not in ("translation", "elastic", *_ASKED_FOR)),
    "light": ("rotation", "scaling", "brightness", "contrast", "mirror"),
    "strong": tuple(name for name in _CHANCES if name not in _ASKED_FOR),
    "da5": (
        *("rotation", "scaling", "noise", "blur", "contrast", "low_resolution", "inverted_gamma", "mirror"),
        *OF_DA5,
    ),
    "none": (),
}
_STRONG_FACTOR = 2.0
_STRONG_MOST = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationRecipe:
    """Steps of augmentation with their chances.

    Args:
        chances: Step and share of the patches that get it; a step that is not listed is left out.
        is_da5: Whether steps have the wide ranges of nnU-Net's trainer DA5, and its order.
        all_planes: Whether patches that are flat along their first axis are turned in all planes too.
        nearest_labels: Whether moved voxels take the nearest label, not the one that linear interpolation favors.
    """

    chances: tuple[tuple[str, float], ...]
    is_da5: bool = False
    all_planes: bool = False
    nearest_labels: bool = False

    def chance(self, step: str) -> float:
        """Share of the patches that get a step; 0 where it is left out."""
        return dict(self.chances).get(step, 0.0)

    @property
    def moves_voxels(self) -> bool:
        """Whether patches are turned, scaled, shifted or bent, so that more must be read than is shown."""
        return any(step in _SPATIAL for step, _ in self.chances)


def parse_recipe(text: str) -> AugmentationRecipe:
    """Read a recipe.

    Args:
        text: A strength ("nnunet", "light", "strong", "da5", "none"), then steps with + or -: "nnunet-blur",
            "none+rotation"; "+all_planes" and "+nearest_labels" change how patches are moved.

    Raises:
        ValueError: When a strength or step is unknown; offers a close one.

    Example:
        >>> parse_recipe("light-mirror").chances
        (('rotation', 0.2), ('scaling', 0.2), ('brightness', 0.15), ('contrast', 0.15))
    """
    strength, *changes = re.split(r"(?=[+-])", text)
    if strength not in _STRENGTHS:
        raise ValueError(f"augmentation={text}: {strength!r} is no strength; known are {', '.join(_STRENGTHS)}")
    steps, flags = set(_STRENGTHS[strength]), set[str]()
    for change in changes:
        sign, step = change[0], change[1:]
        if step in _FLAGS:
            flags = flags | {step} if sign == "+" else flags - {step}
            continue
        if step not in _CHANCES:
            known = (*_CHANCES, *_FLAGS)
            close = difflib.get_close_matches(step, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            raise ValueError(f"augmentation={text}: {step!r} is no step; {hint}")
        steps = steps | {step} if sign == "+" else steps - {step}
    chances = {step: chance for step, chance in _CHANCES.items() if step in steps}
    if strength == "strong":
        chances = {step: max(chance, min(_STRONG_FACTOR * chance, _STRONG_MOST)) for step, chance in chances.items()}
    if strength == "da5":
        chances = {step: _DA5.get(step, chance) for step, chance in chances.items()}
    return AugmentationRecipe(
        chances=tuple(chances.items()),
        is_da5=strength == "da5",
        all_planes="all_planes" in flags,
        nearest_labels="nearest_labels" in flags,
    )


NNUNET = parse_recipe("nnunet")
"""nnU-Net's augmentation."""
