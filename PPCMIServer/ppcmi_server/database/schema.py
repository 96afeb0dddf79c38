"""Data model. Ids that leave the server are random; times are UTC text (:mod:`ppcmi_server.clock`).

Secrets are stored as hashes (codes, tokens) or wrapped (a cohort's key); link keys are not stored at all.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, LargeBinary, String, UniqueConstraint, false
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {dict[str, Any]: JSON, list[str]: JSON}


class Site(Base):
    """A site; ``public_key`` and ``link_salt`` are there once it has enrolled.

    ``quota_bytes`` is None where the server's own setting holds. ``weight`` is how much each of its slices counts in
    training, beside 1 for others. ``certificate`` is the SHA-256 (hex) of the client certificate that it is bound to.
    """

    __tablename__ = "sites"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    public_key: Mapped[bytes | None] = mapped_column(LargeBinary)
    link_salt: Mapped[bytes | None] = mapped_column(LargeBinary)
    created: Mapped[str] = mapped_column(String(20))
    enrolled: Mapped[str | None] = mapped_column(String(20))
    revoked: Mapped[str | None] = mapped_column(String(20))
    quota_bytes: Mapped[int | None] = mapped_column(BigInteger)
    weight: Mapped[float] = mapped_column(default=1.0, server_default="1")
    certificate: Mapped[str | None] = mapped_column(String(64))


class EnrolmentCode(Base):
    """A one-time code, as its SHA-256."""

    __tablename__ = "enrolment_codes"
    id: Mapped[int] = mapped_column(primary_key=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"))
    code_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    expires: Mapped[str] = mapped_column(String(20))
    used: Mapped[str | None] = mapped_column(String(20))


class Token(Base):
    """A bearer token, as its SHA-256, with what it may be used for; an operator's has no site.

    ``label`` is what its owner calls it. ``expires`` is set where it was made so, or replaced by another;
    ``replaces`` is the token that this one was made for.
    """

    __tablename__ = "tokens"
    id: Mapped[int] = mapped_column(primary_key=True)
    site_id: Mapped[str | None] = mapped_column(ForeignKey("sites.id"))
    token_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    scopes: Mapped[list[str]]
    label: Mapped[str] = mapped_column(String(60), default="", server_default="")
    created: Mapped[str] = mapped_column(String(20))
    expires: Mapped[str | None] = mapped_column(String(20))
    last_used: Mapped[str | None] = mapped_column(String(20))
    replaces: Mapped[int | None]
    revoked: Mapped[bool] = mapped_column(default=False)


class Login(Base):
    """An operator's login at the dashboard, as the SHA-256 of its cookie; times in seconds since 1970."""

    __tablename__ = "logins"
    id: Mapped[int] = mapped_column(primary_key=True)
    token_id: Mapped[int] = mapped_column(ForeignKey("tokens.id"))
    cookie_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    csrf: Mapped[str] = mapped_column(String(64))
    began: Mapped[float]
    last_seen: Mapped[float]


class Task(Base):
    """A task; ``document`` is its file's canonical JSON."""

    __tablename__ = "tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(63), unique=True)
    document: Mapped[str]
    created: Mapped[str] = mapped_column(String(20))


class Consortium(Base):
    """Who shares what in a task, and the codec that its founder published (a blob that the server cannot read)."""

    __tablename__ = "consortia"
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    scope: Mapped[str] = mapped_column(String(16))
    mode: Mapped[str] = mapped_column(String(16))
    inner_check: Mapped[str | None] = mapped_column(String(16))
    founder_id: Mapped[str] = mapped_column(ForeignKey("sites.id"))
    created: Mapped[str] = mapped_column(String(20))
    codec: Mapped[str | None] = mapped_column(String(32))
    codec_blob: Mapped[str | None] = mapped_column(String(100))


class Member(Base):
    """A site's membership of a task's consortium."""

    __tablename__ = "members"
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    joined: Mapped[str] = mapped_column(String(20))


class SharedNetwork(Base):
    """A member's local network for the other members, of the codec ``codec``; a blob that the server cannot read."""

    __tablename__ = "shared_networks"
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    codec: Mapped[str] = mapped_column(String(32))
    blob: Mapped[str] = mapped_column(String(100))
    stored_bytes: Mapped[int] = mapped_column(BigInteger)
    shared: Mapped[str] = mapped_column(String(20))

    @property
    def version(self) -> str:
        """Another one whenever the member shares again, also twice in a second: the blob's random name."""
        return self.blob.rpartition("/")[2]


class Invitation(Base):
    """A sealed message from a member to a site, opaque to the server."""

    __tablename__ = "invitations"
    __table_args__ = (Index("invitations_to", "task_id", "to_id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"))
    from_id: Mapped[str] = mapped_column(ForeignKey("sites.id"))
    to_id: Mapped[str] = mapped_column(ForeignKey("sites.id"))
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    created: Mapped[str] = mapped_column(String(20))


class Cohort(Base):
    """An uploaded cohort: ``open`` while frames arrive, ``whole`` once committed, ``withdrawn`` without its bytes.

    ``stored_bytes`` counts what is stored, chunks of frames that are not whole included; ``touched`` is when the last
    came. ``excluded`` is when the operator took it out of further trainings, if so.
    """

    __tablename__ = "cohorts"
    __table_args__ = (UniqueConstraint("site_id", "header_digest"), Index("cohorts_task", "task_id", "state"))
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"))
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"))
    header_digest: Mapped[bytes] = mapped_column(LargeBinary)
    header: Mapped[bytes | None] = mapped_column(LargeBinary)
    wrapped_key: Mapped[bytes | None] = mapped_column(LargeBinary)
    codec: Mapped[str] = mapped_column(String(32))
    profile: Mapped[str] = mapped_column(String(16))
    mode: Mapped[str] = mapped_column(String(16))
    inner_check: Mapped[str | None] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    digest: Mapped[str | None] = mapped_column(String(64))
    cases: Mapped[int] = mapped_column(default=0)
    slices: Mapped[int] = mapped_column(default=0)
    created: Mapped[str] = mapped_column(String(20))
    committed: Mapped[str | None] = mapped_column(String(20))
    withdrawn: Mapped[str | None] = mapped_column(String(20))
    stored_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    touched: Mapped[str | None] = mapped_column(String(20))
    excluded: Mapped[str | None] = mapped_column(String(20))


