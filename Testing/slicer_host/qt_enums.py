"""Enumerators as PythonQt gives them: integers."""

import enum
from collections.abc import Callable
from typing import Any


class EnumValue(int):
    """An enumerator: an integer, here with PySide's enumerator kept to pass it back."""

    native: enum.Enum | None

    def __new__(cls, native: enum.Enum) -> "EnumValue":
        """Make the integer for PySide's enumerator."""
        value = super().__new__(cls, native.value)
        value.native = native
        return value

    def _combined(self, other: int, operation: Callable[[Any, Any], Any]) -> int:
        if isinstance(self.native, enum.Flag):
            other_native = getattr(other, "native", None) or type(self.native)(int(other))
            if isinstance(other_native, type(self.native)):
                return EnumValue(operation(self.native, other_native))
        return operation(int(self), int(other))

    def __or__(self, other: int) -> int:
        return self._combined(other, lambda a, b: a | b)

    def __and__(self, other: int) -> int:
        return self._combined(other, lambda a, b: a & b)

    def __xor__(self, other: int) -> int:
        return self._combined(other, lambda a, b: a ^ b)

    __ror__, __rand__, __rxor__ = __or__, __and__, __xor__

    def __invert__(self) -> int:
        return EnumValue(~self.native) if isinstance(self.native, enum.Flag) else ~int(self)


class EnumClass:
    """A Qt enumeration: callable with an integer; its enumerators are attributes of the class around it only."""

    def __init__(self, native: type[enum.Enum]) -> None:
        self._native = native

    def __call__(self, value: int) -> EnumValue:
        """Give the enumerator of this value."""
        return EnumValue(self._native(int(value)))
