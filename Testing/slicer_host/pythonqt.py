"""PythonQt's manners over PySide6: how Slicer's Python sees Qt objects.

Slicer wraps Qt with PythonQt, where a Qt property is an attribute (`button.text = "Send"`, `if box.checked`), every
other public member is a method, signals are connected by signature (`button.connect("clicked()", f)`), enumerators are
integers, lists come as tuples, and no attribute can be added to a C++ object. Code written the PySide way
(`button.text()`) fails here as it does in Slicer. Beyond Slicer this raises where PythonQt only prints a warning (an
unknown signal), and where it crashes (a widget touched from a thread other than the main one).

`wrapper_class(native_class)` gives the Python class for a PySide class, `wrap` and `unwrap` convert values.
"""

import enum
import inspect
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import shiboken6
from PySide6 import QtCore, QtGui, QtNetwork, QtWidgets

from .qt_enums import EnumClass, EnumValue
from .qt_signals import Signals, class_name, text_of

NATIVE_MODULES = (QtCore, QtGui, QtWidgets, QtNetwork)
# Names that PySide adds to every class and Qt's C++ classes do not have.
_PYSIDE_ONLY = {"staticMetaObject", "receivers", "sender", "tr"}
_RENAMED = {"exec_": "exec", "raise": "raise_", "name": "objectName"}

_wrapper_classes: dict[type, "WrapperMeta"] = {}
_wrappers: "weakref.WeakValueDictionary[int, Wrapper]" = weakref.WeakValueDictionary()
_main_thread = threading.main_thread()


def _pointer(native: Any) -> int:
    return shiboken6.getCppPointer(native)[0]


def wrap(value: Any) -> Any:
    """Turn what PySide gives into what PythonQt would give."""
    if isinstance(value, enum.Enum) and not isinstance(value, EnumValue):
        return EnumValue(value) if type(value).__module__.startswith("PySide6") else value
    if isinstance(value, shiboken6.Object):
        return _wrap_object(value)
    if isinstance(value, list | tuple):
        return tuple(wrap(item) for item in value)
    return value


def _wrap_object(native: Any) -> "Wrapper":
    if not isinstance(native, QtCore.QObject):
        return _new_wrapper(native)
    wrapper = getattr(native, "pythonqt_instance", None) or _wrappers.get(_pointer(native))
    if wrapper is None or wrapper.native() is not native:
        wrapper = _new_wrapper(native)
        _wrappers[_pointer(native)] = wrapper
    return wrapper


def _new_wrapper(native: Any) -> "Wrapper":
    cls = wrapper_class(type(native))
    wrapper = cls.__new__(cls)
    object.__setattr__(wrapper, "_native", native)
    return wrapper


def unwrap(value: Any) -> Any:
    """Turn what Slicer's code passes into what PySide takes."""
    if isinstance(value, Wrapper):
        return value.native()
    if isinstance(value, EnumValue):
        return value.native
    if isinstance(value, list | tuple):
        return type(value)(unwrap(item) for item in value)
    if isinstance(value, dict):
        return {key: unwrap(item) for key, item in value.items()}
    return value


signals = Signals(wrap, unwrap)
"""The connections of this process, and in `signals.errors` what connected callables raised."""


def wrapper_class(native_class: type) -> "WrapperMeta":
    """Give the class that wraps instances of a PySide class or of a stand-in that derives from one."""
    if native_class not in _wrapper_classes:
        if native_class in (shiboken6.Object, object):
            return Wrapper
        bases = tuple(dict.fromkeys(wrapper_class(base) for base in native_class.__bases__))
        bases = tuple(base for base in bases if base is not Wrapper) or (Wrapper,)
        name = vars(native_class).get("cpp_class_name", native_class.__name__)
        _wrapper_classes[native_class] = WrapperMeta(name, bases, {"native_class": native_class})
    return _wrapper_classes[native_class]


class WrapperMeta(type):
    """Enumerators, static methods and unbound methods on the class; construction of instances."""

    native_class: type

    def __getattr__(cls, name: str) -> Any:
        native_class = cls.native_class
        target = _RENAMED.get(name, name)
        if name.startswith("_") or name in _PYSIDE_ONLY or not hasattr(native_class, target):
            raise AttributeError(f"{cls.__name__} has no member {name}")
        member = getattr(native_class, target)
        if isinstance(member, enum.Enum):
            return EnumValue(member)
        if isinstance(member, type):
            return EnumClass(member) if issubclass(member, enum.Enum) else wrapper_class(member)
        if not callable(member):
            raise AttributeError(f"{cls.__name__}.{name} belongs to instances")  # noqa: TRY004
        return _method(member, f"{cls.__name__}.{name}")


