"""The server's folder and settings.

::

    server.json            settings: database and blob addresses, limits
    private.key            the server's X25519 key (0600): agrees on link keys, opens cohorts' file keys
    storage.key            wraps each cohort's key at rest (0600)
    ppcmi.sqlite3          the database, unless server.json names another
    blobs/                 encrypted latents and codecs, unless server.json names another place
    models/                trained models
    jobs/N/                checkpoint, log and lock of training job N
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ppcmi.files import write_atomically
from ppcmi_server.errors import OperatorError
from ppcmi_server.keys import ServerKeys

FORMAT = "ppcmi-server/1"
MEBIBYTE = 1 << 20
MEMORY_OF_A_BYTE = 8
"""The body, its copy without the encryption, and 8-bit latents as float32, with and without the link layer."""


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take.

    :param json_bytes: body of a JSON request.
    :param frame_bytes: body of one cohort frame.
    :param bundle_bytes: body of a mapping request.
    :param codec_bytes: body of a published codec.
    :param sealed_bytes: an invitation.
    :param memory_bytes: for binary bodies and what is unpacked from them, all requests together; above it the answer
        is 503. A byte of a body counts :data:`MEMORY_OF_A_BYTE` times.
    :param idle_seconds: without a byte of a request's body.
    :param requests: under way at the same time; above it the answer is 503.
    :param queued_requests: mapping requests at the same time; above it the answer is 429.
    :param batch_slices: slices that are mapped at once.
    :param batch_wait_ms: how long a batch waits for requests that are under way.
    :param models_in_memory: models kept loaded.
    """

    json_bytes: int = 256 << 10
    frame_bytes: int = 260 * MEBIBYTE
    bundle_bytes: int = 128 * MEBIBYTE
    codec_bytes: int = 256 * MEBIBYTE
    sealed_bytes: int = 64 << 10
    memory_bytes: int = 4096 * MEBIBYTE
    idle_seconds: float = 60.0
    requests: int = 256
    queued_requests: int = 64
    batch_slices: int = 128
    batch_wait_ms: float = 5.0
    models_in_memory: int = 4


@dataclass(frozen=True)
class ServerConfig:
    """Where everything is and how much is allowed.

    :param folder: the server's folder, see the module.
    :param database_url: an SQLAlchemy address, or None for the SQLite file in the folder.
    :param blobs_url: an fsspec address, or None for the folder's ``blobs``.
    :param device: where models are trained and used: auto, cpu, cuda.
    """

    folder: Path
    database_url: str | None = None
    blobs_url: str | None = None
    device: str = "auto"
    limits: Limits = field(default_factory=Limits)

    @property
    def models_folder(self) -> Path:
        """Where models' files lie."""
        return self.folder / "models"

    def job_folder(self, job: int) -> Path:
        """Where a training job keeps its checkpoint, log and lock."""
        return self.folder / "jobs" / str(job)


def create_folder(folder: Path) -> ServerConfig:
    """Make a server's folder (mode 0700) with new keys.

    :raises OperatorError: if there is a server already, or the folder cannot be made.
    """
    if (folder / "server.json").exists():
        raise OperatorError("There is a server in this folder already; start it with 'ppcmi-server serve'.")
    try:
        for part in (folder, folder / "models", folder / "jobs", folder / "blobs"):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise OperatorError(f"The folder cannot be made ({error.strerror}); choose another.") from error
    if not (folder / "private.key").exists():  # an interrupted init goes on with the keys that it made
        ServerKeys.create(folder)
    settings: dict[str, Any] = {"format": FORMAT, "database_url": None, "blobs_url": None, "limits": {}}
    write_atomically(folder / "server.json", json.dumps(settings, indent=2).encode(), mode=0o600)
    return load_config(folder)


def load_config(folder: Path, device: str = "auto") -> ServerConfig:
    """The settings of the server in ``folder``.

    :raises OperatorError: if there is no server, or its settings are not valid.
    """
    try:
        document = json.loads((folder / "server.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise OperatorError("There is no server in this folder; make one with 'ppcmi-server init DIR'.") from error
    except (OSError, ValueError) as error:
        raise OperatorError("The server's server.json cannot be read; restore it from a backup.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise OperatorError(f"The server's server.json is not of format {FORMAT}; this version cannot use it.")
    unknown = set(document) - {"format", "database_url", "blobs_url", "limits"}
    if unknown:
        raise OperatorError("The server's server.json has a setting that this version does not know.")
    return ServerConfig(
        folder=folder.resolve(),
        database_url=_address(document, "database_url"),
        blobs_url=_address(document, "blobs_url"),
        device=device,
        limits=_limits(document.get("limits", {})),
    )


def _address(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise OperatorError(f"{name} in the server's server.json is an address or null.")
    return value


def _limits(values: Any) -> Limits:
    known = {f.name for f in fields(Limits)}
    if not isinstance(values, dict) or not values.keys() <= known:
        raise OperatorError("The limits in the server's server.json are not ones that this version knows.")
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise OperatorError(f"The limit {name} in the server's server.json is a positive number.")
    limits = Limits(**values)
    if MEMORY_OF_A_BYTE * max(limits.frame_bytes, limits.bundle_bytes) > limits.memory_bytes:
        raise OperatorError(
            f"The limit memory_bytes is at least {MEMORY_OF_A_BYTE} times frame_bytes and bundle_bytes."
        )
    return limits
