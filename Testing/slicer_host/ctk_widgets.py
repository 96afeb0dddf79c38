"""Stand-ins for the CTK widgets that our panels use: their properties, signals and what a user sees of them."""

from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Signal, Slot

from .dialogs import CtkMessageBox, ShownDialog, dialogs


def plain_property(kind: type | str, initial: Any) -> Property:
    """A Qt property that is kept and has no other effect here."""
    box: dict[str, str] = {}

    def key(self: Any) -> str:
        if "name" not in box:
            box["name"] = next(n for c in type(self).__mro__ for n, v in vars(c).items() if v is made)
        return f"_property_{box['name']}"

    made = Property(
        kind,
        lambda self: self.__dict__.get(key(self), initial),
        lambda self, value: self.__dict__.__setitem__(key(self), value),
    )
    return made


class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A titled frame; a click on its title hides or shows what is in it."""

    contentsCollapsed = Signal(bool)
    contentsFrameShape = plain_property(int, 0)
    collapsedHeight = plain_property(int, 10)
    buttonTextAlignment = plain_property(int, 0)

    def __init__(self, parent: QtWidgets.QWidget | str | None = None, *_: Any) -> None:
        super().__init__(parent if isinstance(parent, QtWidgets.QWidget) else None)
        self._collapsed = False
        self._hidden_children: list[QtWidgets.QWidget] = []
        if isinstance(parent, str):
            self.setText(parent)
        self.setCheckable(True)
        self.setChecked(True)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Preferred, QtWidgets.QSizePolicy.Policy.Preferred)
        self.setContentsMargins(0, self._title_height(), 0, 0)
        self.toggled.connect(lambda on: self.setCollapsed(not on))

    def _title_height(self) -> int:
        return self.fontMetrics().height() + 10

    def _is_collapsed(self) -> bool:
        return self._collapsed

    @Slot(bool)
    def setCollapsed(self, collapsed: bool) -> None:
        """Hide or show the children."""
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        self.setChecked(not collapsed)
        if collapsed:
            self._hide_children()
        else:
            self._show_children()
        self.setMaximumHeight(self._title_height() if collapsed else 16777215)
        self.updateGeometry()
        self.contentsCollapsed.emit(collapsed)

    collapsed = Property(bool, _is_collapsed, setCollapsed)

    def _hide_children(self) -> None:
        for child in self.findChildren(QtWidgets.QWidget, options=QtCore.Qt.FindChildOption.FindDirectChildrenOnly):
            if not child.isHidden():
                child.hide()
                self._hidden_children.append(child)

    def _show_children(self) -> None:
        for child in self._hidden_children:
            child.show()
        self._hidden_children.clear()

    def showEvent(self, event: QtGui.QShowEvent) -> None:
        """Hide children that came while the button was collapsed."""
        if self._collapsed:
            self._hide_children()
        super().showEvent(event)

    def sizeHint(self) -> QtCore.QSize:
        """The layout's size, or the title's alone."""
        width = self.fontMetrics().horizontalAdvance(self.text()) + 40
        title = QtCore.QSize(width, self._title_height())
        layout = self.layout()
        return title if self._collapsed or layout is None else layout.sizeHint().expandedTo(title)

    minimumSizeHint = sizeHint

    def hitButton(self, position: QtCore.QPoint) -> bool:
        """Only the title takes clicks."""
        return position.y() <= self._title_height()

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        """Draw the title with its arrow, and a line round the contents."""
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.width(), self._title_height())
        painter.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option)
        style = QtWidgets.QStyle.PrimitiveElement
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(6, self._title_height() // 2 - 5, 10, 10)
        painter.drawPrimitive(style.PE_IndicatorArrowRight if self._collapsed else style.PE_IndicatorArrowDown, arrow)
        painter.drawText(option.rect.adjusted(22, 0, 0, 0), QtCore.Qt.AlignmentFlag.AlignVCenter, self.text())


class ctkPathLineEdit(QtWidgets.QWidget):
    """A line for a path, with a history and a button to browse."""

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    label = plain_property(str, "")
    settingKey = plain_property(str, "")
    nameFilters = plain_property("QStringList", [])
    showBrowseButton = plain_property(bool, True)
    showHistoryButton = plain_property(bool, True)
    Files, Dirs, Drives, NoSymLinks = 0x2, 0x1, 0x4, 0x8
    Readable, Writable, Executable, Hidden = 0x10, 0x20, 0x40, 0x100

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._filters = self.Files
        self._line = QtWidgets.QComboBox(self)
        self._line.setEditable(True)
        self._line.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self._button = QtWidgets.QToolButton(self)
        self._button.setText("...")
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._line)
        layout.addWidget(self._button)
        self._line.editTextChanged.connect(self.currentPathChanged)
        self._button.clicked.connect(self.browse)

    @Slot()
    def browse(self) -> None:
        """Ask for a path, as the button does; "" leaves the line as it is."""
        kind = "directory" if self._filters & self.Dirs else "file"
        answer = dialogs.next_answer(ShownDialog("ctkPathLineEdit", f"Select a {kind}", self._current_path()))
        if answer:
            self._set_current_path(str(answer))

    def _current_path(self) -> str:
        return self._line.currentText()

    def _set_current_path(self, path: str) -> None:
        self._line.setEditText(path)

    @Slot(str)
    def setCurrentPath(self, path: str) -> None:
        """Put a path into the line."""
        self._set_current_path(path)

    currentPath = Property(str, _current_path, _set_current_path)
    filters = Property(int, lambda self: self._filters, lambda self, value: setattr(self, "_filters", value))

    @Slot()
    def addCurrentPathToHistory(self) -> None:
        """Keep the path among those offered, and in the settings where the widget has a key."""
        path = self._current_path()
        if path and self._line.findText(path) < 0:
            self._line.addItem(path)
        if self.settingKey:
            paths = [self._line.itemText(i) for i in range(self._line.count())]
            QtCore.QSettings().setValue(self.settingKey, paths)


class ctkComboBox(QtWidgets.QComboBox):
    """A combo box that shows a default text where nothing is chosen."""

    forceDefault = plain_property(bool, False)
    defaultText = Property(str, QtWidgets.QComboBox.placeholderText, QtWidgets.QComboBox.setPlaceholderText)


class ctkDoubleSpinBox(QtWidgets.QDoubleSpinBox):
    """A spin box; CTK's own additions are not used here."""


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider beside a spin box, one value."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    tracking = plain_property(bool, True)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal, self)
        self._slider.setRange(0, 1000)
        self._spin = QtWidgets.QDoubleSpinBox(self)
        self._spin.setRange(0.0, 99.0)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._spin)
        self._spin.valueChanged.connect(self._spin_changed)
        self._slider.sliderMoved.connect(self._slider_moved)

    def _spin_changed(self, value: float) -> None:
        span = self._spin.maximum() - self._spin.minimum()
        self._slider.setValue(round(1000 * (value - self._spin.minimum()) / span) if span else 0)
        self.valueChanged.emit(value)

    def _slider_moved(self, position: int) -> None:
        span = self._spin.maximum() - self._spin.minimum()
        self._spin.setValue(self._spin.minimum() + span * position / 1000)

    @Slot(float)
    def setValue(self, value: float) -> None:
        """Set the value."""
        self._spin.setValue(value)

    def _spin_property(kind: type, getter: str, setter: str) -> Property:  # type: ignore[misc]
        return Property(
            kind,
            lambda self: getattr(self._spin, getter)(),
            lambda self, value: getattr(self._spin, setter)(value),
        )

    value = _spin_property(float, "value", "setValue")
    minimum = _spin_property(float, "minimum", "setMinimum")
    maximum = _spin_property(float, "maximum", "setMaximum")
    singleStep = _spin_property(float, "singleStep", "setSingleStep")
    decimals = _spin_property(int, "decimals", "setDecimals")
    prefix = _spin_property(str, "prefix", "setPrefix")
    suffix = _spin_property(str, "suffix", "setSuffix")


STAND_INS: dict[str, type[QtWidgets.QWidget]] = {
    cls.__name__: cls for cls in (ctkCollapsibleButton, ctkPathLineEdit, ctkComboBox, ctkDoubleSpinBox, ctkSliderWidget)
}
STAND_INS["ctkMessageBox"] = CtkMessageBox


def named_only(name: str) -> type[QtWidgets.QWidget]:
    """A class that code may name (in a type hint, or in `type(widget) == ...`) and that the host cannot make."""

    def refuse(self: Any, *_: Any) -> None:
        raise NotImplementedError(f"The test host has no stand-in for {name}.")

    return type(name, (QtWidgets.QWidget,), {"__init__": refuse})


# Named by Slicer's own parameterNodeWrapper.
NAMED_ONLY = {
    name: named_only(name)
    for name in (
        "ctkCheckBox",
        "ctkCheckablePushButton",
        "ctkColorPickerButton",
        "ctkDirectoryButton",
        "ctkDoubleRangeSlider",
        "ctkDoubleSlider",
        "ctkRangeWidget",
    )
}
