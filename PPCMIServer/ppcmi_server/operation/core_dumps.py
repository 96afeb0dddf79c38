"""No core dumps of a process that holds keys: a crash must not write them to the disk."""

from __future__ import annotations

import sys


def forbid_core_dumps() -> None:
    """For this process and those that it starts from now on; Windows writes none by itself."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - POSIX only

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
