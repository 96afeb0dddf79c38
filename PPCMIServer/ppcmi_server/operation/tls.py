"""Certificates: a self-signed one for a server without an authority, and the TLS context that the server serves with.

A self-signed certificate is an EC P-256 key with the server's names, good for 825 days; sites pin its SHA-256, which
the operator reads to them. TLS is 1.2 or newer (RFC 9325).
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ppcmi.files import write_atomically
from ppcmi_server.config import ServerConfig
from ppcmi_server.errors import OperatorError

CERTIFICATE_NAME, KEY_NAME = "server.crt", "server.key"
DAYS = 825
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2; those of 1.3 are all good."""

UNUSABLE = "Settings tls.certificate and tls.key are not a certificate and its key without a passphrase (PEM)."


@dataclass(frozen=True)
class CertificateFacts:
    """What an operator wants to know of a certificate.

    :param fingerprint: SHA-256 of its DER form, upper-case hex with colons, as browsers show it.
    """

    names: tuple[str, ...]
    not_before: dt.datetime
    not_after: dt.datetime
    fingerprint: str
    self_signed: bool

    def days_left(self, moment: dt.datetime) -> float:
        """Days until it expires; negative once it has."""
        return (self.not_after - moment) / dt.timedelta(days=1)


def make_self_signed(folder: Path, names: Sequence[str], days: int = DAYS) -> CertificateFacts:
    """A new key and certificate for ``names`` (host names and addresses) in ``folder``, in place of earlier ones.

    :raises OperatorError: if a name is none.
    """
    alternatives = [_general_name(name) for name in dict.fromkeys(names)]
    if not alternatives:
        raise OperatorError("A certificate needs at least one name or address that sites use for the server.")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "PPCMI server")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))  # sites' clocks differ a little
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_atomically(folder / KEY_NAME, private, mode=0o600)
    write_atomically(folder / CERTIFICATE_NAME, certificate.public_bytes(serialization.Encoding.PEM))
    return _facts(certificate)


def read_certificate(file: Path) -> CertificateFacts:
    """The facts of the first certificate in a PEM file.

    :raises OperatorError: if there is none.
    """
    try:
        return _facts(x509.load_pem_x509_certificate(file.read_bytes()))
    except (OSError, ValueError) as error:
        raise OperatorError("The file of tls.certificate is missing or not a certificate (PEM).") from error


def server_context(config: ServerConfig) -> ssl.SSLContext | None:
    """What the server serves with; None without TLS.

    :raises OperatorError: if a file is missing, not of its kind, or the two do not belong together.
    """
    tls = config.tls
    if tls.certificate is None or tls.key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, config)
    if tls.client_certificates == "required" and tls.client_authority is not None:
        try:
            context.load_verify_locations(config.file(tls.client_authority))
        except OSError as error:  # ssl.SSLError is one of them
            raise OperatorError("The file of tls.client_authority is missing or no certificate (PEM).") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def load_certificate(context: ssl.SSLContext, config: ServerConfig) -> None:
    """Take the certificate as it lies now for connections to come; those there are go on.

    :raises OperatorError: if it cannot be used; the context goes on with the one before.
    """
    if config.tls.certificate is None or config.tls.key is None:
        return
    files = config.file(config.tls.certificate), config.file(config.tls.key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*files, password=lambda: "")  # one to try it on
        context.load_cert_chain(*files, password=lambda: "")
    except OSError as error:  # ssl.SSLError is one of them
        raise OperatorError(UNUSABLE) from error


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    labels = name.removeprefix("*.").split(".")
    if not name.isascii() or not all(label and label.replace("-", "a").isalnum() for label in labels):
        raise OperatorError("A certificate's name is a host name such as ppcmi.example.org, or an address.")
    return x509.DNSName(name.lower())


def _facts(certificate: x509.Certificate) -> CertificateFacts:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names: tuple[str, ...] = ()
    else:
        names = tuple(str(name.value) for name in found)
    digest = certificate.fingerprint(hashes.SHA256())
    return CertificateFacts(
        names, certificate.not_valid_before_utc, certificate.not_valid_after_utc, digest.hex(":").upper(),
        certificate.subject == certificate.issuer,
    )  # fmt: skip
