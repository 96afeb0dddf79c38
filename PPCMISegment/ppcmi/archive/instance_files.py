"""What DICOM instances that come from elsewhere are called on disk: never by anything that they say of themselves."""

from __future__ import annotations

import hashlib
import re

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
LONGEST_UID = 64


def is_uid(text: str) -> bool:
    """Whether the text is a unique identifier (PS3.5 section 9.1), zeros at the front of a component being forgiven."""
    return len(text) <= LONGEST_UID and _UID.fullmatch(text) is not None


def hashed(uid: str) -> str:
    """A name for a folder or file from a UID: 32 hex digits, the same every time."""
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


def series_name(series_uid: str) -> str:
    """The name of a series' folder, and so of its result, which is printed: the same every time, and no UID."""
    return f"series-{hashed(series_uid)[:12]}"


def file_name(sop_instance_uid: str) -> str:
    """The name of an instance's file."""
    return f"{hashed(sop_instance_uid)}.dcm"
