"""Whether the server can do its work: what ``/readyz`` tells whoever asks, in words that give nothing away."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from ppcmi_server.config import ServerConfig
from ppcmi_server.database.engine import Database
from ppcmi_server.intake.quota import room_of
from ppcmi_server.storage.blobs import BlobStore

KEPT_S = 2.0
"""Anyone may ask, and the answer costs a write: it is found out anew only after so long."""


@dataclass(frozen=True)
class Readiness:
    """What does not work, of ``database`` and ``storage``; and whether there is room for uploads."""

    failing: tuple[str, ...]
    room_for_uploads: bool


class ReadinessCheck:
    """Tries the database and the blob store, at most once in :data:`KEPT_S`; used from several threads."""

    def __init__(
        self,
        config: ServerConfig,
        database: Database,
        blobs: BlobStore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._room = room_of(config)
        self._database = database
        self._blobs = blobs
        self._clock = clock
        self._lock = threading.Lock()
        self._found = Readiness((), room_for_uploads=True)
        self._until = -1.0

    def __call__(self) -> Readiness:
        """What was found out last, if that was a moment ago."""
        with self._lock:
            if self._clock() >= self._until:
                works = {"database": self._database_works(), "storage": self._storage_works()}
                self._found = Readiness(tuple(name for name, fine in works.items() if not fine), self._has_room())
                self._until = self._clock() + KEPT_S
            return self._found

    def _database_works(self) -> bool:
        try:
            with self._database.reading() as session:
                session.execute(text("SELECT 1"))
        except SQLAlchemyError:
            return False
        return True

    def _storage_works(self) -> bool:
        name = f"ready/{secrets.token_hex(8)}"
        try:
            self._blobs.write(name, b"ready")
            self._blobs.delete(name)
        except Exception:  # whatever a store may raise means the same here, and the doctor tells more
            return False
        return True

    def _has_room(self) -> bool:
        try:
            return not self._room.tightest().below_reserve
        except OSError:
            return False
