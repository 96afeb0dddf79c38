"""What is counted when Prometheus asks: the database's tables, and the space that is taken and left.

A number that cannot be had, e.g. because the database does not answer, is missing then; the others are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute, Session

from ppcmi_server.config import ServerConfig
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import Cohort, Frame, Job, JobEpoch, Model, Site
from ppcmi_server.intake.quota import room_of

JOB_STATES = ("queued", "running", "paused", "done", "failed", "stopped")
COHORT_STATES = ("open", "whole", "withdrawn")
MODEL_STATES = ("ready", "active", "retired")
JOBS_SHOWN = 16
"""Unfinished jobs whose losses are told: a job's number is a label, and labels are bounded."""


class ServerState(Collector):
    """Numbers from the database and the disk, read anew each time."""

    def __init__(self, config: ServerConfig, database: Database) -> None:
        self._config = config
        self._room = room_of(config)
        self._database = database

    def describe(self) -> list[Metric]:
        """Nothing yet: the tables may not be there when the server starts."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Everything that can be had."""
        yield from self._space()
        up = GaugeMetricFamily("ppcmi_database_up", "1 if the database answers.")
        try:
            with self._database.reading() as session:
                found = list(_from_database(session))
        except SQLAlchemyError:
            up.add_metric([], 0)
        else:
            up.add_metric([], 1)
            yield from found
        yield up

    def _space(self) -> Iterator[Metric]:
        folder = self._config.folder
        stored = GaugeMetricFamily("ppcmi_files_bytes", "Files in the server's folder.", labels=["kind"])
        stored.add_metric(["models"], _size_below(self._config.models_folder))
        stored.add_metric(["jobs"], _size_below(folder / "jobs"))
        stored.add_metric(["database"], sum(_size(file) for file in folder.glob("*.sqlite3*")))
        yield stored
        try:
            disk = self._room.tightest()
        except OSError:
            return
        left = GaugeMetricFamily(
            "ppcmi_storage_free_bytes", "Space left on the disk of the server's folder or its blobs: where it is less."
        )
        left.add_metric([], disk.free)
        yield left
        reserve = GaugeMetricFamily("ppcmi_storage_reserve_bytes", "Below so much free space, uploads are refused.")
        reserve.add_metric([], disk.reserve)
        yield reserve


def _from_database(session: Session) -> Iterator[Metric]:
    yield _by_state("ppcmi_jobs", "Training jobs.", JOB_STATES, _counts(session, Job.state))
    yield _by_state("ppcmi_cohorts", "Cohorts.", COHORT_STATES, _counts(session, Cohort.state))
    yield _by_state("ppcmi_models", "Models.", MODEL_STATES, _counts(session, Model.state))
    yield _by_state("ppcmi_sites", "Sites.", ("invited", "enrolled", "revoked"), _sites(session))
    stored = GaugeMetricFamily("ppcmi_cohort_bytes", "Latents stored, encrypted.")
    stored.add_metric([], int(session.scalar(select(func.sum(Cohort.stored_bytes))) or 0))
    yield stored
    frames = GaugeMetricFamily("ppcmi_cohort_frames", "Frames of cohorts stored.")
    frames.add_metric([], session.scalar(select(func.count()).select_from(Frame)) or 0)
    yield frames
    yield from _progress(session)


def _counts(session: Session, state: InstrumentedAttribute[str]) -> Mapping[str, int]:
    """How many rows are in each state."""
    return {str(found): int(count) for found, count in session.execute(select(state, func.count()).group_by(state))}


def _sites(session: Session) -> Mapping[str, int]:
    counts = {"invited": 0, "enrolled": 0, "revoked": 0}
    for enrolled, revoked in session.execute(select(Site.enrolled, Site.revoked)):
        counts["revoked" if revoked is not None else "enrolled" if enrolled is not None else "invited"] += 1
    return counts


def _progress(session: Session) -> Iterator[Metric]:
    """Newest epoch and losses of the jobs that are under way."""
    epoch = GaugeMetricFamily("ppcmi_training_epoch", "Epochs that an unfinished job has done.", labels=["job"])
    loss = GaugeMetricFamily("ppcmi_training_loss", "Loss after the newest epoch.", labels=["job", "cases"])
    unfinished = select(Job.id).where(Job.state.in_(("queued", "running", "paused"))).order_by(Job.id.desc())
    for job in session.scalars(unfinished.limit(JOBS_SHOWN)):
        newest = session.scalar(select(JobEpoch).where(JobEpoch.job_id == job).order_by(JobEpoch.epoch.desc()).limit(1))
        epoch.add_metric([str(job)], 0 if newest is None else newest.epoch)
        if newest is not None:
            loss.add_metric([str(job), "training"], newest.train_loss)
        if newest is not None and newest.validation_loss is not None:
            loss.add_metric([str(job), "validation"], newest.validation_loss)
    yield epoch
    yield loss


def _by_state(name: str, says: str, states: tuple[str, ...], counts: Mapping[str, int]) -> Metric:
    """A number for each state that there may be, also for those that nothing is in."""
    family = GaugeMetricFamily(name, says, labels=["state"])
    for state in states:
        family.add_metric([state], counts.get(state, 0))
    return family


def _size_below(folder: Path) -> int:
    return sum(_size(file) for file in folder.rglob("*"))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:  # it went away meanwhile
        return 0
