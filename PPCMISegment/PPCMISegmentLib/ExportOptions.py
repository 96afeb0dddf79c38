"""What a user may choose about an export besides the cases: where to, which scales, precision, augmentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from PPCMISegmentLib.ExportLogic import ExportChoices
from PPCMISegmentLib.Settings import Settings

if TYPE_CHECKING:
    from ppcmi.scales import Profile
    from ppcmi.task_profile import TaskProfile

SERVER, FILE = "server", "file"


class ExportOptions:
    """Selectors of the panel, remembered in the settings.

    :param ui: with destinationSelector, profileSelector and its caption, quantizationSelector and variantsSpinBox.
    :param onChanged: called when something else was chosen.
    """

    def __init__(self, ui: Any, settings: Settings, onChanged: Callable[[], None]) -> None:
        self._ui, self._settings, self._onChanged = ui, settings, onChanged
        self._selectors = {
            "exportTo": (
                ui.destinationSelector,
                ((SERVER, _("Send to the server")), (FILE, _("Write a file, to send later"))),
            ),
            "exportProfile": (
                ui.profileSelector,
                (
                    ("coarse", _("Coarse (usual)")),
                    ("minimal", _("Minimal: leaves least")),
                    ("full", _("Full: fine detail leaves as well")),
                ),
            ),
            "exportQuantization": (
                ui.quantizationSelector,
                (("i8", _("8 bits a value")), ("f16", _("16 bits a value")), ("f32", _("32 bits a value"))),
            ),
        }
        for name, (selector, choices) in self._selectors.items():
            for key, text in choices:
                selector.addItem(text, key)
            selector.currentIndex = max(0, selector.findData(settings.text(name)))
            selector.connect("currentIndexChanged(int)", self._onChosen)
        ui.variantsSpinBox.connect("valueChanged(int)", self._onChosen)

    @property
    def toServer(self) -> bool:
        """Whether the cohort is to be sent at once."""
        return self._ui.destinationSelector.currentData == SERVER

    def choices(self, part: TaskProfile) -> ExportChoices:
        """What was chosen; the published protocol and other methods leave no choice of the profile."""
        fixed = _onlyProfileOf(part)
        variants = self._ui.variantsSpinBox.value
        return ExportChoices(
            part.task.name,
            self._ui.profileSelector.currentData if fixed is None else str(fixed),
            self._ui.quantizationSelector.currentData,
            variants if variants >= 0 else None,
            self._settings.text("device", "auto"),
        )

    def showChoicesOf(self, part: TaskProfile | None) -> None:
        """Show the profile's selector only where it is what leaves."""
        for widget in (self._ui.profileCaptionLabel, self._ui.profileSelector):
            widget.visible = part is None or _onlyProfileOf(part) is None

    def chooseProfile(self, profile: str) -> None:
        """Take a privacy profile, as if it was chosen in its selector."""
        selector = self._ui.profileSelector
        selector.currentIndex = max(0, selector.findData(profile))

    def _onChosen(self, _value: int) -> None:
        for name, (selector, _choices) in self._selectors.items():
            self._settings.keep(name, selector.currentData)
        self._onChanged()


def _onlyProfileOf(part: TaskProfile) -> Profile | None:
    from ppcmi.methods.rules import only_profile

    return only_profile(part.task.method, part.membership.mode)
