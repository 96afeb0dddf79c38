"""TLS of a node: DICOM's profiles (PS3.15 annex B) are TLS 1.2 and later with certificates, best on both sides."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from ppcmi.errors import UsageError

_BAD_PAIR = "The files of --tls-cert and --tls-key are not a certificate and its key without a passphrase (PEM)."
_BAD_CA = "The file of --tls-ca is not a certificate authority (PEM)."


def listening_context(certificate: Path, key: Path, ca_file: Path | None) -> ssl.SSLContext:
    """For who calls us.

    :param ca_file: callers must show a certificate of this authority; None: no certificate is asked for.
    :raises UsageError: if a file is not what it should be.
    """
    context = _PatientContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_pair(context, certificate, key)
    if ca_file is not None:
        _load_authority(context, ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def calling_context(certificate: Path | None, key: Path | None, ca_file: Path | None) -> ssl.SSLContext:
    """For whom we call; whose certificate is verified, always.

    :param certificate: ours, to show if asked, with its ``key``.
    :param ca_file: the authority to trust instead of the system's.
    :raises UsageError: if a file is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is None:
        context.load_default_certs()
    else:
        _load_authority(context, ca_file)
    if certificate is not None and key is not None:
        _load_pair(context, certificate, key)
    return context


class _PatientContext(ssl.SSLContext):
    """Leaves the handshake to an association's own thread: one silent caller must not keep the others waiting."""

    def wrap_socket(self, sock: Any, *_: Any, server_side: bool = False, **__: Any) -> ssl.SSLSocket:
        """As the base class's."""
        return super().wrap_socket(sock, server_side=server_side, do_handshake_on_connect=False)


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")
    except OSError as error:  # ssl.SSLError is one of them
        raise UsageError(_BAD_PAIR) from error


def _load_authority(context: ssl.SSLContext, ca_file: Path) -> None:
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:
        raise UsageError(_BAD_CA) from error
