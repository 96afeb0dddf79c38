"""What a worker does with a job that it has claimed: read the data, look at them, train, register the model.

Every transaction holds the lease first (:func:`ppcmi_server.training.leases.hold`), so a worker that has lost the job
changes nothing any more. Nor does one whose server's folder was removed: what it would write would make it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from sqlalchemy.orm import Session

from ppcmi.device import choose_device
from ppcmi.errors import TrainingError
from ppcmi.task import parse_task
from ppcmi_server import __version__, audit, clock, models
from ppcmi_server.config import ServerConfig
from ppcmi_server.database.schema import Consortium, Job, Model, Site, Task
from ppcmi_server.errors import OperatorError
from ppcmi_server.mapping.model_files import ModelFiles
from ppcmi_server.services import Services
from ppcmi_server.storage.keys import PRIVATE_KEY
from ppcmi_server.training import jobs
from ppcmi_server.training.checkpoints import Checkpoints, Point, delete_checkpoints, has_checkpoints, nowhere
from ppcmi_server.training.contributions import Report, examine
from ppcmi_server.training.leases import Lease, hold
from ppcmi_server.training.training_data import TrainingData, fingerprint, load_dataset, stored_cohorts
from ppcmi_server.umn.config import UmnConfig
from ppcmi_server.umn.model import TrainedUmn
from ppcmi_server.umn.training import DivergedError, EpochReport, Watching, train_umn

LOAD_ATTEMPTS = 5

Say = Callable[[str], None]
"""Writes a line into the job's log."""


class ServerGoneError(OperatorError):
    """The server's folder was removed, or moved away, while a job was under way."""


@dataclass(frozen=True)
class _Prepared:
    config: UmnConfig
    data: TrainingData
    weights: dict[str, float]
    fingerprint: str
    part: int | None


