"""A look inside a server: whether what it keeps is whole, and what an operator should see to, a sentence each.

Nothing is changed, but for one small blob that is written and removed again; the server may serve meanwhile.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ppcmi.errors import PpcmiError
from ppcmi.wording import counted
from ppcmi_server import audit, clock
from ppcmi_server.config import ServerConfig
from ppcmi_server.database.engine import Database, sqlite_file
from ppcmi_server.database.schema import AuditEvent, Chunk, Cohort, Consortium, Frame, Job, Model, SharedNetwork
from ppcmi_server.intake.quota import room_of
from ppcmi_server.mapping.model_files import ModelFiles
from ppcmi_server.operation.backup import CREATED
from ppcmi_server.operation.checks import Finding, Level, serving_findings, storage_findings
from ppcmi_server.storage.blobs import BlobStore, open_blobs
from ppcmi_server.storage.keys import ServerKeys

FEWEST_FILES = 4096
LARGEST_LOG_BYTES = 1 << 30
BACKUP_DAYS = 8
EARLIEST = "2026-01-01T00:00:00Z"
"""The code is younger than this, and so is every moment that a right clock shows."""


def examine(config: ServerConfig, now: Callable[[], str] = clock.now) -> Iterator[Finding]:
    """Every finding, in the order in which things need each other.

    :param now: this machine's clock.
    """
    basics = [*serving_findings(config), *storage_findings(config)]
    yield from basics
    yield _guarded("space", lambda: _space(config))
    yield _open_files()
    yield _core_dumps()
    if any(finding.level == "problem" and finding.subject in ("keys", "database", "blobs") for finding in basics):
        yield Finding("contents", "problem", "What the server keeps was not looked at; mend keys, database and blobs.")
        return
    database, store = Database(config), open_blobs(config.storage, config.folder)
    try:
        yield _guarded("integrity", lambda: _integrity(config, database))
        looks: tuple[tuple[str, Callable[[Session], Finding]], ...] = (
            ("clock", lambda session: _clock(session, now())),
            ("cohorts", lambda session: _cohorts(session, config)),
            ("frames", lambda session: _frames(session, store)),
            ("models", lambda session: _models(session, ModelFiles(config.models_folder, store))),
            ("jobs", _jobs),
            ("audit", _audit),
            ("backup", _backup),
        )
        for subject, look in looks:
            with database.reading() as session:
                yield _guarded(subject, lambda look=look, session=session: look(session))  # type: ignore[misc]
    finally:
        database.close()


def _guarded(subject: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except (PpcmiError, SQLAlchemyError, OSError) as error:
        said = str(error) if isinstance(error, PpcmiError) else f"It could not be looked at ({type(error).__name__})."
        return Finding(subject, "problem", said)


def _space(config: ServerConfig) -> Finding:
    disk = room_of(config).tightest()
    says = f"{_size(disk.free)} free on the disk of {disk.what}"
    if disk.below_reserve:
        return Finding("space", "problem", f"{says}, below the reserve: uploads are refused; make room.")
    level: Level = "warning" if disk.free < 3 * disk.reserve else "ok"
    return Finding("space", level, f"{says}; uploads stop at {_size(disk.reserve)}.")


def _open_files() -> Finding:
    if sys.platform == "win32":
        return Finding("open files", "ok", "Windows has no limit of this kind.")
    import resource  # noqa: PLC0415 - POSIX only

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and limit < FEWEST_FILES:
        return Finding(
            "open files", "warning",
            f"This user may open {limit} files; give the service at least {FEWEST_FILES} (LimitNOFILE, ulimit -n).",
        )  # fmt: skip
    return Finding("open files", "ok", "Enough files may be open.")


def _core_dumps(pattern: Path = Path("/proc/sys/kernel/core_pattern")) -> Finding:
    """The server forbids its own; a crash of a program around it may still write some."""
    try:
        piped = pattern.read_text(encoding="utf-8").startswith("|")
    except OSError:
        return Finding("core dumps", "ok", "The server forbids its own core dumps.")
    where = "a collector on this machine takes those of other programs" if piped else "those of others go to files"
    return Finding("core dumps", "ok", f"The server forbids its own core dumps; {where}.")


def _integrity(config: ServerConfig, database: Database) -> Finding:
    if database.kind != "sqlite":
        return Finding("integrity", "ok", "The database server looks after its own.")
    with database.reading() as session:
        said = session.execute(text("PRAGMA quick_check(1)")).scalar()
        broken = session.execute(text("PRAGMA foreign_key_check")).first()
    if said != "ok" or broken is not None:
        return Finding("integrity", "problem", "The database is damaged; stop the server and restore a backup.")
    file = sqlite_file(config)
    log = None if file is None else file.with_name(f"{file.name}-wal")
    if log is not None and log.exists() and log.stat().st_size > LARGEST_LOG_BYTES:
        return Finding("integrity", "warning", "The database's log is large; some program keeps it open; restart it.")
    return Finding("integrity", "ok", "The database is whole.")


def _clock(session: Session, now: str) -> Finding:
    last = session.scalar(select(func.max(AuditEvent.at)))
    if now < EARLIEST:
        return Finding("clock", "problem", "This machine's clock is years behind; set it, certificates depend on it.")
    if last is not None and last > now:
        return Finding("clock", "warning", "Something was recorded later than now; was the clock set back?")
    return Finding("clock", "ok", "The clock is after all that was recorded.")


def _cohorts(session: Session, config: ServerConfig) -> Finding:
    keys, opened = ServerKeys.load(config.folder, config.key_file), 0
    for cohort_id, wrapped in session.execute(
        select(Cohort.id, Cohort.wrapped_key).where(Cohort.wrapped_key.is_not(None))
    ):
        keys.unwrap(wrapped or b"", cohort_id.encode())  # raises where it is another server's key
        opened += 1
    return Finding("cohorts", "ok", f"The storage key opens the cohorts' keys: {opened} of them.")


def _frames(session: Session, store: BlobStore) -> Finding:
    names = [*session.scalars(select(Frame.blob)), *session.scalars(select(Chunk.blob))]
    codecs = session.scalars(select(Consortium.codec_blob).where(Consortium.codec_blob.is_not(None)))
    wanted = [*names, *(name for name in codecs if name), *session.scalars(select(SharedNetwork.blob))]
    missing = sum(not store.size(name) for name in wanted)
    if missing:
        return Finding(
            "frames", "problem",
            f"{missing} of {len(wanted)} blobs are missing or empty; restore them, or have their sites "
            "withdraw the cohorts, and send codecs and networks again.",
        )  # fmt: skip
    return Finding("frames", "ok", f"The blobs of cohorts, codecs and networks are there: {len(wanted)} of them.")


def _models(session: Session, files: ModelFiles) -> Finding:
    wrong = 0
    models = list(session.scalars(select(Model)))
    for model in models:
        try:
            files.find(model.file, model.file_digest)
        except PpcmiError:
            wrong += 1
    if wrong:
        return Finding("models", "problem", f"{wrong} of {len(models)} models' files are missing or altered; restore.")
    return Finding("models", "ok", f"The models' files are those that were trained: {len(models)} of them.")


def _jobs(session: Session) -> Finding:
    unfinished = session.scalars(select(Job.state).where(Job.finished.is_(None))).all()
    failed = session.scalar(select(func.count()).select_from(Job).where(Job.state == "failed")) or 0
    says = f"Trainings: {len(unfinished)} unfinished, {failed} failed; see 'ppcmi-server job list'."
    return Finding("jobs", "warning" if failed else "ok", says)


def _audit(session: Session) -> Finding:
    state = audit.verify(session)
    if state.first_broken is not None:
        return Finding(
            "audit", "problem",
            f"The audit log was altered: event {state.first_broken} does not follow from those before it.",
        )  # fmt: skip
    return Finding("audit", "ok", f"The audit log holds together: {counted(state.events, 'event')}.")


def _backup(session: Session) -> Finding:
    last = session.scalar(select(func.max(AuditEvent.at)).where(AuditEvent.action == CREATED))
    if last is None:
        return Finding("backup", "warning", "There is no backup yet; make one with 'ppcmi-server backup FILE'.")
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(last)
    level: Level = "warning" if age > dt.timedelta(days=BACKUP_DAYS) else "ok"
    return Finding("backup", level, f"The last backup was made {age.days} days ago.")


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"
