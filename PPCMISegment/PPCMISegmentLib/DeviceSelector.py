"""Where networks run: one choice for all panels, remembered."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from PPCMISegmentLib.Settings import Settings

KEY = "device"


class DeviceSelector:
    """A combo box with the devices that there may be.

    :param box: empty yet.
    """

    def __init__(self, box: qt.QComboBox, settings: Settings) -> None:
        self._box, self._settings = box, settings
        for key, text in (
            ("auto", _("Automatic")),
            ("cuda", _("NVIDIA graphics card")),
            ("mps", _("Apple graphics")),
            ("cpu", _("Processor")),
        ):
            box.addItem(text, key)
        self.refresh()
        box.connect("currentIndexChanged(int)", self._onChosen)

    @property
    def chosen(self) -> str:
        """``auto``, ``cuda``, ``mps`` or ``cpu``."""
        return str(self._box.currentData)

    def refresh(self) -> None:
        """Show what was chosen last, perhaps in another panel."""
        self._box.currentIndex = max(0, self._box.findData(self._settings.text(KEY)))

    def _onChosen(self, _index: int) -> None:
        self._settings.keep(KEY, self.chosen)
