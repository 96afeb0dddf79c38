"""`.ui` files, loaded as `qt.QUiLoader` does in Slicer: Slicer's and CTK's widgets by name, slots by signature."""

from typing import Any, ClassVar
from xml.etree import ElementTree as ET

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import pythonqt
from .qt_signals import class_name


class UiLoader(QtCore.QObject):
    """QUiLoader with stand-ins for custom widgets.

    PySide's own loader makes the widgets. The connections of the file are made here, because a signature that carries a
    MRML class has no C++ type in this process; and so are property values that PySide cannot read for a stand-in.
    """

    cpp_class_name: ClassVar[str] = "QUiLoader"
    stand_ins: ClassVar[dict[str, type[QtWidgets.QWidget]]] = {}

    def load(self, device: QtCore.QIODevice, parent: QtWidgets.QWidget | None = None) -> QtWidgets.QWidget | None:
        """Load a form and give its top widget.

        Raises:
            ValueError: the form names a class that neither Qt nor the host has, or a connection whose signal, slot,
                sender or receiver does not exist. Slicer only prints a warning then, and the widget stays dead.
        """
        form = ET.fromstring(bytes(device.readAll().data()))
        connections = form.find("connections")
        wanted = list(connections) if connections is not None else []
        if connections is not None:
            form.remove(connections)
        late = _take_sets_of_stand_ins(form, self.stand_ins)
        buffer = QtCore.QBuffer()
        buffer.setData(ET.tostring(form))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        loader = _NativeLoader(self.stand_ins)
        top = loader.load(buffer, parent)
        if top is None:
            raise ValueError(f"The form cannot be loaded: {loader.errorString()}")
        for name, attribute, value in late:
            _named(top, name).setProperty(attribute, value)
        for connection in wanted:
            _connect(top, connection)
        return top


class _NativeLoader(QtUiTools.QUiLoader):
    def __init__(self, stand_ins: dict[str, type[QtWidgets.QWidget]]) -> None:
        super().__init__()
        self._stand_ins = stand_ins

    def createWidget(
        self, class_name: str, parent: QtWidgets.QWidget | None = None, name: str = ""
    ) -> QtWidgets.QWidget:
        """Make the widget in Python, so that the Python side of a stand-in lives as long as its parent."""
        native_class = self._stand_ins.get(class_name) or getattr(QtWidgets, class_name, None)
        if native_class is None:
            raise ValueError(f"The host has no stand-in for the widget class {class_name}.")
        if class_name == "Line":
            return super().createWidget(class_name, parent, name)
        widget = native_class(parent)
        widget.setObjectName(name)
        return widget


def _take_sets_of_stand_ins(
    form: ET.Element, stand_ins: dict[str, type[QtWidgets.QWidget]]
) -> list[tuple[str, str, int]]:
    """Take enumerators and flags of stand-ins out of the form; give widget name, property and value of each."""
    taken = []
    for widget in form.iter("widget"):
        native_class = stand_ins.get(widget.get("class", ""))
        if native_class is None:
            continue
        for prop in widget.findall("property"):
            value = prop.find("set") if prop.find("set") is not None else prop.find("enum")
            names = (value.text or "").split("|") if value is not None else []
            if names and all(not name.startswith("Q") for name in names):
                widget.remove(prop)
                number = sum(int(getattr(native_class, name.rpartition("::")[2], 0)) for name in names)
                taken.append((widget.get("name", ""), prop.get("name", ""), number))
    return taken


def _named(top: QtWidgets.QWidget, name: str) -> QtCore.QObject:
    found = top if top.objectName() == name else top.findChild(QtCore.QObject, name)
    if found is None:
        raise ValueError(f"The form connects {name}, which is not in it.")
    return found


def _connect(top: QtWidgets.QWidget, connection: ET.Element) -> None:
    sender, signal, receiver, slot = (connection.findtext(tag, "") for tag in ("sender", "signal", "receiver", "slot"))
    native = _named(top, receiver)
    member: Any = getattr(native, slot.partition("(")[0], None)
    if not callable(member) and not hasattr(member, "emit"):
        raise ValueError(f"{receiver} ({class_name(native)}) has no slot {slot}.")
    takes_nothing = slot.endswith("()")
    call = member.emit if hasattr(member, "emit") else member

    def receive(*arguments: Any) -> None:
        call(*([] if takes_nothing else pythonqt.unwrap(arguments)))

    pythonqt.signals.connect(_named(top, sender), signal, receive)
