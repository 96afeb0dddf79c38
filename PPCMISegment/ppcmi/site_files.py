"""The files of a site profile: JSON objects and keys, read with what to do where one is absent or damaged.

Everything is written by rename; keys are for their owner alone.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppcmi.errors import SiteError
from ppcmi.files import cause_of, write_atomically

KEY_BYTES = 32


def make_private_folder(folder: Path) -> None:
    """A folder, with its parents, that only its owner can enter.

    :raises SiteError: if it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise SiteError(
            f"The site profile's folder cannot be made ({cause_of(error)}); choose another with --site."
        ) from error


def keep_secret(path: Path, value: bytes) -> bytes:
    """Write a key, mode 0600, and return it."""
    write_atomically(path, base64.b64encode(value), mode=0o600)
    return value


def read_secret(path: Path) -> bytes:
    """The 32 bytes of a key that :func:`keep_secret` wrote.

    :raises SiteError: if there is none, it is damaged, or others can read it.
    """
    text = read_text(path, "A key file of the site profile is missing; restore it from a backup, or enrol again.")
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise SiteError("A key file of the site profile can be read by other users; set its mode to 0600.")
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise SiteError("A key file of the site profile is damaged; restore it from a backup, or enrol again.")
    return key


def read_text(path: Path, absent: str, command: str = "") -> str:
    """A file's text.

    :param absent: what the error says where there is no such file.
    :param command: that would make it, for the error.
    :raises SiteError: if there is none, or it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SiteError(absent, command=command) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SiteError("A file of the site profile cannot be read; check its owner and mode.") from error


def read_json(path: Path, absent: str | None, command: str = "") -> dict[str, Any]:
    """The object in a JSON file, as :func:`read_text`; with ``absent`` None a file that is absent is an empty one.

    :raises SiteError: if it is damaged, too.
    """
    if absent is None and not path.exists():
        return {}
    try:
        document = json.loads(read_text(path, absent or "", command))
    except ValueError as error:
        raise SiteError("The site profile is damaged; restore it from a backup, or enrol again.") from error
    if not isinstance(document, dict):
        raise SiteError("The site profile is damaged; restore it from a backup, or enrol again.")
    return document


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """An object as the profile's files hold it."""
    return json.dumps(document, indent=2, sort_keys=True).encode()
