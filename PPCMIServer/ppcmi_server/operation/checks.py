"""What keeps a server from serving as it is configured, each found thing in one sentence.

``serve`` refuses the first problem, ``config check`` lists them all, ``doctor`` adds what only a look inside shows.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.exc import SQLAlchemyError

from ppcmi.device import choose_device
from ppcmi.errors import PpcmiError
from ppcmi.server_address import is_loopback
from ppcmi.wording import counted
from ppcmi_server.config import ServerConfig
from ppcmi_server.database.engine import Database
from ppcmi_server.operation.tls import read_certificate, server_context
from ppcmi_server.storage.blobs import open_blobs
from ppcmi_server.storage.keys import ServerKeys

Level = Literal["ok", "warning", "problem"]
EXPIRES_SOON_DAYS = 30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    :param says: what is the case, and what to do where it is not well; without names, paths and secrets.
    """

    subject: str
    level: Level
    says: str


def serving_findings(config: ServerConfig) -> Iterator[Finding]:
    """What the settings alone allow: TLS, address, device."""
    yield _tried("tls", lambda: _tls(config))
    yield _tried("address", lambda: _address(config))
    yield _tried("device", lambda: f"Models run on {choose_device(config.training.device)}.")


def storage_findings(config: ServerConfig) -> Iterator[Finding]:
    """Folder, keys, database, blob store: there, ours alone, and working."""
    yield _folder(config)
    yield _tried("keys", lambda: _keys(config))
    yield _tried("database", lambda: _database(config))
    yield _tried("blobs", lambda: _blobs(config))


def _tried(subject: str, look: Callable[[], Finding | str]) -> Finding:
    """What a look says; what it cannot get at is a problem."""
    try:
        found = look()
    except PpcmiError as error:
        return Finding(subject, "problem", str(error))
    except SQLAlchemyError as error:
        return Finding(
            subject, "problem", f"The database does not work ({type(error).__name__}); is it there, and whole?"
        )
    return found if isinstance(found, Finding) else Finding(subject, "ok", found)


def _tls(config: ServerConfig) -> Finding:
    context = server_context(config)
    if context is None or config.tls.certificate is None:
        return Finding("tls", "ok", "No TLS.")
    facts = read_certificate(config.file(config.tls.certificate))
    now = dt.datetime.now(dt.UTC)
    left = facts.days_left(now)
    if left <= 0:
        return Finding(
            "tls", "problem", "The certificate has expired; get a new one, or 'ppcmi-server tls self-signed'."
        )
    if facts.not_before > now:
        return Finding("tls", "problem", "The certificate is not valid yet; is this machine's clock right?")
    level: Level = "warning" if left < EXPIRES_SOON_DAYS else "ok"
    return Finding(
        "tls", level, f"The certificate is good for {left:.0f} more days and for {counted(len(facts.names), 'name')}."
    )


def _address(config: ServerConfig) -> Finding:
    serve = config.serve
    if is_loopback(serve.host):
        return Finding("address", "ok", "Only this machine is served.")
    if config.tls.certificate is not None:
        return Finding("address", "ok", "Other machines are served over TLS.")
    if serve.insecure_without_tls:
        return Finding(
            "address",
            "warning",
            "Other machines are served without TLS: tokens travel in clear, unless a proxy adds it.",
        )
    return Finding(
        "address", "problem",
        "Other machines are served over TLS only; make a certificate with 'ppcmi-server tls self-signed', give "
        "--tls-cert and --tls-key, or insist with --insecure-without-tls.",
    )  # fmt: skip


def _folder(config: ServerConfig) -> Finding:
    if os.name == "posix" and config.folder.stat().st_mode & 0o077:
        return Finding("folder", "problem", "The server's folder can be entered by other users; set its mode to 0700.")
    if not os.access(config.folder, os.W_OK | os.X_OK):
        return Finding("folder", "problem", "The server's folder cannot be written; give it to the user who serves.")
    return Finding("folder", "ok", "The folder is the server's alone.")


def _keys(config: ServerConfig) -> Finding:
    keys = ServerKeys.load(config.folder, config.key_file)
    if keys.next_storage_key is not None:
        return Finding(
            "keys", "warning",
            "The storage key was being replaced when that was cut off; stop the server, and end it with "
            "'ppcmi-server keys rotate-storage'.",
        )  # fmt: skip
    return Finding("keys", "ok", "The server's keys are whole, and readable by its user alone.")


def _database(config: ServerConfig) -> str:
    database = Database(config)
    try:
        revision = database.revision()
    finally:
        database.close()
    return f"The database answers; its tables are of revision {revision or 'none yet'}."


def _blobs(config: ServerConfig) -> Finding:
    store, name = open_blobs(config.storage, config.folder), f"ready/{secrets.token_hex(8)}"
    content = secrets.token_bytes(64)
    try:
        store.write(name, content)
        same = store.read(name) == content
        store.delete(name)
    except OSError:
        return Finding("blobs", "problem", "The blob store cannot be written; check its address, rights and space.")
    if not same:
        return Finding("blobs", "problem", "The blob store does not give back what was written; check its disks.")
    return Finding("blobs", "ok", "The blob store takes, gives back and deletes.")
