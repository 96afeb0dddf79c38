"""The host's `slicer.ScriptedLoadableModule`: the four base classes with the behavior that Slicer documents.

Written for the host; with SLICER_BASE_PYTHON the host takes Slicer's own file instead.
"""

import importlib
import logging
import unittest
from pathlib import Path
from typing import Any

import slicer

__all__ = [
    "ScriptedLoadableModule",
    "ScriptedLoadableModuleLogic",
    "ScriptedLoadableModuleTest",
    "ScriptedLoadableModuleWidget",
]


def _resource_path(module_path: str, file_name: str) -> str:
    return str(Path(module_path).parent / "Resources" / file_name)


class ScriptedLoadableModule:
    """Describes a module: the subclass fills in `parent` (a qSlicerScriptedLoadableModule)."""

    def __init__(self, parent: Any) -> None:
        import qt

        self.parent = parent
        self.moduleName = type(self).__name__
        for extension in (".svg", ".png"):
            icon = Path(_resource_path(parent.path, f"Icons/{self.moduleName}{extension}"))
            if icon.is_file():
                parent.icon = qt.QIcon(str(icon))
                break
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, file_name: str) -> str:
        """Give the path of a file in the module's Resources folder."""
        return _resource_path(self.parent.path, file_name)

    def getDefaultModuleDocumentationLink(self, page: str | None = None) -> str:
        """Give a line of HTML with a link to the module's page in the documentation."""
        url = slicer.app.documentationBaseUrl + page if page else slicer.app.moduleDocumentationUrl(self.moduleName)
        return f'<p>For more information, see the <a href="{url}">online documentation</a>.</p>'

    def runTest(self, msec: int = 100, **options: Any) -> None:
        """Run the class `<Module>Test` of the module's file."""
        test_class = getattr(importlib.import_module(type(self).__module__), f"{self.moduleName}Test")
        test = test_class()
        test.messageDelay = msec
        test.runTest(**options)


class ScriptedLoadableModuleWidget:
    """The module's panel: the subclass builds it in `setup` into `self.layout`."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = slicer.util.settingsValue("Developer/DeveloperMode", False, converter=slicer.util.toBool)
        self.parent = parent if parent else self._own_parent()
        self.layout = self.parent.layout()
        if not parent:
            self.setup()
            self.parent.show()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    @staticmethod
    def _own_parent() -> Any:
        import qt

        widget = slicer.qMRMLWidget()
        widget.setLayout(qt.QVBoxLayout())
        widget.setMRMLScene(slicer.mrmlScene)
        return widget

    def resourcePath(self, file_name: str) -> str:
        """Give the path of a file in the module's Resources folder."""
        return _resource_path(slicer.util.modulePath(self.moduleName), file_name)

    def setup(self) -> None:
        """Build the panel; in developer mode with the button that reloads the module."""
        if self.developerMode:
            import ctk
            import qt

            section = ctk.ctkCollapsibleButton()
            section.text = "Reload && Test"
            self.layout.addWidget(section)
            self.reloadButton = qt.QPushButton("Reload")
            self.reloadButton.connect("clicked()", self.onReload)
            qt.QFormLayout(section).addRow(self.reloadButton)

    def cleanup(self) -> None:
        """Let go of what must not outlive the module; for subclasses."""

    def _onModuleAboutToBeUnloaded(self, module_name: str) -> None:
        if module_name == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def onReload(self) -> None:
        """Load the module's file again and build the panel anew."""
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    """What the module does, without its panel; keeps the parameter node of the scene."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        """Give the module's first parameter node of the scene, a new one where there is none."""
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node is not None:
                node.SetAttribute("ModuleName", self.moduleName)
                return node
        else:
            nodes = self.getAllParameterNodes()
            if nodes:
                return nodes[0]
        return slicer.mrmlScene.AddNode(self.createParameterNode())

    def getAllParameterNodes(self) -> list[Any]:
        """Give all of the module's parameter nodes in the scene."""
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self) -> Any:
        """Make a parameter node that is not in the scene yet."""
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """The module's self-test; `runTest` runs every method whose name has "test" in it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.moduleTestNames: list[str] = []
        super().__init__(*arguments, **options)
        self.messageDelay = 50
        if not self.moduleTestNames:
            self.moduleTestNames = [n for n in dir(self) if "test" in n and callable(getattr(self, n))]

    def delayDisplay(self, message: str, requested: int | None = None, msec: int | None = None) -> None:
        """Say what the test does, and let the application draw."""
        slicer.util.delayDisplay(message, self.messageDelay)

    def runTest(self) -> None:
        """Run all tests of the class."""
        self.setUpClass()
        for name in self.moduleTestNames:
            self.setUp()
            logging.info("Running %s", name)
            getattr(self, name)()
            self.tearDown()
        self.tearDownClass()
