"""What became of every case of a prediction, kept case by case, so that prediction.json is complete whoever wrote it.

Several processes may share the cases of a folder, and a run may be interrupted: each case leaves a small file when it
is done, and prediction.json is put together from those of all cases that were made in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.codec import digest, read_json, write_json
from autoseg.errors import ArtifactError, MissingArtifactError
from autoseg.lock import hold
from autoseg.pipeline.prediction_report import CaseTimes, PredictionReport

_WAIT_SECONDS = 60.0  # for another part that is putting the report together


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRecord:
    """What became of a case.

    Args:
        made_with: Digest of models and options.
        file: Name of its segmentation; empty when it failed.
        failure: Why it could not be predicted.
        times: Seconds of its steps.
        warnings: What is unusual about its image.
    """

    schema_version: int = 1
    made_with: str
    file: str = ""
    failure: str = ""
    times: CaseTimes | None = None
    warnings: tuple[str, ...] = ()


def records_dir(output: Path) -> Path:
    """Where the records of a folder of predictions lie."""
    return output / ".autoseg" / "cases"


def keep_record(output: Path, case_id: str, record: CaseRecord) -> None:
    """Write what became of a case; replaces what an earlier run said."""
    write_json(record, records_dir(output) / f"{case_id}.json")


def how(report: PredictionReport) -> str:
    """Digest of everything but the images that decides what segmentations look like."""
    return digest(report.made_with())


def write_report(report: PredictionReport, output: Path, *, name: str, tell: Callable[[str], None]) -> PredictionReport:
    """Write prediction.json of a folder: a run's report with what all runs and parts made in the same way.

    Args:
        report: Of this run.
        output: Folder of the predictions.
        name: Of the file.
        tell: Told when another part is waited for.

    Returns:
        What was written.
    """
    with hold(output / ".autoseg" / "report.lock", f"{name} in {output}", wait=_WAIT_SECONDS, tell=tell):
        whole = joined(report, _records(output, how(report)))
        write_json(whole, output / name)
    return whole


def joined(report: PredictionReport, records: dict[str, CaseRecord]) -> PredictionReport:
    """A run's report with the cases of other runs: predicted ones are kept, failed ones failed, all have their times.

    Args:
        report: Of the run; what it says about a case holds.
        records: Case id -> what became of it, made in the same way.
    """
    own = {*report.predicted, *report.failures}
    others = {case: record for case, record in records.items() if case not in own}
    failures = {case: record.failure for case, record in others.items() if record.failure}
    kept = {*report.kept, *(case for case in others if case not in failures)}
    times = {case: record.times for case, record in records.items() if record.times is not None}
    warnings = {case: record.warnings for case, record in records.items() if record.warnings}
    return replace(
        report,
        kept=tuple(sorted(kept)),
        failures=dict(sorted((failures | report.failures).items())),
        times=dict(sorted((times | report.times).items())),
        warnings=dict(sorted((warnings | report.warnings).items())),
    )


def _records(output: Path, made_with: str) -> dict[str, CaseRecord]:
    """Records of cases made in one way; damaged ones, and those whose segmentation went, do not count."""
    found = {}
    for path in sorted(records_dir(output).glob("*.json")):
        try:
            record = read_json(CaseRecord, path)
        except (ArtifactError, MissingArtifactError):
            continue
        if record.made_with == made_with and (record.failure or (output / record.file).is_file()):
            found[path.stem] = record
    return found
