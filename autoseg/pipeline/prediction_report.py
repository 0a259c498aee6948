"""prediction.json: what was predicted, with what, how long it took, and what was unusual."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib.metadata import version

from autoseg import __version__
from autoseg.errors import CasesFailedError
from autoseg.inference.ensemble import Member
from autoseg.inference.predictor import InferenceOptions
from autoseg.postprocessing.steps import PostprocessingStep


def program_versions() -> dict[str, str]:
    """Versions of what a prediction depends on."""
    names = ("torch", "numpy", "SimpleITK", "scipy")
    return {"autoseg": __version__, "python": platform.python_version()} | {name: version(name) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseTimes:
    """Seconds that the steps of a case took.

    Args:
        prepare: Reading, comparing with the training images, preprocessing.
        predict: Networks, resampling back, labels.
        write: Postprocessing and files.
    """

    prepare: float
    predict: float
    write: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionReport:
    """What a prediction run came to, also written to prediction.json.

    Args:
        version: autoseg's version.
        output: Folder of the segmentations.
        members: Configurations, folds and checkpoints that predict.
        postprocessing: What happens to the segmentations.
        first_stages: Cascade among the members -> models whose segmentation it starts from.
        selection: How members and operations were chosen.
        plan_digest: Digest of the plan.
        models_digest: Digest of the checkpoint files' sizes and times.
        options: How windows are placed and summed.
        predicted: Cases predicted now.
        kept: Cases that an equal run had predicted already.
        failures: Case id -> why it could not be predicted.
        seconds: Wall time.
        times: Case id -> seconds of its steps; they overlap with those of other cases.
        warnings: Case id -> what is unusual about its image.
        checkpoints: Checkpoint -> SHA-256 of the file.
        versions: Program -> version.
    """

    schema_version: int = 1
    version: str = __version__
    output: str
    members: tuple[Member, ...]
    postprocessing: tuple[PostprocessingStep, ...]
    selection: str
    plan_digest: str
    models_digest: str
    options: InferenceOptions
    predicted: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    failures: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    first_stages: dict[str, Member] = field(default_factory=dict)
    times: dict[str, CaseTimes] = field(default_factory=dict)
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    checkpoints: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def made_with(self) -> tuple[object, ...]:
        """Everything that decides what a segmentation looks like."""
        options = self.options.that_decide()
        return (
            *(self.version, self.members, self.first_stages, self.postprocessing),
            *(self.plan_digest, self.models_digest, options),
        )

    def summary(self) -> str:
        """One line for people."""
        kept = f", {len(self.kept)} were there already" if self.kept else ""
        members = " + ".join(member.describe() for member in self.members)
        return f"predicted {len(self.predicted)} case(s) with {members} in {self.seconds:.0f} s{kept}; {self.output}"

    def raise_for_failures(self) -> None:
        """Raise when some cases failed.

        Raises:
            CasesFailedError: Names each of them and its reason.
        """
        if self.failures:
            raise CasesFailedError(self.failures)
