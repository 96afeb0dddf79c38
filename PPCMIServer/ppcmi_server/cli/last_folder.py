"""Remembers the folder of the last ``init``, so that the commands after it need no ``--dir``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ppcmi.errors import WriteError
from ppcmi.files import write_atomically


@dataclass(frozen=True)
class LastFolder:
    """One line of text in the user's configuration."""

    file: Path

    def read(self) -> Path | None:
        """The folder, if one is remembered."""
        try:
            text = self.file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        return Path(text) if text else None

    def write(self, folder: Path) -> None:
        """Remember it; where that is not possible, commands need ``--dir``."""
        with suppress(OSError, WriteError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.file, str(folder.resolve()).encode(), mode=0o600)
