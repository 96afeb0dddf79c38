"""The server's folder, and its settings from ``server.toml`` and the environment.

::

    server.toml            settings; every one is also an environment variable, which takes precedence
    private.key            the server's X25519 key (0600): agrees on link keys, opens cohorts' file keys
    storage.key            wraps each cohort's key at rest (0600); storage.key.next while it is being replaced
    ppcmi.sqlite3          the database, unless storage.database_url names another
    blobs/                 encrypted latents and codecs, unless storage.blobs_url names another place
    models/                copies of trained models, which are blobs
    jobs/N/                log and locks of training job N; its checkpoints are blobs
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import get_type_hints

from ppcmi.files import write_atomically
from ppcmi_server.errors import OperatorError
from ppcmi_server.operation.settings_source import EARLIER_NAME, SETTINGS_NAME, FoundSettings, find_settings, toml
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
from ppcmi_server.storage.keys import ServerKeys


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


def create_folder(folder: Path) -> ServerConfig:
    """Make a server's folder (mode 0700) with new keys.

    :raises OperatorError: if there is a server already, or the folder cannot be made.
    """
    if (folder / SETTINGS_NAME).exists() or (folder / EARLIER_NAME).exists():
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
    config, found = inspect_config(folder, environment or {})
    if found.problems:
        raise OperatorError(found.problems[0])
    return config


def inspect_config(folder: Path, environment: Mapping[str, str]) -> tuple[ServerConfig, FoundSettings]:
    """The settings, where they come from and all that is wrong with them; what is wrong has its default.

    :raises OperatorError: if there is no server, or its file cannot be read at all.
    """
    found = find_settings(folder, environment, dict(sections()))
    config = ServerConfig(folder.resolve(), **found.sections)
    found.problems += _inconsistencies(config)
    return config, found


def settings_text(config: ServerConfig | None = None) -> str:
    """``server.toml`` with every setting and what it says; those that have their default are commented out."""
    lines = ["# Settings of the PPCMI server. Every one is also an environment variable, e.g. PPCMI_SERVER_SERVE_PORT."]
    for name, kind in sections():
        section = kind() if config is None else getattr(config, name)
        lines += ["", f"# {kind.__doc__}".rstrip(), f"[{name}]"]
        for part in fields(kind):
            value = getattr(section, part.name)
            mark = "# " if value == part.default else ""
            lines += [f"# {part.metadata['says']}", f"{mark}{part.name} = {toml(value)}"]
    return "\n".join(lines) + "\n"


def _inconsistencies(config: ServerConfig) -> Iterator[str]:
    limits, tls = config.limits, config.tls
    if MEMORY_OF_A_BYTE * max(limits.frame_bytes, limits.bundle_bytes) > limits.memory_bytes:
        yield f"Setting limits.memory_bytes is at least {MEMORY_OF_A_BYTE} times frame_bytes and bundle_bytes."
    if (tls.certificate is None) != (tls.key is None):
        yield "Settings tls.certificate and tls.key belong together; give both or none."
    if tls.client_certificates != "off" and (tls.client_authority is None or tls.certificate is None):
        yield "Setting tls.client_certificates takes tls.client_authority, certificate and key."
