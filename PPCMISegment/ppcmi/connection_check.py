"""Test of the connection to a server: which of the things that can be wrong is wrong, and how far away it is.

For the set-up panel and ``ppcmi site test``. Nothing is changed at either end, and every failure is an answer, not an
exception.

Example::

    check = check_site(SiteProfile.open(folder))
    print(check.verdict, check.sentence, check.round_trip_ms)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory

from ppcmi.client import Patience, ServerClient
from ppcmi.connection_errors import (
    CertificateError,
    OffProtocolError,
    ProtocolVersionError,
    TokenEndedError,
    TokenRefusedError,
    TokenRevokedError,
)
from ppcmi.errors import ConnectionFailedError, PpcmiError, ServerRefusedError, SiteError
from ppcmi.server_certificate import parse_pin
from ppcmi.site import SiteProfile
from ppcmi.site_connection import connect, keep_certificates
from ppcmi.wording import printable

CALLS = 5
QUICK = Patience(connect_s=5.0, read_s=10.0, attempts=1)
"""Someone waits for the answer: one try, soon given up."""

_BUSY = (429, 500, 502, 503, 504)


class Verdict(StrEnum):
    """What a test of the connection found."""

    UNREACHABLE = "unreachable"
    UNTRUSTED = "certificate not trusted"
    OTHER_SERVER = "not a PPCMI server"
    OTHER_VERSION = "version mismatch"
    NOT_ENROLLED = "not enrolled"
    REVOKED = "token revoked"
    READY = "ready"


@dataclass(frozen=True)
class ConnectionCheck:
    """What a test found, for people and for programs.

    :param sentence: what is wrong and what to do, or that all is well.
    :param server_version: as the server names it, where it got as far as that.
    :param site_name: who the server takes the caller for, if ready.
    :param round_trip_ms: median of a few calls, where the server answered.
    :param error: what a call failed with; None if ready.
    """

    verdict: Verdict
    sentence: str
    server_version: str | None = None
    site_name: str | None = None
    round_trip_ms: float | None = None
    error: PpcmiError | None = None

    @property
    def ready(self) -> bool:
        """Whether the site can work with the server."""
        return self.verdict is Verdict.READY

    @property
    def exit_code(self) -> int:
        """What a command ends with."""
        return 0 if self.error is None else self.error.exit_code


def check_site(site: SiteProfile) -> ConnectionCheck:
    """Whether an enrolled site can work with its server."""
    return _check(lambda: site.client(QUICK))


def check_address(url: str, ca_file: Path | None = None, pin: str | None = None) -> ConnectionCheck:
    """How far a site that is not enrolled yet gets; at best ``NOT_ENROLLED``.

    :param pin: SHA-256 of the one certificate to trust, instead of ``ca_file``.
    :raises UsageError: if ``url`` is no address of a server, ``pin`` is no pin, or ``ca_file`` is given as well.
    """
    if pin is None:
        return _check(lambda: ServerClient(url, ca_file=ca_file, patience=QUICK))
    digest = parse_pin(pin)
    with TemporaryDirectory() as folder:

        def connect_pinned() -> ServerClient:
            keep_certificates(Path(folder), url, ca_file, digest, None)
            return connect(Path(folder), url, digest, patience=QUICK)

        return _check(connect_pinned)


def _check(connect: Callable[[], ServerClient]) -> ConnectionCheck:
    try:
        client = connect()
    except (ConnectionFailedError, SiteError) as error:
        return _failed(error)
    try:
        return _call(client)
    finally:
        client.close()


def _call(client: ServerClient) -> ConnectionCheck:
    try:
        version = printable(str(client.info().get("version")))
        milliseconds = _round_trip_ms(client.info)
    except (ConnectionFailedError, ServerRefusedError) as error:
        return _failed(error)
    try:
        name = printable(str(client.me().get("site_name")))
    except (ConnectionFailedError, ServerRefusedError) as error:
        return _failed(error, version, milliseconds)
    sentence = f"The server answers in {milliseconds:.0f} ms (version {version}) and knows {name}."
    return ConnectionCheck(Verdict.READY, sentence, version, name, milliseconds)


def _round_trip_ms(call: Callable[[], object]) -> float:
    """Median time of a call on a connection that stands already."""

    def timed() -> float:
        start = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - start)

    return statistics.median(timed() for _ in range(CALLS))


def _failed(error: PpcmiError, version: str | None = None, milliseconds: float | None = None) -> ConnectionCheck:
    verdict, sentence = _judge(error, known_server=version is not None)
    return ConnectionCheck(verdict, sentence, version, None, milliseconds, error)


def _judge(error: PpcmiError, *, known_server: bool) -> tuple[Verdict, str]:
    verdict = next((verdict for kind, verdict in _BY_TYPE if isinstance(error, kind)), Verdict.UNREACHABLE)
    if not isinstance(error, ServerRefusedError):
        return verdict, str(error)
    if isinstance(error, TokenEndedError):
        return (
            verdict,
            "This workstation's token was replaced or has expired; have another one made at the site, and take it up.",
        )
    if verdict is Verdict.REVOKED:
        return verdict, "The server's operator has ended this site's access; ask there for a new code."
    if verdict is Verdict.NOT_ENROLLED and known_server:
        return verdict, "The server answers, but does not know this site; enrol with a code from its operator."
    if known_server or error.status in _BUSY:
        return Verdict.UNREACHABLE, "The server is there, but cannot answer at the moment; try again later."
    return Verdict.OTHER_SERVER, "There is a server at this address, but it is not a PPCMI server."


_BY_TYPE = (
    (CertificateError, Verdict.UNTRUSTED),
    (ProtocolVersionError, Verdict.OTHER_VERSION),
    (OffProtocolError, Verdict.OTHER_SERVER),
    (TokenRevokedError, Verdict.REVOKED),
    (TokenRefusedError, Verdict.NOT_ENROLLED),
    (SiteError, Verdict.NOT_ENROLLED),
)
"""The first that fits counts."""
