"""Which of the trained configurations predict: the best combination, or what there is while training goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.atomic import remove_leftovers
from autoseg.codec import digest, read_json, write_json
from autoseg.dataset import load_dataset
from autoseg.errors import ArtifactError, MissingArtifactError
from autoseg.evaluation.selection import NNUNETS_RULE, Candidate, Rule, SearchRule, Selection, select
from autoseg.inference.ensemble import Ensemble, Member
from autoseg.inference.export import PROBABILITIES_ENDING
from autoseg.pipeline.folds import load_folds
from autoseg.pipeline.selection_report import write_selection_report
from autoseg.pipeline.trusting import fit_trust_model, with_temperatures
from autoseg.plan import Plan
from autoseg.postprocessing.steps import parse_step
from autoseg.progress import LoggingProgress, Progress
from autoseg.receipt import altered_files, standing
from autoseg.splits import Fold
from autoseg.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionOptions:
    """How the best combination is chosen.

    Args:
        rule: "nested" or "nnunet"; see :class:`autoseg.evaluation.selection.Selection`.
        metric: What is maximized: metrics separated by commas, the mean of which counts.
        max_votes: Members of an ensemble, each counted as often as its weight.
        operations: Postprocessing that is tried.
        postprocessing: Steps that the user decided, as :func:`autoseg.postprocessing.steps.parse_step` reads them;
            "none" for no step, None to try ``operations``.
        any_cost: Take the best, even if something cheaper does not differ from it.
    """

    rule: Rule = "nested"
    metric: str = "dice"
    max_votes: int = SearchRule().max_votes
    operations: tuple[str, ...] = SearchRule().operations
    postprocessing: tuple[str, ...] | None = None
    any_cost: bool = False

    def search(self, plan: Plan) -> SearchRule:
        """The rule of the search, for the labels of a plan.

        Raises:
            SettingsError: When a step or an operation is unknown.
        """
        steps = None
        if self.postprocessing is not None:
            steps = tuple(parse_step(text, plan.labels) for text in self.postprocessing if text.strip() != "none")
        if self.rule == "nnunet":
            return replace(NNUNETS_RULE, fixed_steps=steps)
        return SearchRule(
            max_votes=self.max_votes,
            prefers_cheaper=not self.any_cost,
            operations=self.operations,
            fixed_steps=steps,
        )


def current_ensemble(workspace: Workspace, *, require_complete: bool, progress: Progress) -> Ensemble:
    """The recorded choice if nothing was trained since, else a new one.

    Args:
        workspace: Holds results.
        require_complete: Refuse when no configuration has all its folds.
        progress: Told what is chosen.

    Raises:
        MissingArtifactError: When nothing is trained, or not enough.
    """
    if workspace.ensemble_path.is_file():
        try:
            known = read_json(Ensemble, workspace.ensemble_path)
        except ArtifactError as error:
            progress.message(f"choosing anew: {error}")
        else:
            outdated = workspace.has_dataset and known.scores_digest != _scores_digest(workspace)
            if not outdated and not (require_complete and known.selection == "incomplete"):
                return known
    return select_ensemble(workspace, require_complete=require_complete, progress=progress)


def select_ensemble(
    workspace: Workspace,
    *,
    options: SelectionOptions = SelectionOptions(),
    require_complete: bool = False,
    progress: Progress | None = None,
) -> Ensemble:
    """Choose by cross-validation and write ensemble.json and reports/selection.md.

    Configurations with all folds compete, alone and together. If there is none, what is trained is used.

    Args:
        workspace: Holds plan, folds and results.
        options: What is maximized, and how far the search goes.
        require_complete: Refuse when no configuration has all its folds.
        progress: Told what is chosen and why; None logs.

    Raises:
        MissingArtifactError: When nothing is trained, or not enough.
    """
    progress = progress or LoggingProgress()
    plan, folds = workspace.load_plan(), load_folds(workspace)
    scored = {name: _scored_folds(workspace, name, len(folds)) for name in plan.configuration_names}
    complete = [name for name, numbers in scored.items() if len(numbers) == len(folds)]
    if complete:
        candidates = [_candidate(workspace, plan, name, folds, range(len(folds))) for name in complete]
        members = {name: tuple(range(len(folds))) for name in complete}
        ensemble = _select(workspace, plan, candidates, members, options, progress, complete=True)
    else:
        message = _what_is_missing(workspace, plan, scored, len(folds))
        if require_complete:
            raise MissingArtifactError(message)
        progress.message(message)
        ensemble = _from_incomplete(workspace, plan, folds, scored, options, progress)
    write_json(ensemble, workspace.ensemble_path)
    for reason in ensemble.reasons:
        progress.message(reason)
    return ensemble


def _from_incomplete(
    workspace: Workspace,
    plan: Plan,
    folds: Sequence[Fold],
    scored: dict[str, tuple[int, ...]],
    options: SelectionOptions,
    progress: Progress,
) -> Ensemble:
    """Compare what can be compared: the configurations on the folds that all of them have."""
    started = [name for name, numbers in scored.items() if numbers]
    if not started:
        return _from_unscored(workspace, plan)
    common = sorted(set.intersection(*(set(scored[name]) for name in started)))
    if not common:
        # Different folds are different cases: take the configuration that has seen most, not the luckier one.
        started = [max(started, key=lambda name: len(scored[name]))]
        common = list(scored[started[0]])
    candidates = [_candidate(workspace, plan, name, folds, common) for name in started]
    members = {name: scored[name] for name in started}
    return _select(workspace, plan, candidates, members, options, progress, complete=False)


def _from_unscored(workspace: Workspace, plan: Plan) -> Ensemble:
    """Models without held-out scores, such as the fold of all cases: the first in the plan's order of preference."""
    preferred = sorted(plan.configurations, key=lambda c: (c.ndim != 3, c.previous_stage is not None))
    for configuration in preferred:
        trained = workspace.trained_folds(configuration.name)
        if trained:
            reason = f"{configuration.name} is used: it is trained, and there are no scores to compare it by."
            return Ensemble(
                members=(Member(configuration=configuration.name, folds=trained),),
                selection="incomplete",
                reasons=(reason,),
                scores_digest=_scores_digest(workspace),
            )
    raise MissingArtifactError(f"nothing is trained in {workspace.root}. Train: {_training_command(workspace, plan)}")


