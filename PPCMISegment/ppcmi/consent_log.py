"""What a site's users agreed to send, kept at the site: JSON lines in its profile, mode 0600, only ever appended to.

An entry says when, for which task, what in numbers, which version of the text was shown, which privacy check there
was, and the answer. It names no patient, no case and no file, and it never leaves.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ppcmi.errors import WriteError
from ppcmi.files import append_line
from ppcmi.privacy_check import PrivacyCheck
from ppcmi.what_leaves import TEXT_VERSION, Leaving, NetworkLeaving

FILE_NAME = "consents.jsonl"
NETWORK, CODEC = "network", "codec"
"""The action of entries that say that a network goes to the other members."""


class Answer(StrEnum):
    """What the user said; ``COMMAND`` where giving the command was the answer."""

    YES = "yes"
    NO = "no"
    COMMAND = "command"


@dataclass(frozen=True)
class Consent:
    """One entry.

    :param time: UTC, ISO 8601, to the second.
    :param action: ``export``, ``upload``, ``network`` or ``codec``.
    :param what: numbers of what leaves, as ``document`` of :class:`~ppcmi.what_leaves.Leaving` or
        :class:`~ppcmi.what_leaves.NetworkLeaving` gives them; of a codec its fingerprint.
    :param privacy_check: name of the check that measured the profile and whose controls held, empty where there was
        none; None in entries that are older than the check.
    """

    time: str
    action: str
    task: str
    what: Mapping[str, Any]
    text_version: int
    answer: str
    privacy_check: str | None = None


class ConsentLog:
    """The log in the site profile's folder.

    Example::

        ConsentLog(site.folder).record("export", leaving, Answer.YES, read_check(site.folder, part))
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME

    def record(self, action: str, leaving: Leaving, answer: Answer, check: PrivacyCheck | None = None) -> Consent:
        """Add an entry; it is durable when this returns.

        :param check: the task's last privacy check, None if there is none.
        :raises WriteError: if it cannot be written: then nothing should be sent either.
        """
        seen = check.name if check is not None and check.measured(leaving.sending.profile) else ""
        return self._append(Consent(_now(), action, leaving.task, leaving.document(), TEXT_VERSION, str(answer), seen))

    def record_network(self, leaving: NetworkLeaving, answer: Answer) -> Consent:
        """Add an entry for a network that goes to the other members; as :meth:`record`."""
        return self._append(Consent(_now(), NETWORK, leaving.task, leaving.document(), TEXT_VERSION, str(answer)))

    def record_codec(self, task: str, fingerprint: str, answer: Answer) -> Consent:
        """Add an entry for a codec that goes to all members, who may look for what it remembers; as :meth:`record`."""
        return self._append(Consent(_now(), CODEC, task, {"codec": fingerprint}, TEXT_VERSION, str(answer)))

    def _append(self, entry: Consent) -> Consent:
        try:
            append_line(self._path, json.dumps(asdict(entry), separators=(",", ":")), mode=0o600)
        except WriteError as error:
            raise WriteError(f"The consent log cannot be written; nothing is sent without it. {error}") from error
        return entry

    def entries(self) -> list[Consent]:
        """Every entry, oldest first; a line that was cut off is left out.

        :raises WriteError: if it cannot be read: then it cannot be written either.
        """
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise WriteError(
                f"The consent log cannot be read ({error.strerror}); nothing is sent without it."
            ) from error
        found = []
        for line in lines:
            try:
                found.append(Consent(**json.loads(line)))
            except (ValueError, TypeError):
                continue
        return found


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