class Case(Base):
    """One case of a whole cohort."""

    __tablename__ = "cases"
    cohort_id: Mapped[str] = mapped_column(ForeignKey("cohorts.id"), primary_key=True)
    pseudonym: Mapped[str] = mapped_column(String(32), primary_key=True)
    slices: Mapped[int]
    withdrawn: Mapped[str | None] = mapped_column(String(20))


class Frame(Base):
    """One frame of a cohort; ``digest`` is the SHA-256 of the frame as it was sent."""

    __tablename__ = "frames"
    __table_args__ = (Index("frames_case", "cohort_id", "pseudonym"),)
    cohort_id: Mapped[str] = mapped_column(ForeignKey("cohorts.id"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    blob: Mapped[str] = mapped_column(String(100))
    pseudonym: Mapped[str] = mapped_column(String(32))
    part: Mapped[int]
    parts: Mapped[int]
    variant: Mapped[int]
    slices: Mapped[int]
    stored_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")


class Chunk(Base):
    """A part of a frame that is not whole yet: ``size`` bytes at ``offset``, and their SHA-256."""

    __tablename__ = "chunks"
    cohort_id: Mapped[str] = mapped_column(ForeignKey("cohorts.id"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    offset: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    size: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    frame_bytes: Mapped[int] = mapped_column(BigInteger)
    frame_digest: Mapped[bytes] = mapped_column(LargeBinary)
    blob: Mapped[str] = mapped_column(String(120))


class Job(Base):
    """A training job. States: queued, running, paused, done, failed, stopped; ``message`` says why it failed.

    ``worker`` holds the job while ``heartbeat`` keeps growing. ``fence`` grows with each claim: who holds an older one
    may write no more. ``attempts`` counts claims since the last checkpoint. ``batch_size`` is what memory allows, if
    less than asked for. ``report`` says how each site did, see :mod:`ppcmi_server.training.contributions`.
    """

    __tablename__ = "jobs"
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"))
    state: Mapped[str] = mapped_column(String(16))
    config: Mapped[dict[str, Any]]
    stop_requested: Mapped[bool] = mapped_column(default=False)
    pause_requested: Mapped[bool] = mapped_column(default=False, server_default=false())
    worker: Mapped[str | None] = mapped_column(String(64))
    fence: Mapped[int] = mapped_column(default=0, server_default="0")
    heartbeat: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    batch_size: Mapped[int | None]
    report: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    message: Mapped[str | None]
    created: Mapped[str] = mapped_column(String(20))
    finished: Mapped[str | None] = mapped_column(String(20))


class JobEpoch(Base):
    """One point of a job's learning curve; ``by_site`` has the validation loss of each site's cases."""

    __tablename__ = "job_epochs"
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    train_loss: Mapped[float]
    validation_loss: Mapped[float | None]
    seconds: Mapped[float]
    by_site: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class JobCohort(Base):
    """A cohort that a job trains on; ``withdrawn`` if it, or a case of it, was taken back since."""

    __tablename__ = "job_cohorts"
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    cohort_id: Mapped[str] = mapped_column(ForeignKey("cohorts.id"), primary_key=True)
    withdrawn: Mapped[bool] = mapped_column(default=False)


class Model(Base):
    """A trained model. States: ready, active, retired. ``codecs`` gives the inner key's check for each codec."""

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("task_id", "number"), UniqueConstraint("job_id"))
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"))
    number: Mapped[int]
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"))
    state: Mapped[str] = mapped_column(String(16))
    preset: Mapped[str] = mapped_column(String(16))
    profile: Mapped[str] = mapped_column(String(16))
    mode: Mapped[str] = mapped_column(String(16))
    scope: Mapped[str] = mapped_column(String(16))
    codecs: Mapped[dict[str, Any]]
    config: Mapped[dict[str, Any]]
    seed: Mapped[int]
    code_version: Mapped[str] = mapped_column(String(64))
    file: Mapped[str] = mapped_column(String(100))
    file_digest: Mapped[str] = mapped_column(String(64))
    cases: Mapped[int]
    slices: Mapped[int]
    withdrawn_data: Mapped[bool] = mapped_column(default=False)
    created: Mapped[str] = mapped_column(String(20))


class Validation(Base):
    """A site's scores of a model, numbers only."""

    __tablename__ = "validations"
    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"))
    numbers: Mapped[dict[str, Any]]
    created: Mapped[str] = mapped_column(String(20))


class AuditEvent(Base):
    """Who did what, when, to which objects; triggers keep the table append-only.

    ``digest`` is the SHA-256 over the event before and this one (:mod:`ppcmi_server.audit`); events from before there
    were digests have none.
    """

    __tablename__ = "audit_events"
    __table_args__ = (Index("audit_events_digest", "digest"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[str] = mapped_column(String(20))
    actor: Mapped[str] = mapped_column(String(32))
    action: Mapped[str] = mapped_column(String(40))
    objects: Mapped[dict[str, Any]]
    digest: Mapped[bytes | None] = mapped_column(LargeBinary)
