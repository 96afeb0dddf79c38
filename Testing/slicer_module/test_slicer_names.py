"""Every name of Slicer that the module uses exists in Slicer, and the host offers nothing that Slicer does not."""

from pathlib import Path

import pytest

from slicer_host import application, ctk_widgets, dialogs, io_manager, layout, modules
from slicer_host.name_check import SlicerNames, names_used, unknown_names
from slicer_host.namespace import MRML_STAND_INS

EXTENSION = Path(__file__).parents[2] / "PPCMISegment"
NAMES = SlicerNames(own_modules=("ppcmisegment", "ppcmisegmentinstance"))
FILES = sorted(
    [EXTENSION / "PPCMISegment.py", *EXTENSION.glob("PPCMISegmentLib/*.py"), *EXTENSION.glob("Scripts/*.py")]
)
STAND_INS = [
    *MRML_STAND_INS.values(),
    *ctk_widgets.STAND_INS.values(),
    *(stand_in for name, stand_in in dialogs.STAND_INS.items() if name.startswith("ctk")),
    application.CommandOptions,
    application.ModuleFactoryManager,
    application.ModuleManager,
    application.ModuleSelector,
    application.qSlicerApplication,
    application.qSlicerMainWindow,
    application.qSlicerScriptedLoadableModuleWidget,
    io_manager.IOManager,
    layout.LayoutManager,
    layout.SliceWidget,
    modules.qSlicerScriptedLoadableModule,
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_name_the_module_uses_exists_in_slicer(file):
    assert unknown_names(file, NAMES) == []


def test_the_module_s_names_are_found_at_all():
    used = {name for file in FILES for _, name in names_used(file.read_text(encoding="utf-8"))}
    assert {"slicer.util.loadUI", "slicer.mrmlScene", "slicer.ScriptedLoadableModule.ScriptedLoadableModule"} <= used


@pytest.mark.parametrize(
    "name",
    [
        "slicer.app.layoutManager",
        "slicer.app.processEvents",
        "slicer.mrmlScene.GetNodeByID",
        "slicer.modules.segmentations.logic",
        "slicer.modules.ppcmisegment",
        "slicer.packaging.pip_ensure",
        "slicer.parameterNodeWrapper.WithinRange",
        "slicer.qMRMLNodeComboBox",
        "slicer.util.loadVolume",
        "slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode",
        "qt.QMessageBox.Yes",
        "qt.Qt.Checked",
        "qt.QTimer.singleShot",
        "ctk.ctkPathLineEdit.Dirs",
        "PyTorchUtils.PyTorchUtilsLogic.installTorch",
        "SampleData.SampleDataLogic.registerCustomSampleDataSource",
    ],
)
def test_names_of_slicer_are_known(name):
    assert NAMES.exists(name)


@pytest.mark.parametrize(
    "name",
    [
        "slicer.app.scene",
        "slicer.mrmlScene.getNodeByID",
        "slicer.modules.segmentation",
        "slicer.packaging.pip_insure",
        "slicer.parameterNodeWrapper.InRange",
        "slicer.qMRMLNodesComboBox",
        "slicer.util.loadVolumes",
        "slicer.vtkMRMLSubjectHierarchy",
        "slicer.host",
        "qt.QMessageBox.Maybe",
        "qt.Qt.CheckState.Checked",
        "qt.Signal",
        "ctk.ctkCollapsible",
        "PyTorchUtils.PyTorchUtilsLogic.install",
    ],
)
def test_names_that_slicer_does_not_have_are_found_out(name):
    assert not NAMES.exists(name)


@pytest.mark.parametrize("stand_in", STAND_INS, ids=lambda stand_in: stand_in.__name__)
def test_a_stand_in_has_no_member_that_slicer_s_class_lacks(stand_in):
    class_name = vars(stand_in).get("cpp_class_name", stand_in.__name__)
    prefix = "ctk" if class_name.startswith("ctk") else "slicer"
    ours = [base for base in stand_in.__mro__ if base.__module__.startswith("slicer_host")]
    members = {name for base in ours for name in vars(base) if not name.startswith("_")}
    members -= {"cpp_class_name", "cpp_signals", "staticMetaObject"}
    unknown = {m for m in members if not NAMES.exists(f"{prefix}.{class_name}.{m}")}
    assert unknown == set()