class TrainingOfJob:
    """One claim of a job.

    :param should_stop: asked before every batch.
    :param at: told where the training is; see :data:`~ppcmi_server.training.checkpoints.Point`.
    """

    def __init__(
        self, services: Services, lease: Lease, should_stop: Callable[[], bool], say: Say, at: Point = nowhere
    ) -> None:
        self._services, self._lease, self._should_stop, self._say, self._at = services, lease, should_stop, say, at
        self._files = ModelFiles(services.config.models_folder, services.blobs)

    def run(self) -> int:
        """Train, go on or finish, then register the model; its number.

        :raises LeaseLostError: if the job is another worker's by now.
        :raises ServerGoneError: if the server's folder is gone; nothing is written into its place.
        :raises CancelledError: when it should stop; a checkpoint is there.
        :raises DivergedError: after what it had learned before was registered, if anything.
        :raises PpcmiError: if the job cannot be done.
        """
        prepared = self._prepare()
        dataset = prepared.data.dataset
        self._at("loaded")
        self._say(f"{len(dataset)} slices")
        report = self._examined(prepared)
        try:
            umn = self._train(prepared)
        except DivergedError as error:
            self._register_failed(prepared, report, error)
            raise
        with self._kept(umn) as (name, digest), self._holding() as (session, job):
            self._complete_report(session, job, report)
            number = self._register(session, job, prepared.data, name, digest)
            jobs.finish(session, self._lease, "done")
        self._at("registered")
        delete_checkpoints(self._services.blobs, self._lease.job)
        return number

    def _prepare(self) -> _Prepared:
        """Read the data; what is withdrawn meanwhile is left out, and what was excluded before anything was learned."""
        config = self._services.config
        begun = has_checkpoints(self._services.blobs, self._lease.job)
        for _ in range(LOAD_ATTEMPTS):
            with self._holding() as (session, job):
                void = jobs.leave_out_withdrawn(session, job)
                begun = begun and not void
                excluded = 0 if begun else jobs.leave_out_excluded(session, job)
                task = session.get_one(Task, job.task_id)
                cohorts = stored_cohorts(session, jobs.cohorts_of(session, job))
                weights = _weights(job, {stored.site.id: stored.site for stored in cohorts})
                part, how = job.batch_size, job.config
            if void:
                delete_checkpoints(self._services.blobs, job.id)
            if excluded:
                self._say(f"cohorts that were excluded since the job was made, and are left out: {excluded}")
            umn_config = jobs.config_of(job)
            try:
                data = load_dataset(
                    self._services, parse_task(task.document), umn_config.profile, cohorts,
                    scratch=config.job_folder(job.id), weights=weights,
                )  # fmt: skip
            except FileNotFoundError:
                continue  # withdrawn while it was read; the next round leaves it out
            return _Prepared(umn_config, data, weights, fingerprint(how, cohorts, weights), part)
        raise TrainingError(
            "A cohort's bytes are missing; restore the blobs from a backup, or have the cohort withdrawn."
        )

    def _examined(self, prepared: _Prepared) -> Report:
        """What the data say of each site; kept with the job before the training, which may take long."""
        report = examine(prepared.data.dataset, prepared.data.facts, prepared.weights)
        with self._holding() as (_, job):
            job.report = report.to_json()
        for site in report.suspects:
            self._say(f"site {site.site} is suspect: {site.reason}")
        return report

    def _train(self, prepared: _Prepared) -> TrainedUmn:
        number = self._lease.job

        def report(epoch: EpochReport) -> None:
            self._say(f"epoch {epoch.epoch} of {epoch.epochs}: {epoch.train_loss:.5f}, {epoch.seconds:.1f} s")
            with self._holding() as (session, _):
                jobs.record_epoch(session, number, epoch)
            self._at("epoch-recorded")

        def smaller(part: int) -> None:
            self._say(f"memory is too small; {part} slices at once")
            with self._holding() as (_, job):
                job.batch_size = part

        checkpoints = Checkpoints(
            self._services.blobs, self._services.keys.storage_key, number, self._lease.fence, prepared.fingerprint,
            require_job=self._note_progress, at=self._at,
        )  # fmt: skip
        return train_umn(
            prepared.data.dataset, prepared.config, checkpoints,
            watching=Watching(report, self._should_stop_here, smaller),
            device=choose_device(self._services.config.training.device), part=prepared.part,
        )  # fmt: skip

    def _should_stop_here(self) -> bool:
        self._at("batch")
        _require_server(self._services.config)
        return self._should_stop()

    def _note_progress(self) -> None:
        with self._holding() as (_, job):
            job.attempts, job.message = 0, None

    def _register_failed(self, prepared: _Prepared, report: Report, error: DivergedError) -> None:
        """Keep the model of the last good epoch, if there is one, for the operator to look at; the job has failed."""
        if error.model is None:
            return
        with self._kept(error.model) as (name, digest), self._holding() as (session, job):
            number = self._register(session, job, prepared.data, name, digest)
            sentence = f"Model {number} is what the training had learned by epoch {error.epoch}, before it diverged."
            self._complete_report(session, job, report.saying(sentence))
            jobs.finish(session, self._lease, "failed", f"{error} Model {number} has it.")

    @contextmanager
    def _kept(self, umn: TrainedUmn) -> Iterator[tuple[str, str]]:
        """The model's file by name and digest; removed again if what follows fails."""
        name = f"job-{self._lease.job}-{self._lease.fence}.safetensors"
        umn.save(self._files.copy_of(name))
        try:
            digest = self._files.add(name)
            self._at("model-written")
            yield name, digest
        except BaseException:
            self._files.discard(name)
            raise

    @contextmanager
    def _holding(self) -> Iterator[tuple[Session, Job]]:
        """A writing transaction in which the job is surely this worker's."""
        _require_server(self._services.config)
        with self._services.database.writing() as session:
            yield session, hold(session, self._lease)

    def _complete_report(self, session: Session, job: Job, report: Report) -> None:
        curve = models.curve(session, job.id)
        job.report = report.with_losses(curve[-1].by_site or {} if curve else {}).to_json()

    def _register(self, session: Session, job: Job, data: TrainingData, file: str, digest: str) -> int:
        dataset = data.dataset
        task = session.get_one(Task, job.task_id)
        consortium = session.get_one(Consortium, task.id)
        config = jobs.config_of(job)
        checks = jobs.codec_checks(jobs.cohorts_of(session, job))
        model = Model(
            task_id=task.id, number=models.next_number(session, task.id), job_id=job.id, state="ready",
            preset=config.preset, profile=config.profile.value, mode=consortium.mode, scope=consortium.scope,
            codecs={codec: checks[codec] for codec in dataset.codecs}, config=job.config, seed=config.seed,
            code_version=f"ppcmi-server {__version__}, torch {torch.__version__}",
            file=file, file_digest=digest,
            cases=len(torch.unique(dataset.case)), slices=int((dataset.variant == 0).sum()),
            withdrawn_data=jobs.was_withdrawn(session, job), created=clock.now(),
        )  # fmt: skip
        session.add(model)
        audit.record(session, audit.OPERATOR, "model.create", task=task.name, model=model.number, job=job.id)
        return model.number


def _require_server(config: ServerConfig) -> None:
    """Look for a file that every server has, and that nobody edits."""
    if not (config.folder / PRIVATE_KEY).exists():
        raise ServerGoneError("The server's folder is gone, and nothing more is written; the job ends here.")


def _weights(job: Job, sites: dict[str, Site]) -> dict[str, float]:
    """How much each site counts: as when the job began, so that a training that goes on is the same training."""
    begun = {entry["site"]: entry["weight"] for entry in (job.report or {}).get("sites", [])}
    return {site: begun.get(site, row.weight) for site, row in sites.items()}