class Wrapper(metaclass=WrapperMeta):
    """One Qt object as Slicer's Python sees it."""

    native_class: ClassVar[type] = shiboken6.Object
    _native: Any

    def __init__(self, *arguments: Any) -> None:
        _check_thread(type(self).__name__)
        native = _native_class_of(type(self))(*unwrap(arguments))
        object.__setattr__(self, "_native", native)
        if isinstance(native, QtCore.QObject):
            _wrappers[_pointer(native)] = self
        if type(native).__name__ == "_PythonSubclass":
            # An instance of a class that Python derived lives as long as its C++ object, as in PythonQt.
            native.pythonqt_instance = self

    def native(self) -> Any:
        """The PySide object, for the host itself; code under test has no business with it."""
        return self._native

    def __bool__(self) -> bool:
        return bool(shiboken6.isValid(self._native))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Wrapper):
            return NotImplemented
        if isinstance(self._native, QtCore.QObject):
            return self._native is other._native
        return bool(self._native == other._native)

    def __hash__(self) -> int:
        return id(self._native) if isinstance(self._native, QtCore.QObject) else hash(self._native)

    def __repr__(self) -> str:
        return f"{type(self).__name__} (C++ object at {id(self._native):#x})"

    def __iter__(self) -> Iterator[Any]:
        return (wrap(item) for item in self._native)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        native = self._native
        _check_thread(name)
        if not shiboken6.isValid(native):
            raise ValueError(f"Trying to read {name} of a destroyed {type(self).__name__} object")
        if isinstance(native, QtCore.QObject):
            return _object_member(self, native, name)
        return _value_member(native, name)

    def __setattr__(self, name: str, value: Any) -> None:
        native = self._native
        _check_thread(name)
        if not shiboken6.isValid(native):
            raise AttributeError(f"Trying to set {name} on a destroyed {type(self).__name__} object")
        if isinstance(native, QtCore.QObject):
            target = "objectName" if name == "name" else name
            index = native.metaObject().indexOfProperty(target)
            if index >= 0:
                _write_property(native, native.metaObject().property(index), value)
                return
            if target in _dynamic_properties(native):
                native.setProperty(target, unwrap(value))
                return
            if hasattr(type(native), name) and type(self) is wrapper_class(type(native)):
                raise AttributeError(f"{name} can not be overwritten on a {type(self).__name__} object")
        if _is_derived(type(self)):
            object.__setattr__(self, name, value)
            return
        raise AttributeError(
            f"{name} does not exist on {type(self).__name__}, and new attributes on C++ objects are not allowed"
        )


def _check_thread(name: str) -> None:
    if threading.current_thread() is not _main_thread:
        raise RuntimeError(f"Qt's {name} was used outside the main thread, which crashes Slicer.")


def _object_member(wrapper: Wrapper, native: QtCore.QObject, name: str) -> Any:  # noqa: PLR0911
    """Look a name up in PythonQt's order: property, method, enumerator, signal, dynamic property, child."""
    target = "objectName" if name == "name" else name
    meta_object = native.metaObject()
    index = meta_object.indexOfProperty(target)
    if index >= 0:
        return _read_property(native, meta_object.property(index))
    special = _SPECIAL_METHODS.get(name)
    if special is not None:
        return lambda *arguments: special(native, *arguments)
    signal = signals.access(native, name)
    if signal is not None:
        return signal
    if name not in _PYSIDE_ONLY and hasattr(type(native), _RENAMED.get(name, name)):
        member = getattr(native, _RENAMED.get(name, name))
        if callable(member) and not isinstance(member, type):
            return _method(member, f"{type(wrapper).__name__}.{name}")
        return wrap(member) if isinstance(member, enum.Enum) else getattr(type(wrapper), name)
    if name in _dynamic_properties(native):
        return wrap(native.property(name))
    for child in native.children():
        if child.objectName() == name:
            return wrap(child)
    raise AttributeError(f"{class_name(native)} has no attribute named {name}")


