"""Site profile as one file under a passphrase, so that a department's workstations share one site.

It holds server address, certificate authority, token, keys, task memberships, codecs and decoders. The tables that say
which case hides behind which pseudonym are left out, unless a site moves as a whole: they identify cases.

Under the passphrase (see :mod:`ppcmi.passphrase_file`)::

    u32 LE length | {"format": "ppcmi-site-export/1", "members": [{"name": ..., "size": ...}, ...]} | the members' bytes

Names come from a list of those that a profile has, so none can lead out of the folder; each has a largest size, and
both are checked before anything is written. An import never touches an existing profile.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ppcmi.errors import PpcmiError, SiteError, WriteError
from ppcmi.files import sync_folder
from ppcmi.passphrase_file import (
    FRAME_BYTES,
    DecryptedStream,
    PassphraseError,
    ScryptCost,
    encrypt,
    require_strong,
)
from ppcmi.site import SiteProfile
from ppcmi.strict_json import is_whole, parse_object

FORMAT = "ppcmi-site-export/1"
MAXIMUM_CONTENTS_BYTES = 256 << 10
MAXIMUM_MEMBERS = 1000
MAXIMUM_BYTES = 8 << 30

_KIB, _MIB = 1 << 10, 1 << 20
_REQUIRED = ("site.json", "private.key", "token")
_PROFILE = {
    "site.json": 64 * _KIB,
    "private.key": 4 * _KIB,
    "token": 4 * _KIB,
    "server-ca.pem": _MIB,
    "client-certificate.pem": _MIB,
    "client-key.pem": 64 * _KIB,
}
_CASE_TABLES = {"pseudonyms.json": 64 * _MIB, "cohorts.json": 64 * _MIB, "consents.jsonl": 64 * _MIB}
_TASK = {
    "task.json": _MIB,
    "membership.json": 64 * _KIB,
    "inner.key": 4 * _KIB,
    "codec.safetensors": 256 * _MIB,
    "decoder.safetensors": 256 * _MIB,
    "network.safetensors": 256 * _MIB,
}
_TASK_MEMBER = re.compile(r"tasks/([a-z0-9][a-z0-9-]{0,62})/([a-z.]{1,40})")


@dataclass(frozen=True)
class Member:
    """One file of a profile: its name with slashes, and its size in bytes."""

    name: str
    size: int


def export_profile(site: SiteProfile, path: Path, passphrase: str, *, cost: ScryptCost | None = None) -> list[Member]:
    """Write the profile without the tables of cases to ``path``, mode 0600; what it holds.

    :raises UsageError: if the passphrase is weak.
    :raises SiteError: if ``path`` exists, or the profile is damaged.
    :raises WriteError: if it cannot be written.
    """
    return _export(site, path, passphrase, _PROFILE, cost)


def export_whole_profile(
    site: SiteProfile, path: Path, passphrase: str, *, cost: ScryptCost | None = None
) -> list[Member]:
    """As :func:`export_profile`, with the tables that tell which case has which pseudonym: to move a site."""
    return _export(site, path, passphrase, {**_PROFILE, **_CASE_TABLES}, cost)


def import_profile(path: Path, passphrase: str, folder: Path) -> SiteProfile:
    """The profile in the file ``path``, put into ``folder``, which does not exist yet or is empty.

    :raises SiteError: if there is something in ``folder``, or the file holds no usable profile.
    :raises PassphraseError: if passphrase or file is wrong; nothing appears then.
    :raises WriteError: if it cannot be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise _in_the_way()
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
        temporary.mkdir(mode=0o700)
    except OSError as error:
        raise _cannot_write(error) from error
    try:
        _extract(path, passphrase, temporary)
        _require_usable(temporary)
        _move(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return SiteProfile.open(folder)


def _export(
    site: SiteProfile, path: Path, passphrase: str, wanted: dict[str, int], cost: ScryptCost | None
) -> list[Member]:
    require_strong(passphrase)
    if path.exists():
        raise SiteError("There is a file of that name already; choose another name.")
    _require_usable(site.folder)
    members = _members(site.folder, wanted)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            for part in encrypt(_content(site.folder, members), passphrase, cost):
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _cannot_write(error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    return members


def _members(folder: Path, wanted: dict[str, int]) -> list[Member]:
    """What of a profile's files goes along, in a fixed order."""
    names = [name for name in wanted if (folder / name).is_file()]
    for task in sorted(folder.glob("tasks/*/membership.json")):
        names += [f"tasks/{task.parent.name}/{name}" for name in _TASK if (task.parent / name).is_file()]
    members = [Member(name, (folder / name).stat().st_size) for name in names]
    _require_allowed(members, _damaged())
    return members


def _content(folder: Path, members: list[Member]) -> Iterator[bytes]:
    contents = json.dumps({"format": FORMAT, "members": [asdict(member) for member in members]}).encode()
    yield len(contents).to_bytes(4, "little") + contents
    for member in members:
        left = member.size
        with (folder / member.name).open("rb") as stream:
            while left and (part := stream.read(min(left, FRAME_BYTES))):
                left -= len(part)
                yield part
            if left or stream.read(1):
                raise SiteError("The site profile changed while it was exported; try again.")


def _extract(path: Path, passphrase: str, folder: Path) -> None:
    try:
        source = path.open("rb")
    except OSError as error:
        raise SiteError("The file with the site profile cannot be read; check its name.") from error
    with source:
        stream = DecryptedStream(source, passphrase)
        members = _parse_contents(stream)
        try:
            for member in members:
                _write_member(stream, member, folder)
        except OSError as error:
            raise _cannot_write(error) from error
        stream.require_end()


def _parse_contents(stream: DecryptedStream) -> list[Member]:
    size = int.from_bytes(stream.read(4), "little")
    if not 2 <= size <= MAXIMUM_CONTENTS_BYTES:
        raise PassphraseError
    try:
        document = parse_object(stream.read(size))
        if document.keys() != {"format", "members"} or not isinstance(document["members"], list):
            raise PassphraseError
        if document["format"] != FORMAT:
            raise SiteError("The site profile was exported by another version of ppcmi; update the older one.")
        members = [Member(**entry) for entry in document["members"][: MAXIMUM_MEMBERS + 1]]
    except (TypeError, ValueError) as error:
        raise PassphraseError from error
    _require_allowed(members, PassphraseError())
    return members


def _require_allowed(members: list[Member], error: SiteError) -> None:
    """Names that a profile has, each once, no larger than they may be, and no fewer than it takes."""
    names = [member.name for member in members]
    well_formed = len(members) <= MAXIMUM_MEMBERS and all(
        isinstance(member.name, str) and is_whole(member.size) and 0 <= member.size <= _limit(member.name)
        for member in members
    )
    if not well_formed or len(set(names)) != len(names) or not set(_REQUIRED) <= set(names):
        raise error
    if sum(member.size for member in members) > MAXIMUM_BYTES:
        raise error


def _limit(name: str) -> int:
    """The largest size of a member; -1 for names that no profile has."""
    found = _TASK_MEMBER.fullmatch(name)
    if found:
        return _TASK.get(found[2], -1)
    return {**_PROFILE, **_CASE_TABLES}.get(name, -1)


def _write_member(stream: DecryptedStream, member: Member, folder: Path) -> None:
    path = folder / member.name
    for parent in reversed(path.relative_to(folder).parents[:-1]):
        (folder / parent).mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
        left = member.size
        while left:
            part = stream.read(min(left, FRAME_BYTES))
            left -= len(part)
            target.write(part)
        target.flush()
        os.fsync(target.fileno())


def _require_usable(folder: Path) -> None:
    """Whether a site can work from ``folder``: every key is whole, every membership belongs to its task.

    :raises SiteError: if not.
    """
    try:
        site = SiteProfile.open(folder)
        site.link_key()
        site.client().close()
        keys = [part.inner_key for part in site.tasks() if part.task.name == part.folder.name]
    except SiteError:
        raise
    except PpcmiError as error:
        raise _damaged() from error
    if len(keys) != len(site.tasks()):
        raise _damaged()


def _move(temporary: Path, folder: Path) -> None:
    try:
        if folder.exists():
            folder.rmdir()  # it is empty; should something have come into it, this fails
        temporary.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise _in_the_way() from error


def _damaged() -> SiteError:
    return SiteError("The site profile is damaged; restore it from a backup, or enrol again.")


def _in_the_way() -> SiteError:
    return SiteError("There is a site profile, or something else, in that folder already; choose another with --site.")


def _cannot_write(error: OSError) -> WriteError:
    return WriteError(f"A file cannot be written: {error.strerror}.")
