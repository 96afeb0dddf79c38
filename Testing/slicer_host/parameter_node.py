"""The host's `slicer.parameterNodeWrapper`: typed attributes over a `vtkMRMLScriptedModuleNode`, bound to widgets.

Written for the host, for the types and widgets that our module uses; with SLICER_BASE_PYTHON the host takes Slicer's
own package instead. Values are kept as Slicer keeps them: nodes as node references, everything else as text.
"""

import enum
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .parameter_values import Choice, Default, Maximum, Minimum, Parameter, WithinRange

__all__ = ["Choice", "Default", "Maximum", "Minimum", "WithinRange", "isParameterNodeWrapper", "parameterNodeWrapper"]

_PROPERTY_NAME = "SlicerParameterName"


@dataclass(frozen=True)
class _Binding:
    """How one widget shows one kind of value."""

    signal: str
    read: Callable[[Any, Any], Any]
    write: Callable[[Any, Any], None]


def _attribute(name: str, signal: str, convert: Callable[[Any], Any] = lambda value: value) -> _Binding:
    return _Binding(signal, lambda w, kind: kind(getattr(w, name)), lambda w, value: setattr(w, name, convert(value)))


def _write_choice(widget: Any, value: Any) -> None:
    widget.currentText = value.value if isinstance(value, enum.Enum) else str(value)


def _read_choice(widget: Any, kind: Any) -> Any:
    return kind(widget.currentText)


_BINDINGS: dict[str, _Binding] = {
    "QCheckBox": _attribute("checked", "toggled(bool)"),
    "QPushButton": _attribute("checked", "toggled(bool)"),
    "QSpinBox": _attribute("value", "valueChanged(int)"),
    "QSlider": _attribute("value", "valueChanged(int)"),
    "QDoubleSpinBox": _attribute("value", "valueChanged(double)"),
    "ctkDoubleSpinBox": _attribute("value", "valueChanged(double)"),
    "ctkSliderWidget": _attribute("value", "valueChanged(double)"),
    "QLineEdit": _attribute("text", "textChanged(QString)"),
    "QTextEdit": _attribute("plainText", "textChanged()"),
    "ctkPathLineEdit": _attribute("currentPath", "currentPathChanged(QString)", str),
    "QComboBox": _Binding("currentIndexChanged(int)", _read_choice, _write_choice),
    "ctkComboBox": _Binding("currentIndexChanged(int)", _read_choice, _write_choice),
    "qMRMLNodeComboBox": _Binding(
        "currentNodeChanged(vtkMRMLNode*)", lambda w, _: w.currentNode(), lambda w, node: w.setCurrentNode(node)
    ),
}


class _Connector:
    def __init__(self, widget: Any, parameter: Parameter, wrapper: Any) -> None:
        binding = _BINDINGS.get(type(widget).__name__)
        if binding is None:
            raise TypeError(f"No connector binds {type(widget).__name__} to {parameter.name}.")
        self._widget, self._parameter, self._wrapper, self._binding = widget, parameter, wrapper, binding
        widget.connect(binding.signal, self._changed)

    def _changed(self) -> None:
        if not self._wrapper._updating:
            setattr(self._wrapper, self._parameter.name, self._binding.read(self._widget, self._parameter.kind))

    def show(self) -> None:
        self._binding.write(self._widget, getattr(self._wrapper, self._parameter.name))

    def close(self) -> None:
        self._widget.disconnect(self._binding.signal, self._changed)


class _Methods:
    """What every wrapper has besides its parameters."""

    allParameters: typing.ClassVar[dict[str, Parameter]]
    _is_parameter_node_wrapper = True

    def __init__(self, parameterNode: Any) -> None:
        self.parameterNode = parameterNode
        self._connected: dict[int, tuple[list[_Connector], int]] = {}
        self._updating = False
        for parameter in self.allParameters.values():
            if not parameter.is_in(parameterNode):
                parameter.write(parameterNode, parameter.default)

    def default(self, name: str) -> Default:
        return Default(self.allParameters[name].default)

    def dataType(self, name: str) -> Any:
        return self.allParameters[name].kind

    def getValue(self, name: str) -> Any:
        return self.allParameters[name].read(self.parameterNode)

    def setValue(self, name: str, value: Any) -> None:
        self.allParameters[name].write(self.parameterNode, value)

    def connectGui(self, gui: Any) -> int:
        """Bind the widgets whose dynamic property SlicerParameterName names a parameter; give a tag."""
        import qt

        widgets = gui.findChildren(qt.QWidget) if hasattr(gui, "isWidgetType") else vars(gui).values()
        named = {w.property(_PROPERTY_NAME): w for w in widgets if w.property(_PROPERTY_NAME)}
        return self.connectParametersToGui(named)

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        """Bind parameters to widgets; give a tag for `disconnectGui`."""
        unknown = set(mapping) - set(self.allParameters)
        if unknown:
            raise ValueError(f"There is no parameter {', '.join(sorted(unknown))}.")
        with self._quiet():
            connectors = [_Connector(widget, self.allParameters[name], self) for name, widget in mapping.items()]
            for connector in connectors:
                connector.show()
        tag = self.AddObserver("ModifiedEvent", lambda *_: self._show(connectors))
        self._connected[tag] = (connectors, tag)
        return tag

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        before, self._updating = self._updating, True
        try:
            yield
        finally:
            self._updating = before

    def _show(self, connectors: list[_Connector]) -> None:
        if not self._updating:
            with self._quiet():
                for connector in connectors:
                    connector.show()

    def disconnectGui(self, tag: int) -> None:
        """Undo `connectGui`."""
        connectors, observer = self._connected.pop(tag, ([], None))
        for connector in connectors:
            connector.close()
        if observer is not None:
            self.RemoveObserver(observer)

    def StartModify(self) -> Any:
        return self.parameterNode.StartModify()

    def EndModify(self, before: Any) -> Any:
        return self.parameterNode.EndModify(before)

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        self.parameterNode.Modified()


def isParameterNodeWrapper(thing: Any) -> bool:
    """Whether this is a wrapper or a wrapper class."""
    return bool(getattr(thing, "_is_parameter_node_wrapper", False))


def parameterNodeWrapper(described: type | None = None) -> Any:
    """Make the described class a wrapper of parameter nodes."""
    if described is None:
        return parameterNodeWrapper
    hints = typing.get_type_hints(described, include_extras=True)
    parameters = {name: Parameter.of(name, hint, getattr(described, name, None)) for name, hint in hints.items()}
    members: dict[str, Any] = {name: _property(parameter) for name, parameter in parameters.items()}
    for name in members:
        if hasattr(_Methods, name):
            raise ValueError(f"The name {name} belongs to the wrapper itself.")
    for name, method in vars(_Methods).items():
        if name in ("__init__",) or not name.startswith("__"):
            setattr(described, name, method)
    for name, member in members.items():
        setattr(described, name, member)
    described.allParameters = parameters  # type: ignore[attr-defined]
    return described


def _property(parameter: Parameter) -> property:
    return property(
        lambda self: parameter.read(self.parameterNode), lambda self, value: parameter.write(self.parameterNode, value)
    )
