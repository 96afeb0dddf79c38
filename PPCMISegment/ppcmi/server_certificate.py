"""Pinning: trust in the one certificate whose SHA-256 the server's operator told, and in no other.

For servers without a certificate authority. The certificate is fetched once, and is kept only if it is the right one;
from then on connections are verified against it as against an authority, and must show it itself.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import ssl
from urllib.parse import urlsplit

from ppcmi.connection_errors import CertificateError
from ppcmi.errors import ConnectionFailedError, UsageError
from ppcmi.server_address import normalize_url

HTTPS_PORT = 443
TIMEOUT_S = 10.0


def parse_pin(text: str) -> str:
    """A certificate's SHA-256 as 64 hex digits, however it was written: with colons or spaces, large or small.

    :raises UsageError: if it is none.
    """
    digits = re.sub(r"[\s:]", "", text).lower().removeprefix("sha256")
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise UsageError(
            "The pin is the SHA-256 of the server's certificate, 64 hex digits; ask the server's operator."
        )
    return digits


def fetch_pinned(url: str, pin: str) -> bytes:
    """The certificate (PEM) of the server at ``url``, which shows it to everyone; nothing is sent there.

    :param pin: as :func:`parse_pin` gives it.
    :raises UsageError: if the address is not https.
    :raises CertificateError: if the server shows another one.
    :raises ConnectionFailedError: if it cannot be reached.
    """
    parts = urlsplit(normalize_url(url))
    if parts.scheme != "https":
        raise UsageError("A pin is for a server that is reached by https://.")
    try:
        shown = ssl.get_server_certificate((parts.hostname or "", parts.port or HTTPS_PORT), timeout=TIMEOUT_S)
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(shown)).hexdigest()
    except (OSError, ValueError) as error:
        raise ConnectionFailedError("The server cannot be reached; check its address and that it runs.") from error
    if not hmac.compare_digest(digest, pin):
        raise CertificateError(
            "The server shows another certificate than the pin says; it is not the server, or it has a new one. "
            "Ask its operator."
        )
    return shown.encode()
