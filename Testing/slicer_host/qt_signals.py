"""Signals as in PythonQt: by signature, `button.connect("clicked()", f)`, or as attribute, `button.clicked.connect(f)`.

What a callable raises is printed and the event loop goes on, as in Slicer; it is kept in `errors` for the test.
A stand-in that is written in Python declares the C++ signatures of its signals in `cpp_signals`.
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import shiboken6
from PySide6 import QtCore

Convert = Callable[[Any], Any]


def text_of(value: QtCore.QByteArray | bytes) -> str:
    """Qt's byte string as text."""
    return bytes(value.data() if isinstance(value, QtCore.QByteArray) else value).decode()


def class_name(native: QtCore.QObject) -> str:
    """The C++ class name of an object."""
    return str(vars(type(native)).get("cpp_class_name", native.metaObject().className()))


def _pointer(native: QtCore.QObject) -> int:
    return int(shiboken6.getCppPointer(native)[0])


@dataclass(frozen=True)
class _Connection:
    """One callable connected to one signal of an object, which it does not keep alive."""

    signature: str
    slot: Callable[..., Any]
    receive: Callable[..., None]

    def open(self, native: QtCore.QObject) -> None:
        signal = python_signal(native, self.signature)
        if signal is not None:
            signal.connect(self.receive)
        else:
            # Called on the class: some classes of Qt have a `connect` of their own.
            made = QtCore.QObject.connect(native, QtCore.SIGNAL(self.signature), self.receive)
            if not made:
                raise RuntimeError(f"The host could not connect {self.signature} of {class_name(native)}.")

    def close(self, native: QtCore.QObject) -> None:
        signal = python_signal(native, self.signature)
        if signal is not None:
            signal.disconnect(self.receive)
        else:
            QtCore.QObject.disconnect(native, QtCore.SIGNAL(self.signature), self.receive)


def python_signal(native: QtCore.QObject, signature: str) -> Any:
    """The signal of a stand-in that is declared under a C++ signature, or None."""
    for native_class in type(native).__mro__:
        name = vars(native_class).get("cpp_signals", {}).get(signature)
        if name is not None:
            return getattr(native, name)
    return None


def normalized_signature(native: QtCore.QObject, signature: str) -> str:
    """The signature as Qt writes it.

    Raises:
        ValueError: the object has no such signal; Slicer prints a warning then.
    """
    normal = text_of(QtCore.QMetaObject.normalizedSignature(signature))
    if python_signal(native, normal) is None and native.metaObject().indexOfSignal(normal) < 0:
        raise ValueError(f"{class_name(native)} has no signal {signature}; give the name with its C++ argument types.")
    return normal


def signature_of(native: QtCore.QObject, name: str) -> str | None:
    """The signature of the signal of this name, where there are several the one with most arguments; None for none."""
    for native_class in type(native).__mro__:
        for signature, python_name in vars(native_class).get("cpp_signals", {}).items():
            if python_name == name:
                return str(signature)
    meta_object = native.metaObject()
    methods = [meta_object.method(i) for i in range(meta_object.methodCount())]
    signals = [m for m in methods if m.methodType() == QtCore.QMetaMethod.MethodType.Signal]
    signatures = [text_of(m.methodSignature()) for m in signals if text_of(m.name()) == name]
    return max(signatures, key=lambda s: s.count(",") + (not s.endswith("()")), default=None)


def argument_count(slot: Callable[..., Any]) -> int | None:
    """How many arguments PythonQt hands to a callable: as many as a plain function or method takes, else all."""
    function = slot.__func__ if inspect.ismethod(slot) else slot
    if not inspect.isfunction(function) or function.__code__.co_flags & inspect.CO_VARARGS:
        return None
    return function.__code__.co_argcount - (1 if inspect.ismethod(slot) else 0)


class Signals:
    """The connections of this process; `wrap` and `unwrap` convert what the signals carry."""

    def __init__(self, wrap: Convert, unwrap: Convert) -> None:
        self.errors: list[BaseException] = []
        self._wrap, self._unwrap = wrap, unwrap
        self._connections: dict[int, list[_Connection]] = {}

    def guarded(self, slot: Callable[..., Any]) -> Callable[..., None]:
        """Call `slot` with wrapped values, no more of them than it takes; keep what it raises."""
        count = argument_count(slot)

        def receive(*arguments: Any) -> None:
            try:
                slot(*[self._wrap(argument) for argument in arguments[:count]])
            except Exception as error:
                self.errors.append(error)
                sys.excepthook(type(error), error, error.__traceback__)

        return receive

    def connect(self, native: QtCore.QObject, signature: str, slot: Any, member: str | None = None) -> bool:
        """Connect a signal to a callable, or to the slot or signal `member` of another object."""
        if member is not None:
            slot = getattr(slot, member.partition("(")[0])
        if not callable(slot):
            raise TypeError(f"What is connected to {signature} must be callable, not {type(slot).__name__}.")
        connection = _Connection(normalized_signature(native, signature), slot, self.guarded(slot))
        connection.open(native)
        pointer = _pointer(native)
        if pointer not in self._connections:
            self._connections[pointer] = []
            native.destroyed.connect(lambda *_: self._connections.pop(pointer, None))
        self._connections[pointer].append(connection)
        return True

    def disconnect(self, native: QtCore.QObject, signature: str, slot: Callable[..., Any] | None = None) -> bool:
        """Take the connections of a signal to `slot` away (all of them without one); False where there was none."""
        signature = normalized_signature(native, signature)
        of_object = self._connections.get(_pointer(native), [])
        found = [c for c in of_object if c.signature == signature and (slot is None or c.slot == slot)]
        for connection in found:
            connection.close(native)
            of_object.remove(connection)
        return bool(found)

    def emit(self, native: QtCore.QObject, signature: str, arguments: tuple[Any, ...]) -> None:
        """Emit a signal."""
        signal = python_signal(native, signature)
        if signal is not None:
            signal.emit(*self._unwrap(arguments))
        else:
            QtCore.QObject.emit(native, QtCore.SIGNAL(signature), *self._unwrap(arguments))

    def access(self, native: QtCore.QObject, name: str) -> "SignalAccess | None":
        """The signal of this name as attribute, or None."""
        signature = signature_of(native, name)
        return SignalAccess(self, native, signature) if signature is not None else None


@dataclass(frozen=True)
class SignalAccess:
    """A signal as attribute; calling it emits."""

    signals: Signals
    native: QtCore.QObject
    signature: str

    def connect(self, slot: Callable[..., Any]) -> bool:
        """Call `slot` whenever the signal is emitted."""
        return self.signals.connect(self.native, self.signature, slot)

    def disconnect(self, slot: Callable[..., Any]) -> bool:
        """Take a connection away; False where there was none."""
        return self.signals.disconnect(self.native, self.signature, slot)

    def emit(self, *arguments: Any) -> None:
        """Emit the signal."""
        self.signals.emit(self.native, self.signature, arguments)

    __call__ = emit
