"""How a site profile connects: what it trusts the server by, and what it shows to a server that asks for a certificate.

::

    server-ca.pem            certificate authority, if it is not one of the system's; or the pinned certificate
    client-certificate.pem   the site's own certificate, for servers that ask for one
    client-key.pem           its private key, mode 0600
"""

from __future__ import annotations

from pathlib import Path

from ppcmi.client import Patience, ServerClient
from ppcmi.connections import ClientCertificate
from ppcmi.errors import SiteError, UsageError
from ppcmi.files import write_atomically
from ppcmi.server_certificate import fetch_pinned

SERVER_CA, OWN_CERTIFICATE, OWN_KEY = "server-ca.pem", "client-certificate.pem", "client-key.pem"


def keep_certificates(
    folder: Path, url: str, ca_file: Path | None, pin: str | None, certificate: ClientCertificate | None
) -> None:
    """Copies of what is to be trusted and shown; what an enrolment that failed left there does not stay.

    :param pin: SHA-256 (hex) of the one certificate to trust; it is fetched from the server.
    :raises UsageError: if there are both ``ca_file`` and ``pin``.
    :raises SiteError: if a file cannot be read.
    :raises ConnectionFailedError: if the server shows another certificate than the pinned one, or none.
    """
    if pin is not None and ca_file is not None:
        raise UsageError("A certificate authority and a pin do not go together; give one of them.")
    trusted = _content(ca_file) if pin is None else fetch_pinned(url, pin)
    own, key = (None, None) if certificate is None else (_content(certificate.certificate), _content(certificate.key))
    for name, content, mode in ((SERVER_CA, trusted, 0o644), (OWN_CERTIFICATE, own, 0o644), (OWN_KEY, key, 0o600)):
        if content is None:
            (folder / name).unlink(missing_ok=True)
        else:
            write_atomically(folder / name, content, mode=mode)


def connect(
    folder: Path, url: str, pin: str | None, token: str | None = None, patience: Patience | None = None
) -> ServerClient:
    """A client with what :func:`keep_certificates` kept."""
    ca_file, own = folder / SERVER_CA, ClientCertificate(folder / OWN_CERTIFICATE, folder / OWN_KEY)
    return ServerClient(
        url,
        token,
        ca_file if ca_file.exists() else None,
        patience,
        pin=pin,
        certificate=own if own.certificate.exists() else None,
    )


def _content(file: Path | None) -> bytes | None:
    try:
        return None if file is None else file.read_bytes()
    except OSError as error:
        raise SiteError("A file with a certificate or its key cannot be read; check its name and mode.") from error
