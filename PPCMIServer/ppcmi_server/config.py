"""The server's folder, and its settings from ``server.toml`` and the environment.

::

    server.toml            settings; every one is also an environment variable, which takes precedence
    private.key            the server's X25519 key (0600): agrees on link keys, opens cohorts' file keys
    storage.key            wraps each cohort's key at rest (0600); storage.key.next while it is being replaced
    ppcmi.sqlite3          the database, unless storage.database_url names another
    blobs/                 encrypted latents and codecs, unless storage.blobs_url names another place
    models/                trained models
    jobs/N/                checkpoint, log and lock of training job N

The variable of ``port`` in section ``serve`` is ``PPCMI_SERVER_SERVE_PORT``, and so on.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ppcmi.files import write_atomically
from ppcmi_server.errors import OperatorError
from ppcmi_server.keys import ServerKeys
from ppcmi_server.settings import (
    MEMORY_OF_A_BYTE,
    DashboardSettings,
    Limits,
    LogSettings,
    RateSettings,
    ServeSettings,
    StorageSettings,
    TlsSettings,
    TrainingSettings,
)

SETTINGS_NAME = "server.toml"
VARIABLE_PREFIX = "PPCMI_SERVER_"
FOLDER_VARIABLE = "PPCMI_SERVER_DIR"
_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class ServerConfig:
    """Where everything is and how much is allowed; the sections of ``server.toml``.

    :param folder: the server's folder, see the module.
    """

    folder: Path
    serve: ServeSettings = field(default_factory=ServeSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)
    limits: Limits = field(default_factory=Limits)
    rates: RateSettings = field(default_factory=RateSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    log: LogSettings = field(default_factory=LogSettings)
    dashboard: DashboardSettings = field(default_factory=DashboardSettings)

    @property
    def models_folder(self) -> Path:
        """Where models' files lie."""
        return self.folder / "models"

    def job_folder(self, job: int) -> Path:
        """Where a training job keeps its checkpoint, log and lock."""
        return self.folder / "jobs" / str(job)

    @property
    def key_file(self) -> Path | None:
        """Where the key lies that the server's key files are encrypted under, if they are."""
        return None if self.storage.key_file is None else self.file(self.storage.key_file)

    def file(self, name: str) -> Path:
        """A file that a setting names."""
        return self.folder / name

    def on_device(self, device: str) -> ServerConfig:
        """The same with another device; ``auto`` leaves what the settings say."""
        if device == "auto":
            return self
        return replace(self, training=replace(self.training, device=device))


def sections() -> Iterator[tuple[str, type]]:
    """Names and classes of the sections."""
    kinds = get_type_hints(ServerConfig)
    yield from ((part.name, kinds[part.name]) for part in fields(ServerConfig) if part.name != "folder")


def variable_name(section: str, name: str) -> str:
    """The environment variable of a setting."""
    return f"{VARIABLE_PREFIX}{section}_{name}".upper()


def create_folder(folder: Path) -> ServerConfig:
    """Make a server's folder (mode 0700) with new keys.

    :raises OperatorError: if there is a server already, or the folder cannot be made.
    """
    if (folder / SETTINGS_NAME).exists():
        raise OperatorError("There is a server in this folder already; start it with 'ppcmi-server serve'.")
    try:
        for part in (folder, folder / "models", folder / "jobs", folder / "blobs"):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise OperatorError(f"The folder cannot be made ({error.strerror}); choose another.") from error
    if not (folder / "private.key").exists():  # an interrupted init goes on with the keys that it made
        ServerKeys.create(folder)
    write_atomically(folder / SETTINGS_NAME, settings_text().encode(), mode=0o600)
    return load_config(folder)


def load_config(folder: Path, environment: Mapping[str, str] | None = None) -> ServerConfig:
    """The settings of the server in ``folder``.

    :param environment: the process's, passed in by an entry point.
    :raises OperatorError: if there is no server, or its settings are not valid.
    """
    try:
        document = tomllib.loads((folder / SETTINGS_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise OperatorError("There is no server in this folder; make one with 'ppcmi-server init DIR'.") from error
    except (OSError, ValueError) as error:
        raise OperatorError("The server's server.toml cannot be read; mend it or restore it from a backup.") from error
    known = dict(sections())
    for name, content in document.items():
        if name not in known or not isinstance(content, dict):
            raise OperatorError(f"server.toml has something called {_shown(name)}, which is no section of it.")
    variables = _variables(environment or {})
    parts = {name: _section(name, kind, document.get(name, {}), variables) for name, kind in known.items()}
    if variables:
        raise OperatorError(f"The environment has {sorted(variables)[0]}, which is no setting of the server.")
    config = ServerConfig(folder.resolve(), **parts)
    _require_consistent(config)
    return config


def settings_text(config: ServerConfig | None = None) -> str:
    """``server.toml`` with every setting and what it says; those that have their default are commented out."""
    lines = ["# Settings of the PPCMI server. Every one is also an environment variable, e.g. PPCMI_SERVER_SERVE_PORT."]
    for name, kind in sections():
        section = kind() if config is None else getattr(config, name)
        lines += ["", f"# {kind.__doc__}".rstrip(), f"[{name}]"]
        for part in fields(kind):
            value = getattr(section, part.name)
            mark = "# " if value == part.default else ""
            lines += [f"# {part.metadata['says']}", f"{mark}{part.name} = {_toml(value)}"]
    return "\n".join(lines) + "\n"


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(VARIABLE_PREFIX) and name != FOLDER_VARIABLE
    }


def _section(name: str, kind: type, content: Mapping[str, Any], variables: dict[str, str]) -> Any:
    """One section; takes what it uses out of ``variables``."""
    parts: dict[str, Field[Any]] = {part.name: part for part in fields(kind)}
    unknown = sorted(content.keys() - parts.keys())
    if unknown:
        raise OperatorError(f"Section {name} of server.toml has no setting {_shown(unknown[0])}.")
    kinds = get_type_hints(kind)
    values = dict(content)
    for setting in parts:
        text = variables.pop(variable_name(name, setting), None)
        if text is not None:
            values[setting] = _from_text(text, kinds[setting])
    for setting, value in values.items():
        values[setting] = _checked(f"{name}.{setting}", value, kinds[setting], parts[setting])
    return kind(**values)


def _from_text(text: str, kind: Any) -> Any:
    """A value as TOML would have had it; what is not of the kind stays text, and is refused later."""
    if kind is bool:
        return _TRUTHS.get(text.strip().lower(), text)
    for number in (int, float):
        if kind in (int, float):
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


def _require_consistent(config: ServerConfig) -> None:
    limits, tls = config.limits, config.tls
    if MEMORY_OF_A_BYTE * max(limits.frame_bytes, limits.bundle_bytes) > limits.memory_bytes:
        raise OperatorError(
            f"Setting limits.memory_bytes is at least {MEMORY_OF_A_BYTE} times frame_bytes and bundle_bytes."
        )
    if (tls.certificate is None) != (tls.key is None):
        raise OperatorError("Settings tls.certificate and tls.key belong together; give both or none.")
    if tls.client_certificates != "off" and (tls.client_authority is None or tls.certificate is None):
        raise OperatorError("Setting tls.client_certificates takes tls.client_authority, certificate and key.")


def _shown(name: str) -> str:
    """What a user typed, fit for a one-line message."""
    return "'" + "".join(c for c in name if c.isprintable())[:40] + "'"


def _toml(value: Any) -> str:
    if value is None:
        return '""'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)
