"""Connections and transactions. Work that writes takes the write lock at its start, not at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session, sessionmaker

from ppcmi_server.config import ServerConfig
from ppcmi_server.errors import OperatorError

BUSY_TIMEOUT_MS = 20_000
MIGRATIONS = Path(__file__).with_name("migrations")


class Database:
    """The server's database; :meth:`reading` and :meth:`writing` are its transactions."""

    def __init__(self, config: ServerConfig) -> None:
        self.url = config.storage.database_url or f"sqlite:///{config.folder / 'ppcmi.sqlite3'}"
        self._engine = _engine(self.url)
        writer = self._engine.execution_options(ppcmi_write=True)
        self._reader = sessionmaker(self._engine, expire_on_commit=False)
        self._writer = sessionmaker(writer, expire_on_commit=False)

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
        """Bring the tables to this version's form."""
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self._engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def erase_traces(self) -> None:
        """Rewrite SQLite's log, so that what was deleted is not in it any longer."""
        if self._engine.dialect.name == "sqlite":
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _engine(url: str) -> Engine:
    try:
        sqlite = make_url(url).get_backend_name() == "sqlite"
        engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000} if sqlite else {})
    except (ArgumentError, ImportError) as error:
        raise OperatorError("Setting storage.database_url is not an address that works here.") from error
    if sqlite:
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


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
