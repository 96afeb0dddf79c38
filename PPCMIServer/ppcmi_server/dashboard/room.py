"""The disks that the server's data lie on, and how full they are."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from ppcmi_server.config import ServerConfig


@dataclass(frozen=True)
class Room:
    """One disk.

    :param what: what lies there.
    """

    what: str
    total: int
    free: int
    reserve: int

    @property
    def used_share(self) -> float:
        """Of 1."""
        return 1 - self.free / self.total if self.total else 1.0

    @property
    def below_reserve(self) -> bool:
        """Whether uploads are refused."""
        return self.free < self.reserve


def rooms(config: ServerConfig) -> list[Room]:
    """Where the server's folder lies; an object store's room is not ours to know."""
    usage = shutil.disk_usage(config.folder)
    return [Room("the server's folder", usage.total, usage.free, config.storage.reserve_bytes)]
