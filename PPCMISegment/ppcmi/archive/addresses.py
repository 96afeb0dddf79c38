"""Who talks to whom in DICOM: application entity titles and addresses (PS3.5 section 6.2, PS3.8)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ppcmi.errors import UsageError

_TITLE = re.compile(r"[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?")
"""Up to 16 printable characters without backslash, no spaces at the ends."""

_PLACE = re.compile(r"(?P<title>.+)@(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[^@:\s\[\]]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True)
class Application:
    """A DICOM application on another machine, or on this one."""

    ae_title: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.ae_title}@{host}:{self.port}"


def parse_title(text: str) -> str:
    """An application entity title.

    :raises UsageError: if it is none.
    """
    if _TITLE.fullmatch(text) is None:
        raise UsageError("An AE title has 1 to 16 letters, digits or signs, and no backslash.")
    return text


def parse_application(text: str) -> Application:
    """``AET@HOST:PORT``.

    :raises UsageError: if it does not look like that.
    """
    found = _PLACE.fullmatch(text)
    if found is None or not 0 < int(found["port"]) < 1 << 16:
        raise UsageError("A DICOM application is given as AET@HOST:PORT, such as ORTHANC@127.0.0.1:4242.")
    return Application(parse_title(found["title"]), found["six"] or found["host"], int(found["port"]))
