"""Segment volumes with the help of a server that never receives an image; the panels are in PPCMISegmentLib."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

if TYPE_CHECKING:
    from ppcmi.pipeline import Progress

LIBRARY = "PPCMISegmentLib"


class PPCMISegment(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent: slicer.qSlicerScriptedLoadableModule) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("PPCMI Segment")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["Segmentations", "SubjectHierarchy", "Volumes"]
        parent.contributors = ["The PPCMI contributors"]
        parent.helpText = _(
            "Segment volumes with the help of a server that never receives an image, a mask or a plain latent: this "
            "workstation encodes the slices and transforms the latents by keys that stay here. For research use; not a "
            "medical device."
        )
        parent.acknowledgementText = _("The method is PPCMI-SF (arXiv 2603.05541).")
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData() -> None:
    """Offer phantoms in the module Sample Data; they are made on this workstation, nothing is downloaded."""
    import SampleData

    from PPCMISegmentLib.Phantoms import SAMPLES, addPhantom

    icons = Path(__file__).parent / "Resources" / "Icons"
    for sample in SAMPLES:
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category="PPCMI",
            sampleName=sample.name,
            thumbnailFileName=str(icons / "PPCMISegment.png"),
            uris=[],
            fileNames=[],
            nodeNames=[],
            customDownloader=lambda _source, sample=sample: addPhantom(sample),
        )


class PPCMISegmentWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """A tab a panel; the panels do the work."""

    def __init__(self, parent: object = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)

    def setup(self) -> None:
        """Build the panels; neither PyTorch nor the network is touched."""
        from PPCMISegmentLib.Dependencies import Dependencies
        from PPCMISegmentLib.ExportPanel import ExportPanel
        from PPCMISegmentLib.PreviewPanel import PreviewPanel
        from PPCMISegmentLib.SegmentPanel import SegmentPanel
        from PPCMISegmentLib.SiteAccess import SiteAccess
        from PPCMISegmentLib.SitePanel import SitePanel

        ScriptedLoadableModuleWidget.setup(self)
        self.logic = PPCMISegmentLogic()
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/PPCMISegment.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        site, dependencies = SiteAccess(self.logic.siteFolder), Dependencies(self.resourcePath)
        self.segmentPanel = SegmentPanel(self.resourcePath, site, self.logic.work, dependencies)
        self.previewPanel = PreviewPanel(self.resourcePath, site, self.logic.work, dependencies)
        self.exportPanel = ExportPanel(self.resourcePath, site, self.logic.work, dependencies)
        self.sitePanel = SitePanel(self.resourcePath, site, self.logic.work, dependencies)
        self.panels = {
            _("Segment"): self.segmentPanel,
            _("What leaves"): self.previewPanel,
            _("Export"): self.exportPanel,
            _("Site"): self.sitePanel,
        }
        for title, panel in self.panels.items():
            self.ui.panelsTabWidget.addTab(panel.widget, title)
        self.ui.panelsTabWidget.connect("currentChanged(int)", self.onTabChanged)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.segmentPanel.setParameterNode(self.logic.getParameterNode())

    def enter(self) -> None:
        """Show what the scene and the server have now."""
        self.segmentPanel.setParameterNode(self.logic.getParameterNode())
        self.onTabChanged(self.ui.panelsTabWidget.currentIndex)

    def onTabChanged(self, index: int) -> None:
        """What one panel did may concern the one that is opened."""
        list(self.panels.values())[index].refresh()

    def cleanup(self) -> None:
        """End what is under way."""
        self.removeObservers()
        for panel in self.panels.values():
            panel.close()
        self.logic.close()

    def onSceneStartClose(self, _caller: object, _event: str) -> None:
        """Jobs on nodes that are about to go are ended."""
        self.segmentPanel.setParameterNode(None)

    def onSceneEndClose(self, _caller: object, _event: str) -> None:
        """A closed scene has a parameter node of its own."""
        if self.parent.isEntered:
            self.segmentPanel.setParameterNode(self.logic.getParameterNode())

    def onReload(self) -> None:
        """Developer mode: reload the panels' files as well, so that a change in them shows."""
        for name in [name for name in sys.modules if name.partition(".")[0] == LIBRARY]:
            del sys.modules[name]  # reloading would give one file the old classes of another
        ScriptedLoadableModuleWidget.onReload(self)


class PPCMISegmentLogic(ScriptedLoadableModuleLogic):
    """For scripts.

    Example::

        logic = PPCMISegmentLogic()
        segmentationNode = logic.segment(slicer.util.getNode("MRHead"), "hippocampus-mr")
    """

    def __init__(self, parent: object = None) -> None:
        ScriptedLoadableModuleLogic.__init__(self, parent)
        from ppcmi.site_folder import usual_site_folder
        from PPCMISegmentLib.SegmentLogic import SegmentLogic

        self.siteFolder = usual_site_folder(os.environ)
        self.work = SegmentLogic(self.siteFolder)

    def close(self) -> None:
        """Let go of the computing thread."""
        self.work.close()

    def getParameterNode(self) -> object:
        """The scene's choices; see PPCMISegmentLib/ParameterNode.py."""
        from PPCMISegmentLib.ParameterNode import PPCMISegmentParameterNode

        return PPCMISegmentParameterNode(super().getParameterNode())

    def segment(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        taskName: str,
        onProgress: Callable[[Progress], None] = lambda progress: None,
        **choices: object,
    ) -> slicer.vtkMRMLSegmentationNode:
        """Segment a volume with the task's active model, and wait for it.

        :param onProgress: called with :class:`ppcmi.pipeline.Progress` again and again.
        :param choices: further fields of ``PPCMISegmentLib.SegmentLogic.Choices``, such as ``device="cpu"``.
        :raises PpcmiError: one sentence that says what is wrong and what to do.
        """
        from PPCMISegmentLib.SegmentLogic import Choices

        return self.work.segment(volumeNode, Choices(taskName, **choices), onProgress).segmentationNode


class PPCMISegmentTest(ScriptedLoadableModuleTest):
    """Runs inside Slicer; see PPCMISegmentLib/SelfTest.py."""

    def setUp(self) -> None:
        """An empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Every test of the module."""
        from PPCMISegmentLib.SelfTest import runSelfTest

        self.setUp()
        runSelfTest(self.delayDisplay)
