"""What a privacy check found, profile by profile: a table, pictures of one slice, and two sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import qt
from slicer.i18n import tr as _

if TYPE_CHECKING:
    from ppcmi.privacy_check import CheckedProfile, PrivacyCheck

PICTURE_PIXELS, PICTURES_A_ROW = 132, 3
MARGIN_PIXELS, LINE_PIXELS = 4, 16
USUAL = "coarse"


class PrivacyCheckTable:
    """Rows of profiles; choosing one shows its pictures and sentences.

    :param ui: with resultTable, picturesLabel, sentencesLabel and useButton.
    :param onUse: called with the name of the profile that a user wants to export with.
    """

    def __init__(self, ui: Any, onUse: Callable[[str], None]) -> None:
        self._ui, self._onUse = ui, onUse
        self._check: PrivacyCheck | None = None
        self._pictures: dict[str, str] = {}
        ui.resultTable.verticalHeader().setVisible(False)
        ui.resultTable.connect("itemSelectionChanged()", self._showChosen)
        ui.useButton.connect("clicked()", self._onUseButton)
        self.show(None)

    def show(self, check: PrivacyCheck | None) -> None:
        """Show a check's numbers, or none."""
        if check is not None and self._check is not None and check.name == self._check.name:
            return  # the row that a user chose stays chosen, and the pictures stay
        self._check, self._pictures = check, {}
        table = self._ui.resultTable
        header = [_("Profile"), _("Dice of a\nstand-in"), _bestOf(check), _("No known\nslice"), _("Guess")]
        rows = [] if check is None else [_cells(row) for row in check.profiles]
        blocked = table.blockSignals(True)
        table.setColumnCount(len(header))
        table.setRowCount(len(rows))
        table.setHorizontalHeaderLabels(header)
        for row, cells in enumerate(rows):
            for column, text in enumerate(cells):
                table.setItem(row, column, qt.QTableWidgetItem(text))
        table.resizeColumnsToContents()
        table.resizeRowsToContents()
        for row in range(len(rows)):
            table.setRowHeight(row, table.rowHeight(row) + MARGIN_PIXELS)
        table.horizontalHeader().setStretchLastSection(True)
        height = table.horizontalHeader().sizeHint.height() + sum(map(table.rowHeight, range(len(rows))))
        table.setFixedHeight(height + MARGIN_PIXELS)
        table.blockSignals(blocked)
        for widget in (table, self._ui.useButton, self._ui.sentencesLabel):
            widget.visible = bool(rows)
        self._ui.picturesLabel.visible = False
        if check is not None and rows:
            profiles = [row.profile for row in check.profiles]
            table.selectRow(profiles.index(USUAL) if USUAL in profiles else 0)
            self._showChosen()

    def addPictures(self, event: Mapping[str, Any]) -> None:
        """Keep pictures of a profile's slice, of an event ``pictures``, as long as the check is shown; the first count.

        They are patients', so they are in memory only.
        """
        self._pictures.setdefault(str(event["profile"]), _pictureRows(event["pictures"]))
        self._showChosen()

    def _showChosen(self) -> None:
        from ppcmi.privacy_words import two_sentences

        check, row = self._check, self._chosen()
        if check is None or row is None:
            return
        found, whatStays = two_sentences(row, check.attacks, check.attacked)
        self._ui.sentencesLabel.text = f"<p>{escape(found)}</p><p>{escape(whatStays)}</p>"
        self._ui.useButton.text = _("Export with profile {profile}").format(profile=row.profile)
        pictures = self._pictures.get(row.profile, "")
        label = self._ui.picturesLabel
        label.text = pictures
        # A layout of wrapped texts would cut the last row off; on a scaled screen any caption may need one more line.
        label.setMinimumHeight(label.sizeHint.height() + LINE_PIXELS * pictures.count("<tr>"))
        label.visible = bool(pictures)

    def _chosen(self) -> CheckedProfile | None:
        index = self._ui.resultTable.currentRow()
        return self._check.profiles[index] if self._check and 0 <= index < len(self._check.profiles) else None

    def _onUseButton(self) -> None:
        row = self._chosen()
        if row is not None:
            self._onUse(row.profile)


def _bestOf(check: PrivacyCheck | None) -> str:
    if check is None:
        return _("Best attack,\nSSIM")
    from ppcmi.privacy_words import is_quick

    return _("Best quick\nattack, SSIM") if is_quick(check.attacks) else _("Best attack,\nSSIM")


def _cells(row: CheckedProfile) -> list[str]:
    best = _("{value:.2f}\n({low:.2f} to {high:.2f})").format(value=row.best_ssim, low=row.best_low, high=row.best_high)
    return [row.profile, _value(row.dice), best, _value(row.unaided_ssim), _value(row.chance_ssim)]


def _value(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "\u2013"


def _pictureRows(pictures: list[list[str]]) -> str:
    """Pictures with their names below, as rich text without a file."""
    captions = {"slice": _("The slice"), "leaving": _("What leaves"), "guess": _("A guess: the mean slice")}
    cells = [
        f'<td width="{PICTURE_PIXELS + MARGIN_PIXELS}"><img src="data:image/png;base64,{data}" '
        f'width="{PICTURE_PIXELS}"><br>{escape(captions.get(name) or _("Attack {name}").format(name=name))}</td>'
        for name, data in pictures
    ]
    rows = [cells[first : first + PICTURES_A_ROW] for first in range(0, len(cells), PICTURES_A_ROW)]
    return "<table>" + "".join(f"<tr>{''.join(row)}</tr>" for row in rows) + "</table>"
