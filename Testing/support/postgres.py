"""A real PostgreSQL for tests: a cluster of its own in a temporary folder, on loopback, ended with the tests."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pg8000.native

BINARIES = Path("/usr/lib/postgresql")
START_S = 60
USER = "ppcmi"


def postgres_binary(name: str) -> Path | None:
    """A program of the newest PostgreSQL that is installed as Debian does, or that is in the path."""
    found = sorted(BINARIES.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    in_path = shutil.which(name)
    return found[-1] if found else Path(in_path) if in_path else None


@dataclass
class Cluster:
    """A running cluster; databases are made and dropped in it."""

    port: int
    made: list[str] = field(default_factory=list)

    def new_database(self) -> str:
        """The address of a new, empty database."""
        name = f"ppcmi_{len(self.made)}"
        self._run(f"CREATE DATABASE {name}")
        self.made.append(name)
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{name}"

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected to it."""
        self._run(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def disconnect_all(self, url: str) -> None:
        """End every connection to a database, as its server's restart does."""
        name = url.rpartition("/")[2]
        self._run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")  # noqa: S608

    def _run(self, statement: str) -> None:
        connection = pg8000.native.Connection(USER, host="127.0.0.1", port=self.port, database="postgres")
        try:
            connection.autocommit = True
            connection.run(statement)
        finally:
            connection.close()


@contextmanager
def postgres_cluster() -> Iterator[Cluster]:
    """Make and start a cluster; it forgets everything when the context ends, and so need not be durable."""
    folder = Path(tempfile.mkdtemp(prefix="ppcmi-pg-"))
    as_user = _as_postgres(folder)
    data, port = folder / "data", _free_port()
    try:
        subprocess.run(
            [*as_user, postgres_binary("initdb"), "-D", data, "-U", USER, "--auth=trust", "--no-sync", "-E", "UTF8"],
            check=True, capture_output=True, cwd=folder,
        )  # fmt: skip
        settings = {
            "listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off",
            "max_connections": 200, "shared_buffers": "32MB", "autovacuum": "off",
        }  # fmt: skip
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [*as_user, postgres_binary("postgres"), "-D", data, *options],
                stdout=log, stderr=subprocess.STDOUT, cwd=folder,
            )  # fmt: skip
        try:
            _wait_for(port, server, folder / "log")
            yield Cluster(port)
        finally:
            server.terminate()
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_postgres(folder: Path) -> list[str]:
    """PostgreSQL does not run as root; Debian's package has a user for it."""
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam("postgres")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not _answers(port):
        assert server.poll() is None, log.read_text(errors="replace")[-2000:]
        assert time.monotonic() < deadline, "PostgreSQL did not start"
        time.sleep(0.05)


def _answers(port: int) -> bool:
    try:
        pg8000.native.Connection(USER, host="127.0.0.1", port=port, database="postgres").close()
    except (pg8000.native.InterfaceError, pg8000.native.DatabaseError):  # not there yet, or starting up
        return False
    return True
