"""Room for uploads: what a site may store, and the free space that stays for the database and checkpoints.

Both refusals are 507 (RFC 4918, section 11.5): the server cannot store what is asked for, and may be able to later. RFC
4331 (section 6) gives that status for a quota as well as for a full disk, and tells them apart by their condition, as
here the problem's type does. 413 would say that the request is too large, and have the client try a smaller one.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ppcmi_server.config import ServerConfig
from ppcmi_server.database.schema import Cohort, SharedNetwork, Site
from ppcmi_server.errors import RefusalError
from ppcmi_server.settings import StorageSettings
from ppcmi_server.storage.blobs import open_blobs
from ppcmi_server.storage.full_disk import storage_full

LIE_THERE = ("the server's folder", "latents and codecs")
"""What lies in a room's folders, in their order."""


def room_of(config: ServerConfig) -> Room:
    """The room that a server has."""
    blobs = open_blobs(config.storage, config.folder).folder
    return Room(config.storage, [config.folder, *([] if blobs is None else [blobs])])


def stored_bytes(session: Session, site_id: str) -> int:
    """Bytes that a site's cohorts, chunks of frames that are not whole included, and its shared networks take."""
    return stored_by_site(session, site_id).get(site_id, 0)


def stored_by_site(session: Session, site_id: str | None = None) -> dict[str, int]:
    """The same for every site that stores something, or for one."""
    stored: dict[str, int] = defaultdict(int)
    for kind in (Cohort, SharedNetwork):
        sums = select(kind.site_id, func.sum(kind.stored_bytes)).group_by(kind.site_id)
        for owner, size in session.execute(sums if site_id is None else sums.where(kind.site_id == site_id)):
            stored[owner] += int(size or 0)  # PostgreSQL's sum of whole numbers is a decimal one
    return stored


@dataclass(frozen=True)
class Disk:
    """A disk that fills up, as it is in this moment.

    :param what: lies there.
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


class Room:
    """How much may still be stored.

    :param folders: on the disks that fill up: the server's own, and that of the blobs if they lie in one.
    """

    def __init__(self, storage: StorageSettings, folders: Sequence[Path]) -> None:
        self._storage = storage
        self._folders = tuple(folders)

    def quota_of(self, site: Site) -> int:
        """Bytes that a site may store."""
        return self._storage.site_quota_bytes if site.quota_bytes is None else site.quota_bytes

    def require_quota(self, session: Session, site: Site, more: int) -> None:
        """A site may store so many bytes more.

        :raises RefusalError: 507 if not.
        """
        if stored_bytes(session, site.id) + more > self.quota_of(site):
            raise RefusalError(
                507, "quota-exceeded", "Quota exceeded",
                "The site may not store more on this server; withdraw a cohort, or ask the server's operator for room.",
            )  # fmt: skip

    def require_space(self, more: int) -> None:
        """The disks have so many bytes and keep the reserve.

        :raises RefusalError: 507 if not.
        """
        if any(disk.free - more < disk.reserve for _, disk in self._look()):
            raise storage_full()

    def disks(self) -> list[Disk]:
        """The disks that the folders lie on, each once; an object store's room is not ours to know.

        :raises OSError: if one does not answer.
        """
        found: dict[tuple[int, int], Disk] = {}
        for device, disk in self._look():
            found.setdefault((device, disk.total), disk)  # folders of one device may have limits of their own
        return list(found.values())

    def tightest(self) -> Disk:
        """The disk with the least space, which is the first to stop uploads.

        :raises OSError: if one does not answer.
        """
        return min((disk for _, disk in self._look()), key=lambda disk: disk.free)

    def _look(self) -> Iterator[tuple[int, Disk]]:
        """Each folder's device and what is free there."""
        for what, folder in zip(LIE_THERE, self._folders, strict=False):
            there = next(place for place in (folder, *folder.parents) if place.exists())
            usage = shutil.disk_usage(there)
            yield there.stat().st_dev, Disk(what, usage.total, usage.free, self._storage.reserve_bytes)
