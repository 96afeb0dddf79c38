"""What a command of the section *Codec and decoder* tells, as a table and as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import qt
from slicer.i18n import tr as _

NEXT = "Next:"
"""Begins remarks that name the command to type next; a panel has buttons."""


class TrainingReport:
    """Collects events of ``ppcmi.cli.events``; the table is hidden while there is nothing in it.

    :param legend: says what the columns mean.
    """

    def __init__(self, table: qt.QTableWidget, legend: qt.QLabel) -> None:
        self._table, self._legend = table, legend
        table.verticalHeader().setVisible(False)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._sentences: list[str] = []
        self._quality: Mapping[str, Any] = {}
        self._table.visible = False
        self._legend.visible = False

    def add(self, event: Mapping[str, Any]) -> None:
        """Take up an event; those that are no result are ignored."""
        kind = event["event"]
        if kind in ("result", "remark") and not str(event["text"]).startswith(NEXT):
            self._sentences.append(str(event["text"]))
        elif kind == "quality":
            self._quality = event
        elif kind == "table":
            self._show(event["header"], event["rows"])

    def sentences(self) -> str:
        """What the command said, those that lead to the table left out."""
        return " ".join(sentence for sentence in self._sentences if not sentence.endswith(":"))

    def worstStructure(self) -> tuple[str, float] | None:
        """The structure that the codec keeps worst in the usual profile and its Dice, or None if none was judged."""
        judged = self._quality.get("mask_dice") or {}
        dice = judged.get("coarse") or next(iter(judged.values()), {})
        values = [(value, name) for name, value in dice.items() if value is not None]
        return (min(values)[1], min(values)[0]) if values else None

    def unjudgedStructure(self) -> str | None:
        """A structure that no case that was set apart has, or None if all were judged."""
        dice = next(iter((self._quality.get("mask_dice") or {}).values()), {})
        return next((name for name, value in dice.items() if value is None), None)

    def _show(self, header: list[str], rows: list[list[str]]) -> None:
        table = self._table
        table.setColumnCount(len(header))
        table.setRowCount(len(rows))
        table.setHorizontalHeaderLabels(header)
        for row, cells in enumerate(rows):
            for column, text in enumerate(cells):
                table.setItem(row, column, qt.QTableWidgetItem(text))
        table.resizeColumnsToContents()
        table.setFixedHeight(table.horizontalHeader().height + sum(map(table.rowHeight, range(len(rows)))) + 20)
        table.visible = True
        self._legend.text = (
            _(
                "By privacy profile, on cases that the codec was not trained on: how well the masks of each structure "
                "come back from it (Dice, 1 is perfect), and how much of the images whoever has all keys could redraw "
                "(PSNR, SSIM): it is made to keep little of them."
            )
            if self._quality
            else _('Mean scores with the server; "alone" is this site\'s own network without it. Dice: 1 is perfect.')
        )
        self._legend.visible = True


def stageName(fit: Mapping[str, Any]) -> str:
    """A stage of training as people read it."""
    names = {
        "image autoencoder": _("Image part"),
        "mask autoencoder": _("Mask part"),
        "local network": _("This site's own network"),
        "minimizer": _("What leaves"),
        "image decoders": _("What is left of images"),
    }
    return names.get(str(fit["stage"]), str(fit["stage"]))


def progressText(fit: Mapping[str, Any]) -> str:
    """How far a stage is, and how long it will take still."""
    done = fit["epoch"] - 1 + fit["share"]
    text = _("{stage}: epoch {epoch} of {epochs}").format(
        stage=stageName(fit), epoch=fit["epoch"], epochs=fit["epochs"]
    )
    if fit.get("rounds", 1) > 1:
        text += _(", round {number} of {rounds}").format(number=fit["round_number"], rounds=fit["rounds"])
    if not fit["seconds"] or not fit["share"]:
        return text
    left = fit["seconds"] / fit["share"] * (fit["epochs"] - done)
    unit = _(", about {time:.0f} s left") if left < 90 else _(", about {time:.0f} min left")
    return text + unit.format(time=left + 1 if left < 90 else left / 60) + " " + _("in this part")