def _select(
    workspace: Workspace,
    plan: Plan,
    candidates: Sequence[Candidate],
    folds: dict[str, tuple[int, ...]],
    options: SelectionOptions,
    progress: Progress,
    *,
    complete: bool,
) -> Ensemble:
    dataset = load_dataset(workspace.dataset_source)
    held_out = candidates[0].segmentations
    references = {case.id: case.label for case in dataset.training if case.id in held_out and case.label is not None}
    frames = {case.id: case.frame for case in dataset.training}
    calibrates = options.rule == "nested"
    if calibrates:
        candidates = with_temperatures(candidates, references, plan.labels, progress, frames)
    selection = select(
        candidates,
        references,
        plan.labels,
        rule=options.rule,
        metric=options.metric,
        search=options.search(plan),
        images={case.id: case.images for case in dataset.training},
        frames=frames,
    )
    trust = fit_trust_model(selection, candidates, references, plan.labels, progress, frames) if calibrates else None
    if trust is None:
        workspace.trust_path.unlink(missing_ok=True)
    else:
        write_json(trust, workspace.trust_path)
    remove_leftovers(workspace.reports_dir)
    write_selection_report(selection, plan.labels, workspace.reports_dir, trust, made_from=_scores_digest(workspace))
    temperatures = {candidate.name: candidate.temperature for candidate in candidates}
    return Ensemble(
        members=tuple(
            Member(configuration=name, folds=folds[name], weight=float(weight), temperature=temperatures[name])
            for name, weight in zip(selection.members, selection.weights, strict=True)
        ),
        postprocessing=selection.postprocessing,
        selection="cross-validation" if complete else "incomplete",
        scores=_score_table(selection),
        reasons=selection.reasons,
        scores_digest=_scores_digest(workspace),
        metrics=selection.metrics,
        promised=selection.score,
        promised_interval=selection.nested_interval,
    )


def _score_table(selection: Selection) -> dict[str, float | None]:
    return {candidate.name: candidate.dice for candidate in selection.candidates}


def _candidate(workspace: Workspace, plan: Plan, name: str, folds: Sequence[Fold], numbers: Sequence[int]) -> Candidate:
    segmentations: dict[str, Path] = {}
    probabilities: dict[str, Path] = {}
    fold_of: dict[str, str] = {}
    for number in numbers:
        folder = workspace.run(name, number).validation
        _require_intact(folder, folds[number].val, f"autoseg train {name} fold{number} -w {workspace.root}")
        for case in folds[number].val:
            segmentations[case] = folder / f"{case}{plan.file_ending}"
            fold_of[case] = f"fold{number}"
            stored = folder / f"{case}{PROBABILITIES_ENDING}"
            if stored.is_file():
                probabilities[case] = stored
    # A cascade needs the networks of its first stage as well.
    cost = 1.0 if plan.configuration(name).previous_stage is None else 2.0
    return Candidate(name=name, segmentations=segmentations, probabilities=probabilities, folds=fold_of, cost=cost)


def _require_intact(folder: Path, cases: Sequence[str], command: str) -> None:
    """Refuse held-out predictions that are not those that were scored: the choice would rest on something else.

    Raises:
        ArtifactError: When segmentations or probabilities were altered, damaged or removed.
    """
    for case in cases:
        became = standing(folder, case)
        if became in ("altered", "begun"):
            files = altered_files(folder, case) or (case,)
            raise ArtifactError(
                f"{folder / files[0]} was altered, damaged or removed since it was predicted. Make it again: {command}"
            )


def _scored_folds(workspace: Workspace, name: str, num_folds: int) -> tuple[int, ...]:
    return tuple(fold for fold in range(num_folds) if workspace.run(name, fold).scores.is_file())


def _scores_digest(workspace: Workspace) -> str:
    """Changes when a fold is trained or trained again."""
    files = sorted(workspace.root.glob("results/*/fold*/validation/scores.json"))
    finals = sorted(workspace.root.glob("results/*/fold*/checkpoint_final.pt"))
    state = [(str(p.relative_to(workspace.root)), p.stat().st_size, p.stat().st_mtime_ns) for p in (*files, *finals)]
    return digest(state)


def _what_is_missing(workspace: Workspace, plan: Plan, scored: dict[str, tuple[int, ...]], num_folds: int) -> str:
    started = {name: numbers for name, numbers in scored.items() if numbers}
    if not started:
        return f"no configuration has held-out scores yet. Train: {_training_command(workspace, plan)}"
    listing = []
    for name, numbers in started.items():
        missing = [f"fold{fold}" for fold in range(num_folds) if fold not in numbers]
        listing.append(f"{name} lacks {', '.join(missing)} (autoseg train {name} -w {workspace.root})")
    return f"no configuration has all {num_folds} folds; what is trained is used. {'; '.join(listing)}"


def _training_command(workspace: Workspace, plan: Plan) -> str:
    names = plan.configuration_names
    return f"autoseg train {'3d_fullres' if '3d_fullres' in names else names[0]} fold0 -w {workspace.root}"
