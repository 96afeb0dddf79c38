"""Training jobs as the database has them: queued, running, perhaps paused, then done, failed or stopped.

A job is made once and says which cohorts it trains on and how. A worker process claims it
(:mod:`ppcmi_server.training.leases`); one that is ``running`` while its worker is dead was interrupted, and goes on
from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import delete, exists, select, update
from sqlalchemy.orm import Session

from ppcmi.errors import TrainingError, UsageError
from ppcmi.scales import Profile
from ppcmi.task import parse_task
from ppcmi_server import audit, clock
from ppcmi_server.config import ServerConfig
from ppcmi_server.database.schema import Cohort, Job, JobCohort, JobEpoch, Task
from ppcmi_server.intake.cohorts import fits_consortium, trainable
from ppcmi_server.storage.blobs import BlobStore
from ppcmi_server.training.checkpoints import may_have_checkpoints
from ppcmi_server.training.leases import CLAIMABLE, Lease, died_here, hold
from ppcmi_server.umn.config import UmnConfig, usual_config, usual_preset
from ppcmi_server.umn.model import Preset
from ppcmi_server.umn.training import EpochReport

UNFINISHED = (*CLAIMABLE, "paused")
MAXIMUM_EPOCHS = 10_000


@dataclass(frozen=True)
class TrainingRequest:
    """What an operator asks of a training; None leaves it to the preset, the cohorts, or the job that is unfinished."""

    preset: Preset | None = None
    profile: Profile | None = None
    epochs: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.epochs is not None and not 1 <= self.epochs <= MAXIMUM_EPOCHS:
            raise UsageError(f"A training has 1 to {MAXIMUM_EPOCHS} epochs.")
        if self.seed is not None and not 0 <= self.seed < 1 << 31:
            raise UsageError("A seed is a whole number from 0 to 2147483647.")


def queue_job(session: Session, task: Task, request: TrainingRequest, actor: str = audit.OPERATOR) -> tuple[Job, bool]:
    """The task's unfinished job, or a new one on all whole cohorts that fit; and whether it is new.

    A paused one goes on.

    :raises TrainingError: if there is no cohort to train on, more than one profile to choose from, or an unfinished job
        that was asked for otherwise.
    """
    session.execute(select(Task.id).where(Task.id == task.id).with_for_update())  # one job a task, also on PostgreSQL
    unfinished = session.scalar(select(Job).where(Job.task_id == task.id, Job.state.in_(UNFINISHED)))
    if unfinished is not None:
        _require_same(unfinished, request)
        if unfinished.state == "paused" or unfinished.pause_requested:
            resume(session, unfinished.id, actor)
        return unfinished, False
    candidates = _candidates(session, task)
    profile = request.profile or _only_profile(candidates)
    cohorts = [cohort for cohort in candidates if _has_scales(cohort, profile)]
    if not cohorts:
        raise TrainingError(f"No cohort has the scales of profile '{profile}'; choose another with --profile.")
    codec_checks(cohorts)
    job = Job(task_id=task.id, state="queued", config=_to_json(_config(request, profile, task)), created=clock.now())
    session.add(job)
    session.flush()
    session.add_all(JobCohort(job_id=job.id, cohort_id=cohort.id) for cohort in cohorts)
    audit.record(session, actor, "job.queue", task=task.name, job=job.id)
    return job, True


def list_jobs(session: Session) -> list[tuple[Job, Task]]:
    """Every job with its task, oldest first."""
    rows = session.execute(select(Job, Task).join(Task, Task.id == Job.task_id).order_by(Job.id))
    return [(job, task) for job, task in rows]


def find_job(session: Session, number: int) -> Job:
    """A job by its number.

    :raises TrainingError: if there is none.
    """
    job = session.get(Job, number)
    if job is None:
        raise _no_such_job()
    return job


def is_alive(config: ServerConfig, job: Job) -> bool:
    """Whether a process works on the job, as far as one look tells: it has one that did not die on this machine.

    Of a worker on another machine only a :class:`~ppcmi_server.training.leases.Watch` can tell, by looking more than
    once.
    """
    return job.state == "running" and job.worker is not None and not died_here(config, job)


def unfinished_jobs(session: Session) -> list[Job]:
    """Jobs that run or wait for a worker, or were paused, the oldest first."""
    return list(session.scalars(select(Job).where(Job.state.in_(UNFINISHED)).order_by(Job.id)))


def queue_positions(session: Session) -> dict[int, int]:
    """How many-th in the queue each job is that waits for a worker, from 1."""
    queued = session.scalars(select(Job.id).where(Job.state == "queued").order_by(Job.id))
    return {number: place for place, number in enumerate(queued, start=1)}


def request_stop(session: Session, number: int, actor: str = audit.OPERATOR) -> None:
    """End a job for good, without a model. Its worker has lost it at once, and ends when it notices.

    :raises TrainingError: if there is no such job, or it has ended.
    """
    job = _unfinished(session, number)
    job.stop_requested = True
    job.state, job.message, job.finished = "stopped", "The operator stopped it.", clock.now()
    job.worker, job.fence, job.pause_requested = None, job.fence + 1, False
    audit.record(session, actor, "job.stop", job=job.id)


def request_pause(session: Session, number: int, actor: str = audit.OPERATOR) -> bool:
    """Have a job put aside until :func:`resume`; whether its worker has to notice first, and make a checkpoint.

    :raises TrainingError: if there is no such job, or it has ended.
    """
    job = _unfinished(session, number)
    audit.record(session, actor, "job.pause", job=job.id)
    if job.worker is None:
        job.state = "paused"
        return False
    job.pause_requested = True
    return True


def resume(session: Session, number: int, actor: str = audit.OPERATOR) -> None:
    """Put a job that was paused, or is about to be, back into the queue; what hindered it before is forgotten.

    :raises TrainingError: if there is no such job, it has ended, or it is not paused.
    """
    job = _unfinished(session, number)
    if job.state != "paused" and not job.pause_requested:
        raise TrainingError(f"The job is not paused: {job.state}.")
    if job.state == "paused":
        job.state, job.attempts, job.message = "queued", 0, None
    job.pause_requested = False
    audit.record(session, actor, "job.resume", job=job.id)


def leave_out_withdrawn(session: Session, job: Job) -> bool:
    """Leave out what was withdrawn since the job was made; if there is any, what it learned so far is void.

    :raises TrainingError: if nothing is left to train on.
    """
    if not was_withdrawn(session, job):
        return False
    _forget_withdrawn(session, job.id)
    job.report = None
    return True


def leave_out_excluded(session: Session, job: Job) -> int:
    """Leave out what was excluded since the job was made, for one that has learned nothing yet; how many cohorts.

    :raises TrainingError: if nothing is left to train on.
    """
    excluded = [cohort.id for cohort in cohorts_of(session, job) if cohort.excluded is not None]
    if not excluded:
        return 0
    session.execute(delete(JobCohort).where(JobCohort.job_id == job.id, JobCohort.cohort_id.in_(excluded)))
    if not cohorts_of(session, job):
        raise TrainingError("Every cohort of the job was excluded since it was made; include one and train anew.")
    return len(excluded)


def note_on_exclusion(session: Session, blobs: BlobStore, cohort_id: str) -> str:
    """A sentence on the unfinished job that trains on a cohort although that is excluded; empty where there is none.

    One that has learned nothing yet leaves the cohort out when its turn comes (:func:`leave_out_excluded`).
    """
    having = select(Job).join(JobCohort, JobCohort.job_id == Job.id).where(JobCohort.cohort_id == cohort_id)
    job = session.scalar(having.where(Job.state.in_(UNFINISHED)).limit(1))
    if job is None or (job.worker is None and not may_have_checkpoints(blobs, job.id)):
        return ""
    return f"Job {job.id} was made before and still has it; stop it if its model shall not learn from the cohort."


def cohorts_of(session: Session, job: Job) -> list[Cohort]:
    """The cohorts that a job trains on, in an order that stays."""
    chosen = select(Cohort).join(JobCohort, JobCohort.cohort_id == Cohort.id).where(JobCohort.job_id == job.id)
    return list(session.scalars(chosen.order_by(Cohort.id)))


def was_withdrawn(session: Session, job: Job) -> bool:
    """Whether a site took back something since the job's training began."""
    taken = select(JobCohort).where(JobCohort.job_id == job.id, JobCohort.withdrawn).limit(1)
    return session.scalar(taken) is not None


