"""Cohorts on their way to the server: files in the site profile until the server has them whole.

Each lies in the folder ``outgoing`` (mode 0700) as ``ID.ppcmi``, which only the server can open, beside ``ID.json``:
what it is in numbers, so that the question can be asked again before an upload that was cut off goes on.
"""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ppcmi.errors import SiteError
from ppcmi.files import write_atomically
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

        path = Outgoing(site.folder).new_path()
        ...                                            # export to it
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
