"""From a raw dataset to a plan, folds and preprocessed cases; a second run does what is missing."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.arrays import IN_MEMORY, Room
from autoseg.atomic import remove_leftovers
from autoseg.check import CheckReport, check_dataset
from autoseg.codec import digest, is_as_written, read_json, write_json
from autoseg.dataset import Case, Dataset, DatasetSource, load_dataset
from autoseg.dataset.kept import KEPT_CASES
from autoseg.dataset.loading import remembered
from autoseg.errors import ArtifactError, DatasetError, MissingArtifactError
from autoseg.fingerprint import Fingerprint
from autoseg.hardware import planning_memory
from autoseg.lock import hold
from autoseg.measurement import merge
from autoseg.memory import memory_state
from autoseg.parallel import WorkerPool, default_workers
from autoseg.pipeline.checking import measure_cases, with_voxel_problems
from autoseg.pipeline.folds import settle_folds
from autoseg.pipeline.forecast import Forecast, make_forecast, tell_forecast
from autoseg.pipeline.intensities import parse_intensities, resolve_references
from autoseg.pipeline.laterality import keep_sides_apart
from autoseg.pipeline.measuring import MeasuredSizer, fit_to_memory
from autoseg.pipeline.plans import merge_plans, request_network, request_slices, require_network, stamp
from autoseg.plan import Configuration, Plan
from autoseg.planning import PLANNERS, Planner, PlannerBudget, memory_warnings
from autoseg.preprocessing.job import PreprocessJob, PreprocessTarget, preprocess_file
from autoseg.preprocessing.store import is_complete, is_there
from autoseg.progress import LoggingProgress, Progress
from autoseg.splits import SplitRule
from autoseg.workspace import Workspace

_PLAN_WAIT_SECONDS = 30.0  # for a train command that adds a variant at this moment
_WORK = ("autoseg.measurement", "autoseg.preprocessing.job", "scipy.ndimage", "blosc2")  # what workers import
_ARRAYS_AT_ONCE = 16  # of a case, the largest of its kind, beside those of a slab
_KEPT_SHARE = 0.2  # of the free memory, for cases that wait between being measured and being preprocessed


def plan_and_preprocess(
    dataset: Path | str | DatasetSource,
    *,
    workspace: Path | str | None = None,
    planner: str = "unet",
    gpu_memory_gb: float | None = None,
    spacing: tuple[float, ...] | None = None,
    network: str | None = None,
    network_options: Sequence[str] = (),
    variant: str | None = None,
    patch: tuple[int, int, int] | None = None,
    bases: Sequence[str] = (),
    slices: int | None = None,
    slice_axes: Sequence[int] | None = None,
    configurations: Sequence[str] | None = None,
    split: SplitRule | None = None,
    intensities: Sequence[str] = (),
    measure_on: str | None = None,
    max_memory_gb: float | None = None,
    scratch: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Workspace:
    """Check, measure, plan, split and preprocess a dataset; what is complete and unchanged is kept.

    Args:
        dataset: Folder with a dataset.json, nnU-Net's or the Decathlon's; or how the dataset is given without one.
        workspace: Folder for everything derived; None takes ``dataset``/autoseg.
        planner: Name in the planner registry.
        gpu_memory_gb: Memory to size networks for; None looks at the machine.
        spacing: Full-resolution target spacing in mm, axes as stored.
        network: Name in the network registry, or ``package.module:Class``; adds configurations such as
            "3d_fullres@maunet" with this network. None takes the planner's own.
        network_options: Options of that network, ``name=value`` each.
        variant: What the names of its configurations end in, instead of the network's name.
        patch: Voxels (z, y, x) of the network's patch, axes as stored, where case and memory allow it.
        bases: Configurations to plan the network for, such as "3d_fullres"; empty for all.
        slices: Also plan the configuration "2p5d", whose network sees stacks of so many neighboring slices; None
            plans it only where ``configurations`` or ``slice_axes`` name it, with five slices.
        slice_axes: Plan axes across which its slices are cut, which becomes part of its name; None leaves it to the
            planner.
        configurations: Names to preprocess; None takes all.
        split: How to make folds; None does as before, at first as nnU-Net does, groups kept together.
        intensities: What is asked of channels, such as "CT=window(-42,423)" or "n4+zscore"; see
            :func:`~autoseg.pipeline.intensities.parse_intensities`.
        measure_on: Device on which a training step of every configuration is measured against the memory, so that
            what does not fit is made smaller; None trusts the planner.
        max_memory_gb: What preparation may take, all processes together; large arrays go to scratch files, and there
            are no more workers than one per GB. None limits it only where it would need more than is free.
        scratch: Folder of scratch files; None takes the workspace.
        workers: Worker processes; None takes one per processor, 0 works in this process.
        progress: Told what happens; None logs.

    Raises:
        DatasetError: When the dataset has problems; nothing is planned.
        SettingsError: When there is no such device.
        PlanError: When no plan fits.
    """
    progress = progress or LoggingProgress()
    source = dataset if isinstance(dataset, DatasetSource) else DatasetSource(root=Path(dataset))
    asked = [parse_intensities(text) for text in intensities]
    folder = source.root / "autoseg" if workspace is None else Path(workspace)
    source = as_given_before(source, folder)
    workers = default_workers() if workers is None else workers
    if max_memory_gb is not None:
        workers = min(workers, max(1, int(max_memory_gb)))
    loaded = load_dataset(source)
    chosen = PLANNERS.get(planner, allow_reference=True)()  # before any work: a typo should not cost minutes
    request = request_network(network, network_options, variant, patch=patch, bases=bases)
    with hold(Workspace(folder).preparation_lock, f"the preparation of {folder}", tell=progress.message):
        remove_leftovers(folder)
        space = Workspace.create(folder, source.root, source=remembered(source, loaded))
        progress.message(f"{loaded.name}: {len(loaded.training)} training cases, {', '.join(loaded.channels)}")
        memory = planning_memory(gpu_memory_gb)
        known = space.load_plan().configuration_names if space.plan_path.is_file() else ()
        budget = PlannerBudget(
            gpu_memory_gb=memory.gigabytes,
            gpu_memory_source=memory.source,
            spacing=spacing,
            intensities=resolve_references(asked, loaded),
            network=request,
            slices=request_slices(slices, slice_axes, configurations or bases, known),
        )
        with WorkerPool(min(workers, len(loaded.training))) as pool, _closing_kept_cases():
            fingerprint = _check_and_measure(loaded, space, pool, progress, max_memory_gb)
            plan = _plan(loaded, space, fingerprint, chosen, budget, progress)
            if measure_on is not None:
                fit_to_memory(space, MeasuredSizer(loaded, fingerprint, chosen, budget, measure_on), progress)
                plan = space.load_plan()
            folds = settle_folds(loaded, space, split, {case.id: case.labels for case in fingerprint.cases}, progress)
            Workspace.create(folder, source.root, folds=split)  # only now: a rule that was refused is not remembered
            progress.message(f"{len(folds)} folds: {space.splits_path}")
            wanted = [plan.configuration(name) for name in configurations] if configurations else plan.configurations
            for warning in memory_warnings(plan, [configuration.name for configuration in wanted]):
                progress.message(f"warning: {space.plan_path}: {warning}")
            limits = _Limits(max_memory_gb=max_memory_gb, scratch=scratch)
            _preprocess(loaded, space, plan, wanted, fingerprint, pool, progress, limits)
    return space


@contextmanager
def _closing_kept_cases() -> Iterator[None]:
    """Forget at the end what this process kept, as it does where there are no worker processes."""
    try:
        yield
    finally:
        KEPT_CASES.clear()


def as_given_before(source: DatasetSource, folder: Path) -> DatasetSource:
    """What the workspace remembers of the dataset, where the command says no more than its folder."""
    recorded = Workspace(folder.resolve())
    if source != DatasetSource(root=source.root) or not recorded.record_path.is_file() or not recorded.has_dataset:
        return source
    known = recorded.dataset_source
    return known if known.root.resolve() == source.root.resolve() else source


def case_digest(case: Case) -> str:
    """Changes when a file of a case does: its name, size or time."""
    paths = [*case.images, *([case.label] if case.label else [])]
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    states = [(str(path.resolve()), path.stat()) for path in files]  # however the folder was named
    frame = [] if case.frame is None else [case.frame]
    return digest([*([path, state.st_size, state.st_mtime_ns] for path, state in states), *frame])


def _check_and_measure(
    dataset: Dataset, space: Workspace, pool: WorkerPool, progress: Progress, max_memory_gb: float | None
) -> Fingerprint:
    """Look at headers and voxels, tell all problems at once, and measure; nothing is read again for a known dataset.

    Raises:
        DatasetError: When there are errors; all are told before.
    """
    aliases = [dataset.labels.aliases] if dataset.labels.aliases else []
    source = digest([dataset.labels.values, dataset.labels.ignore_value, *aliases, *map(case_digest, dataset.training)])
    known = _known_fingerprint(space, progress)
    if known is None or known.source != source:
        pool.start(_WORK)  # while the headers are read here
    report = check_dataset(dataset)
    if known is not None and known.source == source and not report.errors:
        write_json(_with_earlier_voxels(report, space), space.check_path)
        _tell(report, progress)
        progress.message(f"fingerprint: unchanged, {space.fingerprint_path}")
        return known
    cases = [case for case in dataset.training if case.id not in report.unusable_cases]
    usable = memory_state().available or 0
    if max_memory_gb is not None:
        usable = min(usable, int(max_memory_gb * 10**9))
    kept_bytes = int(usable * _KEPT_SHARE)
    measured = measure_cases(dataset, cases, report.majority_orientation, pool, progress, kept_bytes=kept_bytes)
    report = with_voxel_problems(report, measured, dataset)
    write_json(report, space.check_path)
    _tell(report, progress)
    if report.errors:
        raise DatasetError(f"{report.summary()}. All problems: {space.check_path}")
    measurements = [m.measurement for m in measured if m.measurement is not None]
    fingerprint = replace(merge(measurements, orientation=report.majority_orientation), source=source)
    write_json(fingerprint, space.fingerprint_path)
    return fingerprint


def _known_fingerprint(space: Workspace, progress: Progress) -> Fingerprint | None:
    """What was measured before; None where nothing was, or where the file cannot be trusted."""
    try:
        return read_json(Fingerprint, space.fingerprint_path)
    except MissingArtifactError:
        return None
    except ArtifactError as error:
        progress.message(f"measuring again: {error}")
        return None


def _tell(report: CheckReport, progress: Progress) -> None:
    for problem in (*report.repairs, *report.warnings):
        progress.message(f"{problem.severity}: {problem}")
    for problem in report.errors if len(report.errors) > 1 else ():
        progress.message(f"error: {problem}")


def _with_earlier_voxels(report: CheckReport, space: Workspace) -> CheckReport:
    """The report with what was found in the voxels when they were read."""
    try:
        earlier = read_json(CheckReport, space.check_path)
    except (ArtifactError, MissingArtifactError):
        return report
    return replace(report, problems=(*report.problems, *(p for p in earlier.problems if p.in_voxels)))


def _plan(
    dataset: Dataset,
    space: Workspace,
    fingerprint: Fingerprint,
    planner: Planner,
    budget: PlannerBudget,
    progress: Progress,
) -> Plan:
    """Plan, and bring the result into the plan that may be there."""
    plan = stamp(keep_sides_apart(planner.plan(dataset, fingerprint, budget)), fingerprint, budget)
    plan = replace(plan, view=space.dataset_source.view)
    require_network(plan, budget.network)
    with hold(space.plan_lock, str(space.plan_path), wait=_PLAN_WAIT_SECONDS, tell=progress.message):
        plan = _merge_with_known(plan, space, progress)
        write_json(plan, space.plan_path)
    progress.message(f"planned for {plan.gpu_memory_gb:g} GB ({plan.gpu_memory_source}): {space.plan_path}")
    for note in plan.notes:
        if budget.network is not None and note.startswith(f"{budget.network.name} was not planned"):
            progress.message(note)
    return plan


def _merge_with_known(plan: Plan, space: Workspace, progress: Progress) -> Plan:
    if space.plan_path.is_file():
        known = space.load_plan()
        if not is_as_written(space.plan_path):
            progress.message(f"{space.plan_path} was edited since autoseg wrote it; the edits stay where they can")
        trained = [name for name in known.configuration_names if space.run_record_path(name).is_file()]
        merged = merge_plans(known, plan, trained=trained)
        plan = merged.plan
        for message in merged.messages:
            progress.message(message)
    return plan


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    """What preparation may take."""

    max_memory_gb: float | None
    scratch: Path | None

    def room(self, forecast: Forecast, folder: Path) -> Room:
        """Where a worker's large arrays lie: in memory as long as all that exist at once fit into its share."""
        if forecast.memory_limit is None:
            return IN_MEMORY
        share = forecast.memory_limit // max(1, forecast.workers)
        return Room(largest=share // _ARRAYS_AT_ONCE, scratch=self.scratch or folder)


def _preprocess(
    dataset: Dataset,
    space: Workspace,
    plan: Plan,
    configurations: Sequence[Configuration],
    fingerprint: Fingerprint,
    pool: WorkerPool,
    progress: Progress,
    limits: _Limits,
) -> None:
    """Preprocess what is missing or made from something else; a case is read once for all configurations."""
    by_folder = {c.data: c for c in reversed(configurations)}
    made_from = {data: preprocessing_digest(plan, c) for data, c in reversed(by_folder.items())}
    jobs, replaced = [], set[str]()
    for case in dataset.training:
        of_case = case_digest(case)
        targets = tuple(
            PreprocessTarget(
                configuration=by_folder[data], folder=space.preprocessed_dir(data), digest=digest([source, of_case])
            )
            for data, source in made_from.items()
        )
        missing = tuple(t for t in targets if not is_complete(t.folder, case.id, t.digest))
        if missing:
            jobs.append(PreprocessJob(case=case, plan=plan, targets=missing, cache=space.cache_dir))
            replaced |= {t.configuration.data for t in missing if is_there(t.folder, case.id)}
    names = ", ".join(made_from)
    has_gpu = shutil.which("nvidia-smi") is not None
    forecast = make_forecast(
        plan,
        configurations,
        fingerprint,
        space.root,
        workers=pool.workers,
        has_gpu=has_gpu,
        max_memory_gb=limits.max_memory_gb,
    )
    write_json(forecast, space.forecast_path)
    if not jobs:
        progress.message(f"{names}: all {len(dataset.training)} cases are preprocessed")
        return
    tell_forecast(forecast, progress)
    room = limits.room(forecast, space.root)
    jobs = [replace(job, room=room) for job in jobs]
    with _keep_training_away(space, plan, replaced, progress):
        done = pool.map(preprocess_file, jobs, label=lambda job: job.case.id, home=lambda job: job.case.id)
        for _ in progress.track(done, total=len(jobs), description=f"preprocessing {names}"):
            pass


@contextmanager
def _keep_training_away(space: Workspace, plan: Plan, data: Collection[str], progress: Progress) -> Iterator[None]:
    """Hold the folds that read cases which are replaced: one that trained on would see half of each.

    Raises:
        LockedError: When one of them is being trained.
    """
    with ExitStack() as held:
        for configuration in plan.configurations:
            if configuration.data in data:
                for lock in sorted(space.results_dir(configuration.name).glob("fold*/.lock")):
                    what = f"{configuration.name} {lock.parent.name}, whose preprocessed cases have to be replaced,"
                    held.enter_context(hold(lock, what, tell=progress.message))
        yield


def preprocessing_digest(plan: Plan, configuration: Configuration) -> str:
    """Changes when preprocessed arrays would: not with the network, nor with the batch."""
    return digest(
        [
            plan.transpose,
            plan.orientation,
            plan.labels,
            configuration.spacing,
            configuration.normalization,
            configuration.resampling,
        ]
    )
