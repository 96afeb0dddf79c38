"""Loss curves of a training as a plot of the scene: a table, a series for each stage, and a chart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

NAME = "PPCMI training"
CHART, SERIES, TABLE = "vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode", "vtkMRMLTableNode"
EPOCH = "epoch"
COLORS = ((0.12, 0.47, 0.71), (0.84, 0.37, 0.0), (0.17, 0.63, 0.17), (0.58, 0.4, 0.74))


class TrainingPlot:
    """Curves of one training; they stay in the scene until the next one begins."""

    def __init__(self) -> None:
        self._table: slicer.vtkMRMLTableNode | None = None
        self._chart: slicer.vtkMRMLPlotChartNode | None = None
        self._stages: list[str] = []

    def start(self, title: str) -> None:
        """Put an empty chart into the scene, in place of an earlier one, and show it."""
        for className in (CHART, SERIES, TABLE):
            for node in slicer.util.getNodesByClass(className):
                if node.GetAttribute(NAME) is not None:
                    slicer.mrmlScene.RemoveNode(node)
        self._stages = []
        self._table = _added(TABLE, NAME)
        self._table.AddColumn(_column(EPOCH, 0))
        self._chart = _added(CHART, NAME)
        self._chart.SetTitle(title)
        self._chart.SetXAxisTitle(_("epoch"))
        self._chart.SetYAxisTitle(_("loss"))
        plots = getattr(slicer.modules, "plots", None)
        if plots is not None and slicer.app.layoutManager() is not None:
            plots.logic().ShowChartInLayout(self._chart)

    def add(self, fit: Mapping[str, Any], stageName: str) -> None:
        """A point of the curve of ``stageName``.

        :param fit: an event ``fit`` of ``ppcmi.cli.events``; one without a loss adds nothing.
        """
        if self._chart is None or not slicer.mrmlScene.IsNodePresent(self._table) or fit["loss"] is None:
            return  # the scene was closed meanwhile; the training goes on
        if stageName not in self._stages:
            self._addStage(stageName)
        table = self._table.GetTable()
        row = table.InsertNextBlankRow(math.nan)
        table.GetColumnByName(EPOCH).SetValue(row, fit["epoch"] - 1 + fit["share"])
        table.GetColumnByName(stageName).SetValue(row, fit["loss"])
        table.Modified()
        self._table.Modified()
        self._chart.Modified()

    def _addStage(self, stageName: str) -> None:
        self._table.AddColumn(_column(stageName, self._table.GetTable().GetNumberOfRows()))
        series = _added(SERIES, stageName)  # the legend shows the name
        series.SetAndObserveTableNodeID(self._table.GetID())
        series.SetPlotType(series.PlotTypeScatter)
        series.SetXColumnName(EPOCH)
        series.SetYColumnName(stageName)
        series.SetMarkerStyle(series.MarkerStyleNone)
        series.SetColor(*COLORS[len(self._stages) % len(COLORS)])
        self._chart.AddAndObservePlotSeriesNodeID(series.GetID())
        self._stages.append(stageName)


def _added(className: str, name: str) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass(className, name)
    node.SetAttribute(NAME, "yes")
    return node


def _column(name: str, rows: int) -> vtk.vtkDoubleArray:
    """A column of ``rows`` rows without a value."""
    column = vtk.vtkDoubleArray()
    column.SetName(name)
    column.SetNumberOfTuples(rows)
    column.Fill(math.nan)
    return column
