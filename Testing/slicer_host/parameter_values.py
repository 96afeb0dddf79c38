"""The typed values of a parameter node: what a type hint allows, its default, and its text in the node.

Nodes are kept as node references, everything else as text.
"""

import enum
import json
import pathlib
import types
import typing
from dataclasses import dataclass
from typing import Any

import slicer


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
class Parameter:
    """One typed value of a parameter node."""

    name: str
    kind: Any
    optional: bool
    validators: tuple[Validator, ...]
    default: Any

    @staticmethod
    def of(name: str, annotation: Any, class_default: Any) -> "Parameter":
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
        return Parameter(name, kind, optional or _is_node(kind), validators, default)

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