def _value_member(native: Any, name: str) -> Any:
    target = _RENAMED.get(name, name) if name != "name" else name
    if name in _PYSIDE_ONLY or not hasattr(type(native), target):
        raise AttributeError(f"{type(native).__name__} has no attribute named {name}")
    member = getattr(native, target)
    return _method(member, f"{type(native).__name__}.{name}") if callable(member) else wrap(member)


def _dynamic_properties(native: QtCore.QObject) -> list[str]:
    return [text_of(name) for name in native.dynamicPropertyNames()]


def _read_property(native: QtCore.QObject, prop: QtCore.QMetaProperty) -> Any:
    value = native.property(prop.name())
    if isinstance(value, int) and not isinstance(value, bool) and prop.isEnumType():
        enum_class = _enum_class(prop.enumerator())
        return EnumValue(enum_class(value)) if enum_class else value
    return wrap(value)


def _enum_class(enumerator: QtCore.QMetaEnum) -> type[enum.Enum] | None:
    for module in NATIVE_MODULES:
        found = getattr(getattr(module, enumerator.scope(), None), enumerator.enumName(), None)
        if isinstance(found, type) and issubclass(found, enum.Enum):
            return found
    return None


def _write_property(native: QtCore.QObject, prop: QtCore.QMetaProperty, value: Any) -> None:
    if not prop.isWritable():
        raise AttributeError(f"Property '{prop.name()}' of {class_name(native)} object is not writable")
    is_object = prop.typeName() in ("PyObject", "QVariant") or prop.typeName().endswith("*")
    refused = (value is None or callable(value)) and not is_object
    if prop.isEnumType() and isinstance(value, int):
        value = int(value)
    elif prop.typeName() == "QString" and not refused:
        value = str(value)
    elif prop.typeName() == "QStringList" and isinstance(value, list | tuple):
        value = [str(item) for item in value]
    if refused or not native.setProperty(prop.name(), unwrap(value)):
        raise AttributeError(
            f"Property '{prop.name()}' of type '{prop.typeName()}' does not accept an object of type "
            f"{type(value).__name__} ({value!r})"
        )


def _method(member: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A method that takes and gives wrapped values; no keyword arguments, as in PythonQt."""

    def call(*arguments: Any) -> Any:
        _check_thread(name)
        arguments = tuple(signals.guarded(a) if inspect.isroutine(a) else unwrap(a) for a in arguments)
        try:
            return wrap(member(*arguments))
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from error

    return call


def _delete(native: QtCore.QObject) -> None:
    shiboken6.delete(native)


def _set_property(native: QtCore.QObject, name: str, value: Any) -> bool:
    return bool(native.setProperty(name, unwrap(value)))


def _find_child(native: QtCore.QObject, kind: Any, name: str = "") -> Any:
    return next(iter(_find_children(native, kind, name)), None)


def _find_children(native: QtCore.QObject, kind: Any, name: str = "") -> tuple[Any, ...]:
    """All descendants of a class (given as class or as C++ name) and, where given, of a name."""
    wanted = kind if isinstance(kind, str) else kind.__name__
    found = native.findChildren(QtCore.QObject)
    return wrap([child for child in found if child.inherits(wanted) and (not name or child.objectName() == name)])


_SPECIAL_METHODS: dict[str, Callable[..., Any]] = {
    "className": class_name,
    "connect": signals.connect,
    "delete": _delete,
    "disconnect": signals.disconnect,
    "findChild": _find_child,
    "findChildren": _find_children,
    "setProperty": _set_property,
}


def _is_derived(cls: type) -> bool:
    """Whether Python code derived this class from a wrapper class."""
    return "native_class" not in vars(cls)


def _native_class_of(cls: type) -> type:
    """The PySide class to construct: for a class derived in Python one whose virtual methods call the overrides."""
    if not _is_derived(cls):
        return cls.native_class
    base = cls.native_class
    derived = list(itertools.takewhile(_is_derived, cls.__mro__))
    overridden = {name for c in derived for name in vars(c) if not name.startswith("_") and hasattr(base, name)}

    def forward(name: str) -> Callable[..., Any]:
        def call(native: Any, *arguments: Any) -> Any:
            wrapper = getattr(native, "pythonqt_instance", None)
            if wrapper is None:  # a virtual call from within the C++ constructor
                return getattr(base, name)(native, *arguments)
            return unwrap(getattr(wrapper, name)(*[wrap(argument) for argument in arguments]))

        return call

    return type("_PythonSubclass", (base,), {name: forward(name) for name in overridden})
