"""Settings from ``server.toml`` and the environment: every one with where it comes from, and all that is wrong at once.

The variable of ``port`` in section ``serve`` is ``PPCMI_SERVER_SERVE_PORT``, and so on. The ``server.json`` of earlier
versions is taken over once.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ppcmi.files import write_atomically
from ppcmi_server.errors import OperatorError

SETTINGS_NAME = "server.toml"
VARIABLE_PREFIX = "PPCMI_SERVER_"
FOLDER_VARIABLE = "PPCMI_SERVER_DIR"
EARLIER_NAME, EARLIER_FORMAT = "server.json", "ppcmi-server/1"
_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

Origin = Literal["default", "file", "environment"]


@dataclass
class FoundSettings:
    """What was found: the sections, where each setting that is no default comes from, and what is wrong."""

    sections: dict[str, Any] = field(default_factory=dict)
    origins: dict[tuple[str, str], Origin] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def find_settings(folder: Path, environment: Mapping[str, str], kinds: Mapping[str, type]) -> FoundSettings:
    """The settings of the server in ``folder``.

    :param kinds: the sections' names and dataclasses (:mod:`ppcmi_server.settings`).
    :raises OperatorError: if there is no server, or its file cannot be read at all.
    """
    _take_over_earlier(folder, kinds)
    found, document = FoundSettings(), _read(folder)
    for name, content in document.items():
        if name not in kinds or not isinstance(content, dict):
            found.problems.append(f"server.toml has something called {_shown(name)}, which is no section of it.")
    variables = _variables(environment)
    for name, kind in kinds.items():
        content = document.get(name, {})
        _find_section(found, name, kind, content if isinstance(content, dict) else {}, variables)
    found.problems += [f"The environment has {name}, which is no setting of the server." for name in sorted(variables)]
    return found


def variable_name(section: str, name: str) -> str:
    """The environment variable of a setting."""
    return f"{VARIABLE_PREFIX}{section}_{name}".upper()


def write_settings(folder: Path, section: str, values: Mapping[str, Any]) -> None:
    """Change settings in ``server.toml``; what else is in it, comments too, stays.

    :raises OperatorError: if the file is laid out in a way that this does not understand; change it by hand then.
    """
    path = folder / SETTINGS_NAME
    lines = path.read_text(encoding="utf-8").splitlines()
    if f"[{section}]" not in lines:
        lines += ["", f"[{section}]"]
    for name, value in values.items():
        start = lines.index(f"[{section}]") + 1
        end = next((i for i in range(start, len(lines)) if lines[i].startswith("[")), len(lines))
        own = [i for i in range(start, end) if re.match(rf"(# ?)?{name}\s*=", lines[i])]
        at, past = (own[0], own[0] + 1) if own else (start, start)
        lines[at:past] = [f"{name} = {toml(value)}"]
    text = "\n".join(lines) + "\n"
    if {name: tomllib.loads(text)[section].get(name) for name in values} != dict(values):
        raise OperatorError("server.toml could not be changed; set it by hand, see 'ppcmi-server config show'.")
    write_atomically(path, text.encode(), mode=0o600)


def toml(value: Any) -> str:
    """A value as TOML has it; None is the empty text."""
    if value is None:
        return '""'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value)  # a JSON string is a TOML basic string
    return str(value)


def _read(folder: Path) -> dict[str, Any]:
    try:
        return tomllib.loads((folder / SETTINGS_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise OperatorError("There is no server in this folder; make one with 'ppcmi-server init DIR'.") from error
    except (OSError, ValueError) as error:
        raise OperatorError("The server's server.toml cannot be read; mend it or restore it from a backup.") from error


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(VARIABLE_PREFIX) and name != FOLDER_VARIABLE
    }


def _find_section(
    found: FoundSettings, name: str, kind: type, content: Mapping[str, Any], variables: dict[str, str]
) -> None:
    """One section; takes what it uses out of ``variables``."""
    parts: dict[str, Field[Any]] = {part.name: part for part in fields(kind)}
    found.problems += [
        f"Section {name} of server.toml has no setting {_shown(unknown)}."
        for unknown in sorted(content.keys() - parts.keys())
    ]
    kinds, values = get_type_hints(kind), {}
    for setting, part in parts.items():
        text = variables.pop(variable_name(name, setting), None)
        if text is None and setting not in content:
            continue
        value = content[setting] if text is None else _from_text(text, kinds[setting])
        found.origins[name, setting] = "file" if text is None else "environment"
        try:
            values[setting] = _checked(f"{name}.{setting}", value, kinds[setting], part)
        except OperatorError as error:
            found.problems.append(str(error))
    found.sections[name] = kind(**values)


def _from_text(text: str, kind: Any) -> Any:
    """A value as TOML would have had it; what is not of the kind stays text, and is refused later."""
    if kind is bool:
        return _TRUTHS.get(text.strip().lower(), text)
    if kind in (int, float):
        for number in (int, float):
            try:
                return number(text)
            except ValueError:
                continue
    return text


def _checked(name: str, value: Any, kind: Any, part: Field[Any]) -> Any:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise OperatorError(f"Setting {name} is one of: {', '.join(get_args(kind))}.")
        return value
    if kind is bool:
        if not isinstance(value, bool):
            raise OperatorError(f"Setting {name} is true or false.")
        return value
    if kind in (int, float):
        return _checked_number(name, value, kind, part)
    if not isinstance(value, str):
        raise OperatorError(f"Setting {name} is a text.")
    return value or None if type(None) in get_args(kind) else value


def _checked_number(name: str, value: Any, kind: Any, part: Field[Any]) -> Any:
    least = part.metadata["least"]
    number = not isinstance(value, bool) and isinstance(value, int if kind is int else int | float)
    if not number or not math.isfinite(value) or (value <= 0 if least is None else value < least):
        what = "a whole number" if kind is int else "a number"
        raise OperatorError(f"Setting {name} is {what} {'above 0' if least is None else f'of at least {least}'}.")
    return kind(value)


def _shown(name: str) -> str:
    """What a user typed, fit for a one-line message."""
    return "'" + "".join(c for c in name if c.isprintable())[:40] + "'"


def _take_over_earlier(folder: Path, kinds: Mapping[str, type]) -> None:
    """Write ``server.toml`` from the ``server.json`` that versions before it had, once."""
    earlier, now = folder / EARLIER_NAME, folder / SETTINGS_NAME
    if now.exists() or not earlier.exists():
        return
    try:
        document = json.loads(earlier.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OperatorError("The server's server.json cannot be read; restore it from a backup.") from error
    if not isinstance(document, dict) or document.get("format") != EARLIER_FORMAT:
        raise OperatorError(f"The server's server.json is not of format {EARLIER_FORMAT}; this version cannot use it.")
    addresses = {name: document.get(name) for name in ("database_url", "blobs_url") if document.get(name)}
    lines = ["# Taken over from server.json; 'ppcmi-server config show' explains every setting there is."]
    for section, values in (("storage", addresses), ("limits", document.get("limits") or {})):
        known = {part.name for part in fields(kinds[section])}
        lines += ["", f"[{section}]", *(f"{name} = {toml(value)}" for name, value in values.items() if name in known)]
    write_atomically(now, ("\n".join(lines) + "\n").encode(), mode=0o600)
    earlier.replace(folder / f"{EARLIER_NAME}.taken-over")
