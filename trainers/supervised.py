"""The default trainer: nnU-Net's recipe, on a schedule of epochs, iterations or wall time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch.utils.data import DataLoader

from autoseg.codec import digest, write_json
from autoseg.communication import value_of_first
from autoseg.data.completed import CompletedStore
from autoseg.data.loading import Batch, make_loader
from autoseg.data.watched import deaths_told
from autoseg.errors import SettingsError
from autoseg.figures import draw_progress
from autoseg.history import EpochRow, write_rows
from autoseg.inference.model import ModelRecord
from autoseg.inference.predictor import InferenceOptions
from autoseg.inference.volumes import predicting, score_volumes
from autoseg.networks.transfer import transfer
from autoseg.preprocessing.store import CaseStore
from autoseg.progress import Progress, duration_in_words
from autoseg.ranks import ALONE, Ranks
from autoseg.training import FitReport, RunLogger, RunRecord, TrainingJob, num_input_channels

from .agreement import agree_on_run
from .checkpoints import TrainingState, finished_rows, keep_epochs, resume_training, save_training
from .loggers import open_loggers
from .optimization import Length, run_length, set_learning_rate
from .repeatable import deterministic_algorithms
from .sampling import training_policy, validation_policy
from .schedules import Decay, learning_rate_at
from .step import Stepper, make_stepper, require_finite
from .stopping import StoppingRule, best_epochs, is_best, overfit_warning
from .validation import PatchScore, validate

_EMA_KEPT = 0.9  # of the smoothed score per epoch, as in nnU-Net
_EMA_KEPT_SHORT = 0.5  # a time budget has ten epochs: a slower mean would still look at the first ones
_BUDGET_VALIDATION_ITERATIONS = 8
_FIRST_HEARTBEAT_SECONDS = 30.0  # of an epoch, after which it says how long the run will take
_HEARTBEAT_SECONDS = 120.0
_ADAM_WARMUP = 0.05  # of the run: Adam's second moments are noise in the first steps


class SupervisedTrainer:
    """Trains one fold with soft Dice and cross-entropy, deep supervision and foreground oversampling."""

    def fit(self, job: TrainingJob, progress: Progress) -> FitReport:
        """Train, or go on where an interrupted run stopped.

        Raises:
            SettingsError: When the folder holds a run with other settings.
            TrainingError: When the loss is no longer a number.
            ArtifactError: When a checkpoint or preprocessed case cannot be read.
        """
        with deterministic_algorithms(wanted=job.config.deterministic), deaths_told():
            return self._fit(job, progress)

    def _fit(self, job: TrainingJob, progress: Progress) -> FitReport:
        clock = _Clock.start(job)
        device = torch.device(job.device)
        record = agree_on_run(job, device, progress)
        if job.run.final.is_file():
            return _report(record, finished_rows(job.run, progress, ranks=job.ranks))
        stepper = make_stepper(
            record.configuration,
            job.plan,
            job.config,
            optimizer=record.optimizer,
            learning_rate=record.learning_rate,
            weight_decay=record.weight_decay,
            precision=record.precision,
            device=device,
            ranks=job.ranks,
            tell=progress.message,
        )
        state = resume_training(
            job.run,
            network=stepper.network,
            optimizer=stepper.optimizer,
            scaler=stepper.scaler,
            device=device,
            ranks=job.ranks,
            progress=progress,
        )
        if state.step == 0 and job.config.pretrained is not None:
            _begin_with(job, stepper, progress)
        run = _Run(job=job, record=record, stepper=stepper, progress=progress, clock=clock.plus(state.seconds))
        with ExitStack() as open_files:
            loggers = open_loggers(job) if job.ranks.is_first else []
            for logger in loggers:
                open_files.callback(logger.close)
            state = replace(run, loggers=tuple(loggers)).train(state)
        return _report(record, state.rows)


def _report(record: RunRecord, rows: Sequence[EpochRow]) -> FitReport:
    """What a finished run came to, from its history."""
    return FitReport(
        iterations=rows[-1].iterations if rows else 0,
        seconds=rows[-1].seconds if rows else 0.0,
        best_score=max((row.ema_dice for row in rows), default=None),
        record=record,
    )


def _begin_with(job: TrainingJob, stepper: Stepper, progress: Progress) -> None:
    """Put pretrained weights into the network and write down what became of each.

    Raises:
        SettingsError: When the weights were not given, or do not fit at all.
    """
    if job.pretrained is None:
        raise SettingsError(
            f"{job.run_record_path.parent} begins with the weights {job.config.pretrained}, which were not given; "
            "name their file: --pretrained FILE"
        )
    report = transfer(job.pretrained, stepper.network, job.plan.labels)
    if job.ranks.is_first:
        write_json(report, job.run.transfer_report)
    progress.message(report.summary())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clock:
    """Wall time of the run, that of its interrupted parts included.

    Where the time decides what happens, all processes look at the first one's clock.
    """

    started: float
    ranks: Ranks

    @classmethod
    def start(cls, job: TrainingJob) -> _Clock:
        decides = job.config.time_budget is not None
        return cls(started=time.perf_counter(), ranks=job.ranks if decides else ALONE)

    def plus(self, seconds: float) -> _Clock:
        return replace(self, started=self.started - seconds)

    @property
    def seconds(self) -> float:
        return value_of_first(self.ranks, time.perf_counter() - self.started)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Epoch:
    """What the steps of one epoch came to."""

    step: int
    mean_loss: float
    learning_rate: float
    waiting: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Run:
    """One fold while it trains."""

    job: TrainingJob
    record: RunRecord
    stepper: Stepper
    progress: Progress
    clock: _Clock
    loggers: tuple[RunLogger, ...] = ()

    def train(self, state: TrainingState) -> TrainingState:
        """Run epochs until the length is reached; every epoch ends with a checkpoint."""
        windows = training_policy(self.job.config).epoch_steps(
            len(self.job.fold.train), self.record.configuration.batch_size
        )
        length = run_length(self.job.config, window_epoch=windows)
        held_out = self._validation_loader()
        batches = iter(self._training_loader(state.step, length.total_steps))
        while not self._is_over(length, state):
            epoch = self._train_epoch(batches, length, state)
            before_validation = self.clock.seconds
            score = self._validate(held_out)
            row = self._row(state, epoch, score)
            if self._validates_volumes(length, state, row):
                row = replace(row, volume_dice=self._validate_volumes(row), seconds=self.clock.seconds)
            best = is_best(state.rows, row, by_volume=self.job.config.volume_every is not None)
            state = state.after_epoch(row, seconds=self.clock.seconds)
            length = length.with_reserve(self.clock.seconds - before_validation)
            self._save(state, is_best=best, is_final=self._is_over(length, state))
            for logger in self.loggers:
                logger.log(row)
            self._tell(row, length)
            self._warn(state)
        if not self.job.run.final.is_file():  # the time ran out between two looks at the clock
            self._save(state, is_best=False, is_final=True)
        return state

    def _is_over(self, length: Length, state: TrainingState) -> bool:
        return self._stopping.is_over(state.rows) or length.is_over(state.step, self.clock.seconds)

    @property
    def _stopping(self) -> StoppingRule:
        return StoppingRule.of(self.job.config)

    def _validates_volumes(self, length: Length, state: TrainingState, row: EpochRow) -> bool:
        """Whether an epoch ends with a look at whole volumes: every few epochs, and when it is the last."""
        every = self.job.config.volume_every
        if every is None:
            return False
        is_last = length.is_over(row.iterations, row.seconds) or self._stopping.is_over((*state.rows, row))
        return (row.epoch + 1) % every == 0 or is_last

    def _validate_volumes(self, row: EpochRow) -> float:
        job, mean = self.job, 0.0
        if job.ranks.is_first:
            options = InferenceOptions(device=job.device, augmentation="none")
            with predicting(self.stepper.network, self._model_record(row.iterations)) as model:
                store = CaseStore(job.preprocessed_dir)
                mean = score_volumes(model, store, job.fold.val, previous=job.previous, options=options).mean
        return value_of_first(job.ranks, mean)

    def _train_epoch(self, batches: Iterator[Batch], length: Length, state: TrainingState) -> _Epoch:
        """Take optimizer steps until a validation pass is due."""
        step, history = state.step, [row.ema_dice for row in state.rows]
        started, waited, first = self.clock.seconds, 0.0, step
        losses, case_ids = list[torch.Tensor](), list[tuple[str, ...]]()
        cooled, due = self._stopping.cooled_rate(state.rows), started + _FIRST_HEARTBEAT_SECONDS
        while True:
            learning_rate, fraction = cooled, length.fraction(step, self.clock.seconds)
            if learning_rate is None:
                learning_rate = self._learning_rate(fraction, history)
            set_learning_rate(self.stepper.optimizer, learning_rate)
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            losses.append(self.stepper.step(batch.images, batch.targets, fraction=fraction))
            case_ids.append(batch.case_ids)
            if self.stepper.device.type == "cpu":  # reading a loss from a GPU would make it idle
                require_finite(float(losses[-1]), batch.case_ids, step=step, checkpoint=str(self.job.run.last))
            step += 1
            now = self.clock.seconds
            if length.epoch_is_over(step, now, epoch_seconds=now - started):
                break
            if now >= due:
                left = duration_in_words(length.seconds_left(step, now))
                self.progress.message(f"iteration {step}: loss {float(losses[-1]):.3f}, {left} left")
                due = now + _HEARTBEAT_SECONDS
        for offset, loss in enumerate(torch.stack(losses).tolist()):
            require_finite(loss, case_ids[offset], step=first + offset, checkpoint=str(self.job.run.last))
        mean = float(torch.stack(losses).mean())
        waiting = waited / max(self.clock.seconds - started, 1e-9)
        return _Epoch(step=step, mean_loss=mean, learning_rate=learning_rate, waiting=waiting)

    def _learning_rate(self, fraction: float, history: Sequence[float]) -> float:
        config, warmup = self.job.config, 0.0 if self.record.optimizer == "sgd" else _ADAM_WARMUP
        return learning_rate_at(
            config.schedule,
            self.record.learning_rate,
            fraction,
            warmup=warmup if config.warmup is None else config.warmup,
            history=history,
            decay=Decay(every=config.decay_every, factor=config.decay_factor),
        )

    def _training_loader(self, start_step: int, total_steps: int | None) -> DataLoader[Batch]:
        remaining = None if total_steps is None else total_steps - start_step
        patches = self.job.ranks.share(self.record.configuration.batch_size)
        return self._loader(
            self.job.fold.train, augment=True, start_step=start_step, num_steps=remaining, patches=patches
        )

    def _validation_loader(self) -> DataLoader[Batch]:
        """The same patches in every epoch, so that scores can be compared."""
        wanted = self.job.config.validation_iterations
        if self.job.config.time_budget is not None:
            wanted = min(wanted, _BUDGET_VALIDATION_ITERATIONS)
        ranks = self.job.ranks
        first = min(ranks.rank, wanted)
        return self._loader(
            self.job.fold.val, augment=False, start_step=first, num_steps=wanted - first, stride=ranks.size
        )

    def _loader(
        self,
        case_ids: tuple[str, ...],
        *,
        augment: bool,
        start_step: int,
        num_steps: int | None,
        patches: range | None = None,
        stride: int = 1,
    ) -> DataLoader[Batch]:
        on_gpu = self.stepper.device.type == "cuda"
        store = CaseStore(self.job.preprocessed_dir)
        return make_loader(
            CompletedStore(store, self.job.completed) if augment else store,
            case_ids,
            self.record.configuration,
            self.job.plan.labels,
            augment=augment,
            sampling=training_policy(self.job.config) if augment else validation_policy(self.job.config),
            seed=self.job.config.seed,
            start_step=start_step,
            num_steps=num_steps,
            # Without augmentation reading is cheap: on a CPU more processes would only take cores from training.
            workers=self.job.workers if augment or on_gpu else 0,
            pin_memory=on_gpu,
            previous=self.job.previous,
            case_weights=self.job.case_weights if augment else None,
            augmentation=self.job.config.augmentation,
            mirror_axes=self._mirror_axes,
            patches=patches,
            stride=stride,
        )

    @property
    def _mirror_axes(self) -> tuple[int, ...]:
        """Axes that are mirrored, as the run or else the plan says."""
        configuration = self.record.configuration
        return self.job.config.mirror_axes(configuration.ndim, allowed=configuration.mirror_axes)

    def _validate(self, batches: DataLoader[Batch]) -> PatchScore:
        stepper = self.stepper
        return validate(
            stepper.network,
            batches,
            labels=self.job.plan.labels,
            forward=stepper.forward,
            criterion=stepper.criterion,
            device=stepper.device,
            ranks=self.job.ranks,
        )

    def _row(self, state: TrainingState, epoch: _Epoch, score: PatchScore) -> EpochRow:
        kept = _EMA_KEPT if self.job.config.time_budget is None else _EMA_KEPT_SHORT
        ema = kept * state.rows[-1].ema_dice + (1 - kept) * score.dice if state.rows else score.dice
        return EpochRow(
            epoch=len(state.rows),
            iterations=epoch.step,
            seconds=self.clock.seconds,
            learning_rate=epoch.learning_rate,
            train_loss=epoch.mean_loss,
            val_loss=score.loss,
            val_dice=score.dice,
            ema_dice=ema,
            waiting=epoch.waiting,
        )

    def _model_record(self, iterations: int) -> ModelRecord:
        job = self.job
        return ModelRecord(
            configuration=self.record.configuration,
            labels=job.plan.labels,
            num_channels=num_input_channels(job.plan, self.record.configuration),
            mirror_axes=self._mirror_axes,
            iterations=iterations,
            plan_digest=digest(job.plan),
            precision=self.record.precision,
        )

    def _save(self, state: TrainingState, *, is_best: bool, is_final: bool) -> None:
        job = self.job
        if not job.ranks.is_first:
            return
        stepper, model = self.stepper, self._model_record(state.step)
        # Before the checkpoint: a run that is killed between the two writes them again, or is finished.
        write_rows(state.rows, job.run.log)
        draw_progress(state.rows, job.run.progress_picture)
        if job.config.keep_best > 1:
            keep = best_epochs(state.rows, job.config.keep_best, by_volume=job.config.volume_every is not None)
            keep_epochs(job.run, keep, state.rows[-1].epoch, record=model, weights=stepper.network.state_dict())
        save_training(
            job.run,
            record=model,
            network=stepper.network,
            optimizer=stepper.optimizer,
            scaler=stepper.scaler,
            state=state,
            is_best=is_best,
            is_final=is_final,
        )

    def _warn(self, state: TrainingState) -> None:
        """Say what the curves show, once."""
        if news := self._stopping.news(state.rows):
            self.progress.message(news)
        if warning := overfit_warning(state.rows):
            self.progress.message(warning)

    def _tell(self, row: EpochRow, length: Length) -> None:
        left = duration_in_words(length.seconds_left(row.iterations, row.seconds))
        volumes = "" if row.volume_dice is None else f", of whole volumes {row.volume_dice:.3f}"
        self.progress.message(
            f"epoch {row.epoch}, iteration {row.iterations}: loss {row.train_loss:.3f}, validation Dice "
            f"{row.val_dice:.3f} (smoothed {row.ema_dice:.3f}){volumes}, waited for data {row.waiting:.0%}, {left} left"
        )