def record_epoch(session: Session, job: int, report: EpochReport) -> None:
    """Add a point to the learning curve; an epoch that was repeated after a crash replaces itself."""
    session.merge(
        JobEpoch(
            job_id=job, epoch=report.epoch, train_loss=report.train_loss,
            validation_loss=report.validation_loss, seconds=report.seconds, by_site=dict(report.by_site) or None,
        )
    )  # fmt: skip


def finish(session: Session, lease: Lease, state: str, message: str | None = None) -> None:
    """End a job as done or failed.

    :raises LeaseLostError: if it is another worker's by now.
    """
    job = hold(session, lease)
    job.state, job.message, job.finished, job.worker = state, message, clock.now(), None
    job.pause_requested = False
    audit.record(session, audit.OPERATOR, f"job.{state}", job=lease.job)


def config_of(job: Job) -> UmnConfig:
    """How a job trains."""
    return UmnConfig(**{**job.config, "profile": Profile(job.config["profile"])})


def codec_checks(cohorts: Sequence[Cohort]) -> dict[str, str | None]:
    """The check of the inner key by codec.

    :raises TrainingError: if a codec was used with two inner keys: one network cannot learn both.
    """
    checks: dict[str, str | None] = {}
    for cohort in cohorts:
        if checks.setdefault(cohort.codec, cohort.inner_check) != cohort.inner_check:
            raise TrainingError("Two cohorts have one codec but different inner keys; have one of them withdrawn.")
    return checks


