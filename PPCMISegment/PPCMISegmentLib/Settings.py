"""What the module remembers between sessions, in Slicer's settings: choices only, nothing secret and no path."""

from __future__ import annotations

import qt

PREFIX = "PPCMISegment/"


class Settings:
    """Choices by name, with the value to take where nothing was chosen yet."""

    def __init__(self) -> None:
        self._settings = qt.QSettings()

    def text(self, name: str, default: str = "") -> str:
        """A remembered text."""
        value = self._settings.value(PREFIX + name)
        return default if value is None else str(value)

    def truth(self, name: str, default: bool) -> bool:
        """A remembered yes or no."""
        return self.text(name, "yes" if default else "no") == "yes"

    def keep(self, name: str, value: str | bool) -> None:
        """Remember a choice."""
        text = ("yes" if value else "no") if isinstance(value, bool) else value
        self._settings.setValue(PREFIX + name, text)
