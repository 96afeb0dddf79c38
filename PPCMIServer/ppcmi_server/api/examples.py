"""A whole example for every document of the OpenAPI description, put together from its fields' examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REFERENCE = "#/components/schemas/"


def add_examples(description: dict[str, Any]) -> dict[str, Any]:
    """The same description; every object has an ``example``, and every JSON body and answer too."""
    schemas = description["components"]["schemas"]
    for schema in schemas.values():
        if schema.get("type") == "object":
            schema.setdefault("example", example_of(schema, schemas))
    for methods in description["paths"].values():
        for operation in methods.values():
            for body in (operation.get("requestBody", {}), *operation["responses"].values()):
                content = body.get("content", {}).get("application/json")
                if content is not None:
                    content.setdefault("example", example_of(content["schema"], schemas))
    return description


def example_of(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Any:
    """A value of the schema: its own example, or one put together.

    :param schemas: those that references name.
    :raises ValueError: if a field has neither an example nor a form that gives one.
    """
    own = _own_examples(schema)
    if own:
        return own[0]
    match schema:
        case {"$ref": str(name)}:
            return example_of(schemas[name.removeprefix(REFERENCE)], schemas)
        case {"anyOf": [first, *_]}:
            return example_of(first, schemas)
        case {"type": "object"}:
            return {name: example_of(part, schemas) for name, part in schema.get("properties", {}).items()}
        case {"type": "array", "items": items}:
            return [example_of(items, schemas)]
        case _:
            raise ValueError("a field of the protocol has no example")


def _own_examples(schema: Mapping[str, Any]) -> list[Any]:
    """Values that the schema itself names."""
    named = [schema[name] for name in ("example", "const") if name in schema]
    return [*named, *schema.get("examples", []), *schema.get("enum", [])]
