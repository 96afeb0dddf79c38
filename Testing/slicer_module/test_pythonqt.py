"""Qt seen through the host behaves as PythonQt does: what fails in Slicer fails here, PySide's manners above all."""

import gc
import sys
import threading

import pytest

from slicer_host.dialogs import UnansweredError

pytestmark = pytest.mark.usefixtures("slicer_host")


def test_properties_are_attributes_and_not_methods():
    import qt

    button = qt.QPushButton("Send")
    button.checkable = True
    button.setChecked(True)
    assert (button.text, button.checked, button.enabled) == ("Send", True, True)
    button.text = "Cancel"
    button.enabled = False
    assert (button.text, button.enabled) == ("Cancel", False)
    with pytest.raises(TypeError):
        button.text()
    assert button.isChecked()


@pytest.mark.parametrize("name", ["caption", "set_text", "_hidden"])
def test_an_unknown_attribute_can_be_neither_read_nor_written(name):
    import qt

    label = qt.QLabel("a")
    with pytest.raises(AttributeError):
        getattr(label, name)
    with pytest.raises(AttributeError):
        setattr(label, name, "b")


def test_a_method_or_signal_cannot_be_overwritten():
    import qt

    button = qt.QPushButton("a")
    for name in ("click", "clicked"):
        with pytest.raises(AttributeError, match="overwritten"):
            setattr(button, name, lambda: None)


def test_a_property_refuses_what_it_cannot_hold():
    import qt

    with pytest.raises(AttributeError, match="does not accept"):
        qt.QPushButton().text = None
    with pytest.raises(AttributeError, match="does not accept"):
        qt.QProgressBar().value = "many"
    with pytest.raises(AttributeError, match="not writable"):
        qt.QWidget().x = 3


def test_name_is_another_word_for_object_name():
    import qt

    widget = qt.QWidget()
    widget.name = "here"
    assert widget.objectName == "here"


def test_a_child_is_found_by_its_name_as_an_attribute():
    import qt

    parent = qt.QWidget()
    child = qt.QLabel("inside", parent)
    child.objectName = "inner"
    assert parent.inner == child
    assert parent.findChild(qt.QLabel, "inner") == child
    assert parent.findChildren("QLabel") == (child,)


def test_a_dynamic_property_is_an_attribute_once_it_is_set():
    import qt

    widget = qt.QWidget()
    widget.setProperty("SlicerParameterName", "threshold")
    assert widget.property("SlicerParameterName") == widget.SlicerParameterName == "threshold"


def test_signals_are_connected_by_signature_and_the_slot_gets_what_it_takes():
    import qt

    box, seen = qt.QCheckBox(), []
    box.connect("toggled(bool)", seen.append)
    box.connect("toggled(bool)", lambda: seen.append("no argument"))
    box.checked = True
    assert seen == [True, "no argument"]


def test_a_connection_is_taken_away_by_signature_and_callable():
    import qt

    class Panel:
        def __init__(self) -> None:
            self.clicks = 0

        def onClick(self) -> None:
            self.clicks += 1

    button, panel = qt.QPushButton(), Panel()
    button.connect("clicked()", panel.onClick)
    button.click()
    assert button.disconnect("clicked()", panel.onClick)
    assert not button.disconnect("clicked()", panel.onClick)
    button.click()
    assert panel.clicks == 1


def test_signals_are_attributes_too():
    import qt

    edit, seen = qt.QLineEdit(), []
    edit.textChanged.connect(seen.append)
    edit.text = "a"
    edit.textChanged.disconnect(seen.append)
    edit.text = "b"
    assert seen == ["a"]


def test_a_signal_can_be_emitted():
    import qt

    box, seen = qt.QCheckBox(), []
    box.connect("clicked(bool)", seen.append)
    box.clicked(True)
    box.clicked.emit(False)
    assert seen == [True, False]


