"""The host's `slicer.parameterNodeWrapper`: typed attributes over a `vtkMRMLScriptedModuleNode`, bound to widgets.

Written for the host, for the types and widgets that our module uses; with SLICER_BASE_PYTHON the host takes Slicer's
own package instead. Values are kept as Slicer keeps them: nodes as node references, everything else as text.
"""

import enum
import json
import pathlib
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import slicer

__all__ = ["Choice", "Default", "Maximum", "Minimum", "WithinRange", "isParameterNodeWrapper", "parameterNodeWrapper"]

_PROPERTY_NAME = "SlicerParameterName"


class Validator:
    """A condition on a value, given as annotation of its type."""

    def validate(self, value: Any) -> None:
        """Raise ValueError where the value is not allowed."""
        raise NotImplementedError


@dataclass(frozen=True)
class WithinRange(Validator):
    """Between two bounds, both allowed."""

    minimum: float
    maximum: float

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"The value must lie between {self.minimum} and {self.maximum}.")


@dataclass(frozen=True)
class Minimum(Validator):
    """No less than this."""

    minimum: float

    def validate(self, value: Any) -> None:
        if value < self.minimum:
            raise ValueError(f"The value must be at least {self.minimum}.")


@dataclass(frozen=True)
class Maximum(Validator):
    """No more than this."""

    maximum: float

    def validate(self, value: Any) -> None:
        if value > self.maximum:
            raise ValueError(f"The value must be at most {self.maximum}.")


@dataclass(frozen=True)
class Choice(Validator):
    """One of these."""

    choices: tuple[Any, ...]

    def validate(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"The value must be one of {self.choices}.")


@dataclass(frozen=True)
class Default:
    """The value before anything was set, given as annotation."""

    value: Any


def _is_node(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)


@dataclass(frozen=True)
class _Parameter:
    """One typed value of a parameter node."""

    name: str
    kind: Any
    optional: bool
    validators: tuple[Validator, ...]
    default: Any

    @staticmethod
    def of(name: str, annotation: Any, class_default: Any) -> "_Parameter":
        kind, annotations = annotation, []
        if typing.get_origin(kind) is typing.Annotated:
            kind, *annotations = typing.get_args(kind)
        optional = False
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            members = [member for member in typing.get_args(kind) if member is not type(None)]
            optional = len(members) < len(typing.get_args(kind))
            if len(members) != 1:
                raise TypeError(f"The host knows no union of several types, as {name} has.")
            kind = members[0]
        defaults = [a.value for a in annotations if isinstance(a, Default)]
        if class_default is not None:
            defaults.insert(0, class_default)
        default = defaults[0] if defaults else _first_value(kind, optional=optional or _is_node(kind))
        validators = tuple(a for a in annotations if isinstance(a, Validator))
        return _Parameter(name, kind, optional or _is_node(kind), validators, default)

    def is_in(self, node: Any) -> bool:
        if _is_node(self.kind) or self._is_node_list():
            return True
        return node.HasParameter(self.name) if hasattr(node, "HasParameter") else node.GetParameter(self.name) != ""

    def _is_node_list(self) -> bool:
        return typing.get_origin(self.kind) is list and _is_node(typing.get_args(self.kind)[0])

    def read(self, node: Any) -> Any:
        if _is_node(self.kind):
            return node.GetNodeReference(self.name)
        if self._is_node_list():
            return [node.GetNthNodeReference(self.name, i) for i in range(node.GetNumberOfNodeReferences(self.name))]
        text = node.GetParameter(self.name)
        return None if self.optional and text == "" else _from_text(self.kind, text)

    def write(self, node: Any, value: Any) -> None:
        self._check(value)
        if _is_node(self.kind):
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        elif self._is_node_list():
            node.RemoveNodeReferenceIDs(self.name)
            for item in value:
                node.AddNodeReferenceID(self.name, item.GetID())
        else:
            node.SetParameter(self.name, "" if value is None else _to_text(self.kind, value))

    def _check(self, value: Any) -> None:
        if value is None and self.optional:
            return
        expected = typing.get_origin(self.kind) or self.kind
        right = isinstance(value, expected) or (expected is float and isinstance(value, int))
        if not right or (expected is int and isinstance(value, bool)):
            raise TypeError(f"{self.name} takes {getattr(expected, '__name__', expected)}, not {type(value).__name__}.")
        for validator in self.validators:
            validator.validate(value)


def _first_value(kind: Any, *, optional: bool) -> Any:
    if optional:
        return None
    origin = typing.get_origin(kind) or kind
    return next(iter(kind)) if isinstance(kind, type) and issubclass(kind, enum.Enum) else origin()


def _to_text(kind: Any, value: Any) -> str:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict | tuple):
        return json.dumps(value)
    return str(value)


def _from_text(kind: Any, text: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind[text]
    if kind is bool:
        return text == "true"
    if typing.get_origin(kind) in (list, dict, tuple):
        return typing.get_origin(kind)(json.loads(text))
    if isinstance(kind, type) and issubclass(kind, pathlib.PurePath):
        return pathlib.Path(text)
    return kind(text)


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
    def __init__(self, widget: Any, parameter: _Parameter, wrapper: Any) -> None:
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

    allParameters: typing.ClassVar[dict[str, _Parameter]]
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
    parameters = {name: _Parameter.of(name, hint, getattr(described, name, None)) for name, hint in hints.items()}
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


def _property(parameter: _Parameter) -> property:
    return property(
        lambda self: parameter.read(self.parameterNode), lambda self, value: parameter.write(self.parameterNode, value)
    )
