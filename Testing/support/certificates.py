"""A certificate authority of a test's own, and a served application with TLS."""

from __future__ import annotations

import dataclasses
import datetime as dt
import ipaddress
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ppcmi_server.app import create_app
from ppcmi_server.config import create_folder
from ppcmi_server.operation.connections import ServingConfig
from ppcmi_server.operation.tls import server_context
from ppcmi_server.services import Services, open_services
from ppcmi_server.settings import TlsSettings

START_S = 30
HERE = ("127.0.0.1", "localhost")


@dataclasses.dataclass(frozen=True)
class Issued:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path

    @property
    def pin(self) -> str:
        return x509.load_pem_x509_certificate(self.certificate.read_bytes()).fingerprint(hashes.SHA256()).hex()


class Authority:
    """Issues certificates into ``folder``; ``file`` is its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.own = self._issue("authority", (), (-1, 3650), signer=None)
        self.file = self.own.certificate

    def issue(self, name: str, names: Sequence[str] = HERE, days: tuple[float, float] = (-1, 1)) -> Issued:
        """A certificate for ``names``, valid from and to so many days from now."""
        return self._issue(name, names, days, signer=self.own)

    def _issue(self, name: str, names: Sequence[str], days: tuple[float, float], signer: Issued | None) -> Issued:
        key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        above = None if signer is None else x509.load_pem_x509_certificate(signer.certificate.read_bytes())
        signing = key if signer is None else serialization.load_pem_private_key(signer.key.read_bytes(), None)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if above is None else above.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + dt.timedelta(days=days[0]))
            .not_valid_after(now + dt.timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(n) for n in names]), critical=False)
        issued = Issued(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        issued.certificate.write_bytes(builder.sign(signing, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        issued.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return issued


@dataclasses.dataclass
class TlsServer:
    """A served application; ``context`` may be given another certificate while it serves."""

    services: Services
    url: str
    port: int
    context: ssl.SSLContext


@contextmanager
def tls_server(folder: Path, issued: Issued, client_authority: Path | None = None) -> Iterator[TlsServer]:
    """Serve a new server with TLS until the context ends."""
    tls = TlsSettings(
        str(issued.certificate), str(issued.key),
        None if client_authority is None else str(client_authority),
        "off" if client_authority is None else "required",
    )  # fmt: skip
    config = dataclasses.replace(create_folder(folder).on_device("cpu"), tls=tls)
    services, context = open_services(config), server_context(config)
    app = create_app(config, services)
    server = uvicorn.Server(
        ServingConfig(
            app, config.serve, config.limits.body_seconds, port=0, log_config=None, timeout_graceful_shutdown=2,
            ssl_context_factory=lambda *_: context,
        )
    )  # fmt: skip
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + START_S
    while not server.started:
        assert time.monotonic() < deadline, "the application did not start"
        assert thread.is_alive(), "the application ended"
        time.sleep(0.01)
    (listener,) = server.servers[0].sockets
    port = listener.getsockname()[1]
    try:
        yield TlsServer(services, f"https://127.0.0.1:{port}", port, context)
    finally:
        server.should_exit = True
        thread.join(20)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