def test_calls_lose_no_reference():
    """PySide6 6.12.0 did, for None, which ended a Python before 3.12 after some thousand calls."""
    import qt

    button = qt.QPushButton()
    before = sys.getrefcount(None)
    for _ in range(500):
        button.setText("a")
        button.click()
    assert abs(sys.getrefcount(None) - before) < 100


@pytest.mark.parametrize("signature", ["clicked", "pressed(int)", "currentNodeChanged(vtkMRMLNode*)"])
def test_connecting_a_signal_that_does_not_exist_raises(signature):
    import qt

    with pytest.raises(ValueError, match="has no signal"):
        qt.QPushButton().connect(signature, print)


def test_enumerators_are_integers_of_the_class_around_them():
    import qt

    item = qt.QTableWidgetItem("a")
    item.setCheckState(qt.Qt.Checked)
    assert item.checkState() == qt.Qt.Checked == 2
    item.setFlags(item.flags() & ~qt.Qt.ItemIsEditable)
    assert not item.flags() & qt.Qt.ItemIsEditable
    assert item.flags() & qt.Qt.ItemIsEnabled
    with pytest.raises(AttributeError):
        qt.Qt.CheckState.Checked  # noqa: B018


def test_tables_trees_texts_and_progress_bars_work():
    import qt

    table = qt.QTableWidget(0, 2)
    table.setHorizontalHeaderLabels(["Volume", "State"])
    table.insertRow(0)
    table.setItem(0, 0, qt.QTableWidgetItem("Chest"))
    assert (table.rowCount, table.columnCount, table.item(0, 0).text()) == (1, 2, "Chest")
    table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
    tree = qt.QTreeWidget()
    tree.addTopLevelItem(qt.QTreeWidgetItem(["a"]))
    assert tree.topLevelItemCount == 1
    text = qt.QPlainTextEdit()
    text.appendPlainText("line")
    assert text.plainText == "line"
    bar = qt.QProgressBar()
    bar.maximum, bar.value = 10, 3
    assert bar.value == 3


def test_a_widget_can_be_a_key_and_is_the_same_object_each_time():
    import qt

    parent = qt.QWidget()
    layout = qt.QVBoxLayout(parent)
    button = qt.QPushButton("a")
    layout.addWidget(button)
    assert parent.layout() is layout
    assert {button: 1}[parent.children()[1]] == 1


def test_a_python_class_derived_from_a_qt_class_overrides_its_virtual_methods(slicer_host):
    import qt

    class Closing(qt.QDialog):
        def __init__(self) -> None:
            qt.QDialog.__init__(self)
            self.closed = 0

        def closeEvent(self, event) -> None:
            self.closed += 1
            event.accept()

    dialog = Closing()
    dialog.show()
    dialog.close()
    assert dialog.closed == 1


def test_a_timer_without_a_reference_is_gone_as_in_slicer(slicer_host):
    import qt

    ticks = []

    def forget_a_timer() -> None:
        timer = qt.QTimer()
        timer.setInterval(0)
        timer.connect("timeout()", lambda: ticks.append(1))
        timer.start()

    forget_a_timer()
    gc.collect()
    slicer_host.process_events(0.02)
    assert not ticks


def test_a_timer_calls_and_single_shots_do(slicer_host):
    import qt

    seen = []
    timer = qt.QTimer()
    timer.interval = 0
    timer.connect("timeout()", lambda: seen.append("tick"))
    timer.start()
    assert timer.active
    qt.QTimer.singleShot(0, lambda: seen.append("once"))
    slicer_host.wait_until(lambda: "once" in seen and "tick" in seen, timeout=5)
    timer.stop()


def test_a_destroyed_object_is_false_and_says_so():
    import qt

    widget = qt.QWidget()
    widget.delete()
    assert not widget
    with pytest.raises(ValueError, match="destroyed"):
        widget.enabled  # noqa: B018


