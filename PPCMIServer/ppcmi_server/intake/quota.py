"""Room for uploads: what a site may store, and the free space that stays for the database and checkpoints.

Both refusals are 507 (RFC 4918, section 11.5): the server cannot store what is asked for, and may be able to later. RFC
4331 (section 6) gives that status for a quota as well as for a full disk, and tells them apart by their condition, as
here the problem's type does. 413 would say that the request is too large, and have the client try a smaller one.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ppcmi_server.database.schema import Cohort, SharedNetwork, Site
from ppcmi_server.errors import RefusalError
from ppcmi_server.settings import StorageSettings
from ppcmi_server.storage.full_disk import storage_full


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
        for folder in self._folders:
            there = next(place for place in (folder, *folder.parents) if place.exists())
            if shutil.disk_usage(there).free - more < self._storage.reserve_bytes:
                raise storage_full()
