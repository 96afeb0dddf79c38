"""Connections and transactions. Work that writes takes the write lock at its start, not at its end.

SQLite has one writer by itself. On PostgreSQL an advisory lock does the same for all servers on one database: what a
transaction reads before it writes stays true until it commits, and the code is the same on both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from ppcmi_server.config import ServerConfig
from ppcmi_server.database.traces import TraceEraser
from ppcmi_server.errors import OperatorError
from ppcmi_server.storage.file_systems import require_local

BUSY_TIMEOUT_MS = 20_000
TRUNCATION_MS = 100
MIGRATIONS = Path(__file__).with_name("migrations")
SQLITE_NAME = "ppcmi.sqlite3"
WRITE_LOCK = 0x7070636D69  # "ppcmi": the advisory lock of whoever writes


class Database:
    """The server's database; :meth:`reading` and :meth:`writing` are its transactions.

    :raises OperatorError: if the address does not work here, or SQLite would lie on a network file system.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.url = _url(config)
        self._engine = _engine(_address(self.url))
        self.kind = self._engine.dialect.name
        writer = self._engine.execution_options(ppcmi_write=True)
        self._reader = sessionmaker(self._engine, expire_on_commit=False)
        self._writer = sessionmaker(writer, expire_on_commit=False)
        self._eraser = TraceEraser(self._erase_traces)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A consistent view; what is changed in it is not kept."""
        with self._reader() as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction: kept whole when the context ends, undone by an exception."""
        with self._writer.begin() as session:
            yield session

    def upgrade(self) -> None:
        """Bring the tables to this version's form.

        :raises OperatorError: if they are of a newer version.
        """
        self.migrate("head")

    def migrate(self, revision: str) -> None:
        """Bring the tables to the form of a revision, up or down.

        :raises OperatorError: if this version does not know the one or the other.
        """
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        script = ScriptDirectory.from_config(config)
        with self._writer.begin() as session:
            connection = session.connection()
            present = _revision(connection)
            order = [step.revision for step in script.walk_revisions()][::-1]
            if present is not None and present not in order:
                raise OperatorError(
                    "The database is of a newer version of the server; install that version, or restore a backup."
                )
            if revision not in (*order, "head"):
                raise OperatorError("The data are of a newer version of the server; install that version first.")
            target = order.index(script.get_current_head() or "" if revision == "head" else revision)
            place = -1 if present is None else order.index(present)
            config.attributes["connection"] = connection
            if target > place:
                command.upgrade(config, order[target])
            elif target < place:
                command.downgrade(config, order[target])

    def revision(self) -> str | None:
        """The revision of the tables; None where there are none."""
        with self.reading() as session:
            return _revision(session.connection())

    def erase_traces(self) -> None:
        """Rewrite what keeps deleted rows, SQLite's log or PostgreSQL's dead rows: now, or as soon as it can be."""
        self._eraser()

    def close(self) -> None:
        """Close all connections."""
        self._eraser.close()
        self._engine.dispose()

    def _erase_traces(self) -> bool:
        """Whether nothing is left of what was deleted before."""
        if self.kind == "sqlite":
            return _truncate_log(self._engine.url)
        if self.kind == "postgresql":
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM cohorts")
        return True


def sqlite_file(config: ServerConfig) -> Path | None:
    """Where the database's file lies; None if a server has it.

    :raises OperatorError: if the address is none.
    """
    address = _address(_url(config))
    return Path(address.database) if address.get_backend_name() == "sqlite" and address.database else None


def _url(config: ServerConfig) -> str:
    return config.storage.database_url or f"sqlite:///{config.folder / SQLITE_NAME}"


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _address(url: str) -> URL:
    try:
        address = make_url(url)
    except ArgumentError as error:
        raise OperatorError("Setting storage.database_url is not an address that works here.") from error
    if address.drivername in ("postgresql", "postgres"):  # pg8000 is what the extra 'postgresql' installs
        return address.set(drivername="postgresql+pg8000")
    return address


def _engine(address: URL) -> Engine:
    sqlite = address.get_backend_name() == "sqlite"
    if sqlite and address.database:
        require_local(Path(address.database).parent)
    arguments = {"timeout": BUSY_TIMEOUT_MS / 1000} if sqlite else {}
    try:
        engine = create_engine(address, connect_args=arguments, **_POOL)
    except (ArgumentError, ImportError, TypeError) as error:  # the last for SQLite in memory
        raise OperatorError("Setting storage.database_url is not an address that works here.") from error
    if sqlite:
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    elif engine.dialect.name == "postgresql":
        event.listen(engine, "checkout", _require_alive)
        event.listen(engine, "begin", _begin_postgresql)
    return engine


_POOL = {"pool_size": 20, "max_overflow": 20}
"""As many connections as there are threads that serve requests: with fewer, who waits to write keeps others from
reading."""


def _truncate_log(address: URL) -> bool:
    """Write all of SQLite's log to its file and empty it; whether nobody was in the way.

    While it waits for readers it holds the write lock. So it gets a connection of its own, which does not wait for
    long: a reader that takes its time, e.g. a backup, must not keep every writer waiting as well.
    """
    hasty = create_engine(
        address, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args={"timeout": TRUNCATION_MS / 1000}
    )
    with hasty.connect() as connection:
        busy: int = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar_one()
    return busy == 0


def _configure_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see _begin_sqlite
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "foreign_keys = ON",
        "secure_delete = ON",  # a withdrawn cohort's wrapped key is overwritten, not only forgotten
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_isolation_level() != "AUTOCOMMIT":
        write = connection.get_execution_options().get("ppcmi_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _require_alive(connection: Any, *_: Any) -> None:
    """Have a connection replaced that a restart of the database ended.

    As the pool's ``pre_ping``, which with pg8000 leaves a transaction open.
    """
    connection.autocommit = True
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        cursor.close()
    except (OSError, connection.Error) as error:
        raise DisconnectionError from error
    connection.autocommit = False


def _begin_postgresql(connection: Connection) -> None:
    """Readers see one moment; writers wait for each other, then see all that was committed."""
    options = connection.get_execution_options()
    if options.get("isolation_level") == "AUTOCOMMIT":
        return
    if options.get("ppcmi_write", False):
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {BUSY_TIMEOUT_MS}")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})")
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
