"""A receipt of the server's audit log: the digest of the newest event that this site saw.

Every event's digest covers all events before it, so a log that still has an event of that digest has not been changed
up to there. A log that was rolled back, or written anew, does not have it.
"""

from __future__ import annotations

import re
from pathlib import Path

from ppcmi.client import NOT_FOUND, ServerClient
from ppcmi.errors import ServerRefusedError, SiteError
from ppcmi.files import write_atomically

NAME = "audit-receipt"
DIGEST = re.compile("[0-9a-f]{64}")


def compare_receipt(folder: Path, client: ServerClient) -> bool:
    """Ask for what was kept, then keep the newest; whether there was anything to ask for.

    :param folder: the site profile's.
    :raises SiteError: if the server's log does not have it any longer; it stays then, as evidence.
    """
    kept = _kept(folder)
    if kept is not None and not _is_there(client, kept):
        raise SiteError(
            "The server's audit log has lost an event that this site saw: it was set back or written anew. "
            "Ask the server's operator why."
        )
    newest = client.me().get("audit_head")
    if isinstance(newest, str) and DIGEST.fullmatch(newest):
        write_atomically(folder / NAME, newest.encode(), mode=0o600)
    return kept is not None


def _is_there(client: ServerClient, digest: str) -> bool:
    try:
        client.find_in_audit_log(digest)
    except ServerRefusedError as error:
        if error.status != NOT_FOUND:
            raise
        return False
    return True


def _kept(folder: Path) -> str | None:
    try:
        text = (folder / NAME).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None  # none yet, or damaged: the next one is good again
    return text if DIGEST.fullmatch(text) else None
