"""What belongs to the case in the chosen row: its volume, a segment for each label, overlaps, and what was found."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from typing import Any

import qt
from slicer.i18n import tr as _

from PPCMISegmentLib.CasePair import WRONG, CasePair, ScenePair

LABEL_COLUMN, SEGMENT_COLUMN = 0, 1
REFUSE, BY_ORDER = "refuse", "order"


class CaseDetails:
    """Widgets of the section, filled for one pair at a time.

    :param ui: with volumeRow, volumeSelector, labelsTable, overlapRow, overlapSelector and findingsLabel.
    :param onChanged: called with the pair when a user chose something else about it.
    """

    def __init__(self, ui: Any, onChanged: Callable[[CasePair], None]) -> None:
        self._ui, self._onChanged = ui, onChanged
        self._pair: CasePair | None = None
        ui.labelsTable.verticalHeader().setVisible(False)
        ui.labelsTable.horizontalHeader().setStretchLastSection(True)
        ui.volumeSelector.connect("currentIndexChanged(int)", self._onVolumeChosen)
        ui.overlapSelector.connect("currentIndexChanged(int)", self._onOverlapChosen)

    def show(self, pair: CasePair | None) -> None:
        """Fill the widgets."""
        self._pair = None  # filling them is no choice of a user's
        self._showVolumes(pair)
        self._showLabels(pair)
        self._showOverlap(pair)
        self._ui.findingsLabel.text = _findings(pair)
        self._pair = pair

    def setEditable(self, editable: bool) -> None:
        """Whether anything can be chosen."""
        for widget in (self._ui.volumeRow, self._ui.labelsTable, self._ui.overlapRow):
            widget.enabled = editable

    def _showVolumes(self, pair: CasePair | None) -> None:
        scenePair = pair if isinstance(pair, ScenePair) else None
        self._ui.volumeRow.visible = scenePair is not None
        self._ui.volumeSelector.clear()
        if scenePair is None:
            return
        self._ui.volumeSelector.addItem(_("(none)"))
        for node in scenePair.volumes:
            self._ui.volumeSelector.addItem(node.GetName())
        chosen = scenePair.volumes.index(scenePair.volumeNode) + 1 if scenePair.volumeNode in scenePair.volumes else 0
        self._ui.volumeSelector.currentIndex = chosen

    def _showLabels(self, pair: CasePair | None) -> None:
        table = self._ui.labelsTable
        table.setRowCount(0)
        table.visible = pair is not None and pair.matching is not None
        if pair is None or pair.matching is None:
            return
        table.setRowCount(len(pair.matching.matches))
        for row, match in enumerate(pair.matching.matches):
            color = qt.QPixmap(12, 12)
            color.fill(qt.QColor(*match.label.color))
            name = qt.QTableWidgetItem(qt.QIcon(color), match.label.name)
            table.setItem(row, LABEL_COLUMN, name)
            box = qt.QComboBox()
            box.toolTip = _("The segment that is this label. With none, the label counts as not there.")
            box.addItem(_("(none)"))
            for segment in pair.segments:
                box.addItem(segment.name)
            ids = [segment.id for segment in pair.segments]
            box.currentIndex = ids.index(match.segment) + 1 if match.segment in ids else 0
            box.connect("activated(int)", partial(self._onSegmentChosen, match.label.value))
            table.setCellWidget(row, SEGMENT_COLUMN, box)
        table.resizeColumnToContents(LABEL_COLUMN)
        table.setFixedHeight(table.horizontalHeader().height + sum(map(table.rowHeight, range(table.rowCount))) + 4)

    def _showOverlap(self, pair: CasePair | None) -> None:
        from ppcmi.case_checks import Kind

        found = pair.outcome.findings if pair is not None and pair.outcome is not None else ()
        overlaps = any(finding.kind is Kind.OVERLAP for finding in found) or bool(pair is not None and pair.priority)
        shown = overlaps and isinstance(pair, ScenePair) and pair.matching is not None
        self._ui.overlapRow.visible = shown
        self._ui.overlapSelector.clear()
        if not shown:
            return
        selector = self._ui.overlapSelector
        selector.addItem(_("Do not use the case"), REFUSE)
        for match in pair.matching.found:
            selector.addItem(_("{label} counts").format(label=match.label.name), str(match.label.value))
        selector.addItem(_("The upper one in the list of labels counts"), BY_ORDER)
        values = tuple(match.label.value for match in pair.matching.found)
        key = REFUSE if not pair.priority else BY_ORDER if pair.priority == values else str(pair.priority[0])
        selector.currentIndex = max(0, selector.findData(key))

    def _onVolumeChosen(self, index: int) -> None:
        pair = self._pair
        if isinstance(pair, ScenePair):
            pair.setVolume(pair.volumes[index - 1] if index > 0 else None)
            self._onChanged(pair)

    def _onSegmentChosen(self, value: int, index: int) -> None:
        pair = self._pair
        if pair is None or pair.matching is None:
            return
        pair.chooseSegment(value, pair.segments[index - 1].id if index > 0 else None)
        self.show(pair)  # the segment may have been another label's
        self._onChanged(pair)

    def _onOverlapChosen(self, _index: int) -> None:
        pair = self._pair
        if pair is None or pair.matching is None:
            return
        key = self._ui.overlapSelector.currentData
        if key in (None, REFUSE):
            pair.priority = ()
        elif key == BY_ORDER:
            pair.priority = tuple(match.label.value for match in pair.matching.found)
        else:
            pair.priority = (int(key),)
        self._onChanged(pair)


def _findings(pair: CasePair | None) -> str:
    """What the check found as rich text, red where it prevents; sentences may hold names that somebody typed."""
    if pair is None:
        return ""
    if pair.outcome is None:
        return _("Checking...")
    if not pair.outcome.findings:
        return _("Nothing is wrong with this case.")
    return "<br>".join(
        f'<span style="color:{WRONG}">&#10007; {escape(finding.sentence)}</span>'
        if finding.prevents
        else f"&#8226; {escape(finding.sentence)}"
        for finding in pair.outcome.findings
    )
