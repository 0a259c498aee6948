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
}
"""Step -> share of patches, nnU-Net's where nnU-Net has the step."""

_ASKED_FOR = ("histogram",)  # in no strength
_SPATIAL = ("rotation", "scaling", "translation", "elastic")
_STRENGTHS: dict[str, tuple[str, ...]] = {
    "nnunet": tuple(name for name in _CHANCES if name not in ("translation", "elastic", *_ASKED_FOR)),
    "light": ("rotation", "scaling", "brightness", "contrast", "mirror"),
    "strong": tuple(name for name in _CHANCES if name not in _ASKED_FOR),
    "none": (),
}
_STRONG_FACTOR = 2.0
_STRONG_MOST = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationRecipe:
    """Steps of augmentation with their chances.

    Args:
        chances: Step and share of the patches that get it; a step that is not listed is left out.
    """

    chances: tuple[tuple[str, float], ...]

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
        text: A strength ("nnunet", "light", "strong", "none"), then steps with + or -: "nnunet-blur", "none+rotation".

    Raises:
        ValueError: When a strength or step is unknown; offers a close one.

    Example:
        >>> parse_recipe("light-mirror").chances
        (('rotation', 0.2), ('scaling', 0.2), ('brightness', 0.15), ('contrast', 0.15))
    """
    strength, *changes = re.split(r"(?=[+-])", text)
    if strength not in _STRENGTHS:
        raise ValueError(f"augmentation={text}: {strength!r} is no strength; known are {', '.join(_STRENGTHS)}")
    steps = set(_STRENGTHS[strength])
    for change in changes:
        sign, step = change[0], change[1:]
        if step not in _CHANCES:
            close = difflib.get_close_matches(step, _CHANCES, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(_CHANCES)}"
            raise ValueError(f"augmentation={text}: {step!r} is no step; {hint}")
        steps = steps | {step} if sign == "+" else steps - {step}
    chances = {step: chance for step, chance in _CHANCES.items() if step in steps}
    if strength == "strong":
        chances = {step: max(chance, min(_STRONG_FACTOR * chance, _STRONG_MOST)) for step, chance in chances.items()}
    return AugmentationRecipe(chances=tuple(chances.items()))


NNUNET = parse_recipe("nnunet")
"""nnU-Net's augmentation."""
