"""Every setting of the server, in sections, each with what it says.

``server.toml`` and the environment set them (:mod:`ppcmi_server.config`); the file that ``init`` writes, its check and
the operator's guide are made from what stands here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30
MEMORY_OF_A_BYTE = 8
"""The body, its copy without the encryption, and 8-bit latents as float32, with and without the link layer."""


def _setting(default: Any, says: str, *, least: float | None = None, secret: bool = False) -> Any:
    """A setting with a default.

    :param least: smallest number that is allowed; None for above zero.
    :param secret: never shown: it may hold a password.
    """
    return field(default=default, metadata={"says": says, "least": least, "secret": secret})


@dataclass(frozen=True)
class ServeSettings:
    """Where the server listens, and how it ends."""

    host: str = _setting("127.0.0.1", "address to listen on")
    port: int = _setting(8765, "port; 0 takes any that is free", least=0)
    insecure_without_tls: bool = _setting(
        False, "serve other machines without TLS all the same, e.g. behind a proxy that adds it: tokens travel in clear"
    )
    drain_seconds: float = _setting(15.0, "how long requests under way may take to end when the server stops")
    keep_alive_seconds: float = _setting(30.0, "how long an idle connection stays open")
    header_seconds: float = _setting(10.0, "how long a request's head, and before it a TLS handshake, may take")
    connections: int = _setting(
        1024, "connections at the same time; for a further one that is closed which waits longest without a request"
    )


@dataclass(frozen=True)
class TlsSettings:
    """Certificates; files are named as they lie, or relative to the server's folder."""

    certificate: str | None = _setting(None, "the server's certificate chain (PEM)")
    key: str | None = _setting(None, "the certificate's private key (PEM, mode 0600)")
    client_authority: str | None = _setting(None, "certificate authority (PEM) of the sites' own certificates")
    client_certificates: Literal["off", "required"] = _setting(
        "off", "whether a site has to show a certificate of client_authority: off or required"
    )


@dataclass(frozen=True)
class StorageSettings:
    """Where data lie, and how much of them."""

    database_url: str | None = _setting(
        None, "an SQLAlchemy address, e.g. postgresql://user:password@host/name; without one, SQLite here", secret=True
    )
    blobs_url: str | None = _setting(
        None, "an fsspec address for latents and codecs, e.g. s3://bucket/ppcmi; without one, the folder blobs here",
        secret=True,
    )  # fmt: skip
    s3_endpoint: str | None = _setting(None, "address of an S3-compatible store that is not Amazon's")
    key_file: str | None = _setting(
        None, "a file on another disk with the key that 'keys wrap' encrypts the server's key files under"
    )
    reserve_bytes: int = _setting(
        GIBIBYTE, "free space that uploads leave to the database and to checkpoints; below it they get 507", least=0
    )
    site_quota_bytes: int = _setting(200 * GIBIBYTE, "what a site may store, unless 'site quota' says otherwise")
    upload_days: int = _setting(14, "an upload that got nothing new for so many days is removed")


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take."""

    json_bytes: int = _setting(256 << 10, "body of a JSON request")
    chunk_bytes: int = _setting(8 * MEBIBYTE, "body of one chunk of a cohort's frame")
    frame_bytes: int = _setting(260 * MEBIBYTE, "one frame of a cohort")
    bundle_bytes: int = _setting(128 * MEBIBYTE, "body of a mapping request")
    codec_bytes: int = _setting(256 * MEBIBYTE, "body of a published codec")
    network_bytes: int = _setting(64 * MEBIBYTE, "body of a network that a member shares")
    sealed_bytes: int = _setting(64 << 10, "an invitation")
    memory_bytes: int = _setting(
        4 * GIBIBYTE, f"for bodies and what is unpacked from them, all together; a byte counts {MEMORY_OF_A_BYTE} times"
    )
    idle_seconds: float = _setting(60.0, "without a byte of a request's body")
    body_seconds: float = _setting(1800.0, "for a request's whole body, however slowly it comes")
    requests: int = _setting(256, "under way at the same time; above it the answer is 503")
    queued_requests: int = _setting(
        64, "mapping requests at the same time; a site may hold as many as are free; above it 429"
    )
    queue_seconds: float = _setting(20.0, "a mapping request that is not begun after so long is told to come back")
    batch_slices: int = _setting(128, "slices that are mapped at once")
    batch_wait_ms: float = _setting(5.0, "how long a batch waits for requests that are under way")
    models_in_memory: int = _setting(4, "models kept loaded")


@dataclass(frozen=True)
class RateSettings:
    """How often one caller may ask; above it the answer is 429."""

    requests_per_minute: int = _setting(6000, "requests with one token")
    mapped_slices_per_hour: int = _setting(1_000_000, "slices mapped for one site")
    failed_per_minute: int = _setting(20, "attempts from one address with a wrong token, code or password")


@dataclass(frozen=True)
class TrainingSettings:
    """How this machine takes part in training."""

    workers: int = _setting(1, "trainings at the same time on this machine; 0 leaves them to others", least=0)
    lease_seconds: float = _setting(30.0, "a training whose process gave no sign of life for so long is taken over")
    attempts: int = _setting(5, "a training whose process died so often in a row pauses; without a checkpoint it fails")
    memory_bytes: int = _setting(
        GIBIBYTE // 2, "latents kept in memory; more are read from an encrypted scratch file", least=0
    )
    device: str = _setting("auto", "where models are trained and used: auto, cpu, cuda")


@dataclass(frozen=True)
class LogSettings:
    """What the server writes about itself, to standard error."""

    format: Literal["json", "text"] = _setting("json", "one JSON object a line, or text: json or text")
    level: Literal["debug", "info", "warning", "error"] = _setting("info", "debug, info, warning or error")


@dataclass(frozen=True)
class DashboardSettings:
    """The operator's pages and the numbers for monitoring."""

    enabled: bool = _setting(True, "serve the dashboard at /dashboard")
    idle_minutes: float = _setting(30.0, "a login without a click ends after so long")
    login_hours: float = _setting(12.0, "a login ends after so long")
    open_metrics: bool = _setting(False, "answer /metrics without a token of scope observe")
