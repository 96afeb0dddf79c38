"""Which file system a folder is on: SQLite's locks and its log do not work over a network."""

from __future__ import annotations

import re
from pathlib import Path

from ppcmi_server.errors import OperatorError

MOUNTS = Path("/proc/self/mountinfo")
NETWORK_KINDS = frozenset(
    (
        *("afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"),
        *("ocfs2", "smb3", "smbfs", "fuse.cephfs", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs"),
    )
)


def file_system_of(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """The kind of the file system that ``folder`` is on, e.g. ``ext4``; None where the system does not say.

    :param mounts: Linux' table of mounts, see proc_pid_mountinfo(5).
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    place, found = folder.resolve(), (-1, "")
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        point = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[4]))
        if (place == point or point in place.parents) and len(point.parts) >= found[0]:
            found = (len(point.parts), after.split()[0])
    return found[1] or None


def require_local(folder: Path, mounts: Path = MOUNTS) -> None:
    """Refuse a folder on a network file system for SQLite.

    :raises OperatorError: if it is on one.
    """
    if file_system_of(folder, mounts) in NETWORK_KINDS:
        raise OperatorError(
            "SQLite damages its database on a network file system; put the server's folder on a local disk, or name a "
            "PostgreSQL server in storage.database_url."
        )