def _unfinished(session: Session, number: int) -> Job:
    job = session.get(Job, number, with_for_update=True)
    if job is None:
        raise _no_such_job()
    if job.state not in UNFINISHED:
        raise TrainingError(f"The job has ended already: {job.state}.")
    return job


def _no_such_job() -> TrainingError:
    return TrainingError("There is no such job; 'ppcmi-server job list' shows those there are.")


def _candidates(session: Session, task: Task) -> list[Cohort]:
    """Whole cohorts in the consortium's mode and, where members share one, with its present codec; none excluded."""
    cohorts = list(session.scalars(select(Cohort).where(Cohort.task_id == task.id, trainable()).order_by(Cohort.id)))
    if cohorts:
        return cohorts
    if session.scalar(select(exists().where(Cohort.task_id == task.id, Cohort.state == "whole", ~fits_consortium()))):
        raise TrainingError("The cohorts are of an earlier codec; have the sites export and upload theirs again.")
    raise TrainingError("There is no whole cohort to train on; have the sites upload theirs first.")


def _only_profile(cohorts: Sequence[Cohort]) -> Profile:
    profiles = sorted({cohort.profile for cohort in cohorts})
    if len(profiles) > 1:
        raise TrainingError(f"The cohorts are of profiles {', '.join(profiles)}; choose one with --profile.")
    return Profile(profiles[0])


def _has_scales(cohort: Cohort, profile: Profile) -> bool:
    return set(profile.scales) <= set(Profile(cohort.profile).scales)


def _config(request: TrainingRequest, profile: Profile, task: Task) -> UmnConfig:
    start = usual_config(request.preset or usual_preset(parse_task(task.document).method), profile)
    if request.seed is not None:
        start = replace(start, seed=request.seed)
    if request.epochs is not None:
        start = replace(start, epochs=request.epochs, minimum_steps=0)  # as many passes as were asked for, no more
    return start


def _to_json(config: UmnConfig) -> dict[str, Any]:
    return {**asdict(config), "profile": config.profile.value}


def _require_same(job: Job, request: TrainingRequest) -> None:
    asked = {name: value for name, value in asdict(request).items() if value is not None}
    if any(job.config[name] != value for name, value in asked.items()):
        raise TrainingError(
            f"Job {job.id} of this task is unfinished and has other options; go on with it without options, "
            f"or end it with 'ppcmi-server job stop {job.id}'."
        )


def _forget_withdrawn(session: Session, job: int) -> None:
    gone = select(Cohort.id).where(Cohort.state == "withdrawn")
    session.execute(delete(JobCohort).where(JobCohort.job_id == job, JobCohort.cohort_id.in_(gone)))
    session.execute(update(JobCohort).where(JobCohort.job_id == job).values(withdrawn=False))
    session.execute(delete(JobEpoch).where(JobEpoch.job_id == job))
    session.flush()
    if session.scalar(select(JobCohort).where(JobCohort.job_id == job).limit(1)) is None:
        raise TrainingError("Every cohort of the job was withdrawn; train anew when sites have uploaded others.")