def test_qt_outside_the_main_thread_raises():
    import qt

    label, errors = qt.QLabel("a"), []

    def touch() -> None:
        try:
            label.text = "b"
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=touch)
    thread.start()
    thread.join()
    assert errors
    assert label.text == "a"


def test_keyword_arguments_are_refused_as_in_pythonqt():
    import qt

    with pytest.raises(TypeError):
        qt.QPushButton("a").setText(text="b")


@pytest.mark.parametrize("name", ["Signal", "Slot", "QPushButtonn", "QtWidgets"])
def test_what_pythonqt_does_not_have_is_not_there(name):
    import qt

    with pytest.raises(AttributeError):
        getattr(qt, name)


def test_settings_are_kept_until_the_host_is_reset(slicer_host):
    import qt
    import slicer.util

    qt.QSettings().setValue("PPCMISegment/server", "https://example.org")
    assert slicer.util.settingsValue("PPCMISegment/server", "") == "https://example.org"
    assert slicer.app.userSettings().contains("PPCMISegment/server")
    slicer_host.reset()
    assert slicer.util.settingsValue("PPCMISegment/server", "none") == "none"


def test_what_a_slot_raises_is_kept_for_the_test(slicer_host):
    import qt

    button = qt.QPushButton()
    button.connect("clicked()", lambda: 1 / 0)
    button.click()
    assert isinstance(slicer_host.slot_errors.pop(), ZeroDivisionError)


def test_a_question_is_answered_by_the_test_and_one_without_answer_raises(slicer_host):
    import slicer.util

    slicer_host.dialogs.answer("no", "yes")
    assert not slicer.util.confirmYesNoDisplay("Send the slices?")
    assert slicer.util.confirmYesNoDisplay("Send the slices?")
    assert slicer_host.dialogs.texts == ["Send the slices?"] * 2
    with pytest.raises(UnansweredError):
        slicer.util.confirmOkCancelDisplay("Replace it?")
    slicer_host.dialogs.answer("maybe")
    with pytest.raises(UnansweredError, match="none of the buttons"):
        slicer.util.confirmOkCancelDisplay("Replace it?")


def test_an_error_box_is_recorded_with_its_details(slicer_host):
    import slicer.util

    with pytest.raises(ValueError, match="no volume"), slicer.util.tryWithErrorDisplay("It failed."):
        raise ValueError("There is no volume.")
    shown = slicer_host.dialogs.shown[0]
    assert shown.text == "It failed.\n\nThere is no volume."
    assert "Traceback" in shown.details
    assert shown.kind == "Critical"


def test_file_dialogs_give_the_path_alone(slicer_host):
    import qt

    slicer_host.dialogs.answer("/data/case.nii.gz", "")
    assert qt.QFileDialog.getOpenFileName(None, "Open", "", "*.nii.gz") == "/data/case.nii.gz"
    assert qt.QFileDialog.getSaveFileName(None, "Save") == ""


def test_a_dialog_of_our_own_is_filled_in_by_the_test(slicer_host):
    import qt

    dialog = qt.QDialog()
    dialog.windowTitle = "Passphrase"
    edit = qt.QLineEdit(dialog)
    edit.objectName = "edit"

    def fill_in(shown) -> None:
        shown.edit.text = "secret words"
        shown.accept()

    slicer_host.dialogs.answer(fill_in)
    assert dialog.exec_() == qt.QDialog.Accepted
    assert edit.text == "secret words"


def test_a_process_tells_of_its_output_and_its_end(slicer_host):
    import qt

    process, written, ended = qt.QProcess(), [], []
    process.connect("readyReadStandardOutput()", lambda: written.append(process.readAllStandardOutput().data()))
    process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: ended.append((code, status)))
    process.start(sys.executable, ["-c", "print('hello'); raise SystemExit(3)"])
    slicer_host.wait_until(lambda: ended)
    assert ended == [(3, qt.QProcess.NormalExit)]
    assert b"".join(bytes(part) for part in written).strip() == b"hello"
