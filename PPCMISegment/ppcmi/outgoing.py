"""Cohorts on their way to the server: files in the site profile until the server has them whole.

Each lies in the folder ``outgoing`` (mode 0700) as ``ID.ppcmi``, which only the server can open, beside ``ID.json``:
what it is in numbers, so that the question can be asked again before an upload that was cut off goes on. While one is
being written, and until its ``ID.json`` is there, its writer holds ``ID.lock``; what nobody holds a crash has left.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ppcmi.errors import SiteError
from ppcmi.files import write_atomically
from ppcmi.locks import hold_lock, is_locked
from ppcmi.site_files import make_private_folder
from ppcmi.what_leaves import Leaving


@dataclass(frozen=True)
class Waiting:
    """A cohort that the server does not have whole yet."""

    path: Path
    leaving: Leaving


class Outgoing:
    """The folder of a site profile.

    Example::

        outgoing = Outgoing(site.folder)
        with outgoing.writing() as path:
            ...                                        # export to it
            outgoing.keep(Waiting(path, leaving))
        ...                                            # upload
        outgoing.remove(path)
    """

    def __init__(self, site_folder: Path) -> None:
        self._folder = site_folder / "outgoing"

    def new_path(self) -> Path:
        """Where a cohort may be written.

        :raises SiteError: if the folder cannot be made.
        """
        make_private_folder(self._folder)
        return self._folder / f"{secrets.token_hex(8)}.ppcmi"

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """A :meth:`new_path` that nobody takes for what a crash left while the context lasts.

        :raises SiteError: if the folder cannot be made or written.
        """
        path = self.new_path()
        refusal = SiteError("The site profile's folder 'outgoing' cannot be written; check who may write there.")
        try:
            with ExitStack() as held:
                try:
                    held.enter_context(hold_lock(_lock(path), refusal))
                except OSError as error:
                    raise refusal from error
                yield path
        finally:
            with suppress(OSError):
                _lock(path).unlink(missing_ok=True)

    def clear_leftovers(self) -> None:
        """Remove what a crash left: parts of a file, and a cohort of which nobody knows what it is.

        What cannot be removed stays for the next time.
        """
        for leftover in [*self._folder.glob("*.ppcmi"), *self._folder.glob(".*.part"), *self._folder.glob(".*.tmp")]:
            path = self._folder / f"{leftover.name.lstrip('.').partition('.')[0]}.ppcmi"
            with suppress(OSError):
                # In this order: a writer that lets go has written down before what its file is.
                if not is_locked(_lock(path)) and (leftover != path or not _facts(path).exists()):
                    leftover.unlink(missing_ok=True)
                    _lock(path).unlink(missing_ok=True)

    def keep(self, waiting: Waiting) -> None:
        """Remember what a file is.

        :raises WriteError: if that cannot be written.
        """
        document = {"task": waiting.leaving.task, "what": waiting.leaving.document()}
        write_atomically(_facts(waiting.path), json.dumps(document).encode(), mode=0o600)

    def waiting(self) -> list[Waiting]:
        """Every cohort that is whole here and not yet at the server."""
        found = []
        for path in sorted(self._folder.glob("*.ppcmi")):
            with suppress(OSError, ValueError, KeyError, TypeError):  # nobody can be asked about what is not known
                document = json.loads(_facts(path).read_text(encoding="utf-8"))
                found.append(Waiting(path, Leaving.of_document(document["task"], document["what"])))
        return found

    def remove(self, path: Path) -> None:
        """Forget a cohort: the server has it, or it is not to be sent.

        :raises SiteError: if its file cannot be removed.
        """
        try:
            path.unlink(missing_ok=True)
            _facts(path).unlink(missing_ok=True)
        except OSError as error:
            raise SiteError("A file in the site profile's folder 'outgoing' cannot be removed; remove it.") from error


def _facts(path: Path) -> Path:
    return path.with_suffix(".json")


def _lock(path: Path) -> Path:
    return path.with_suffix(".lock")
