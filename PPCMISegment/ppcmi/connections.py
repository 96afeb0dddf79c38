"""Connections of a requests session that another thread can cut.

requests can only wait for a call under way; a user who cancels should not, and the server should learn of it. The
adapter keeps track of open sockets and shuts them down on :meth:`AbortableAdapter.abort`.
"""

from __future__ import annotations

import socket
import ssl
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.poolmanager import PoolManager

from ppcmi.connection_errors import CertificateError

POOL_SIZE = 16


@dataclass(frozen=True)
class ClientCertificate:
    """A certificate of our own (PEM, with its chain) and its key, for servers that ask for one."""

    certificate: Path
    key: Path


class AbortableAdapter(HTTPAdapter):
    """HTTP adapter that trusts the system's certificate authorities, or only those in ``ca_file``.

    :param pin: SHA-256 (hex) of the one certificate that the server may show; ``ca_file`` holds it then.
    :param certificate: what is shown to a server that asks for a certificate.
    :raises OSError: if a file cannot be read or is not what it should be.
    """

    def __init__(
        self, ca_file: Path | None, pin: str | None = None, certificate: ClientCertificate | None = None
    ) -> None:
        self._context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._pinning = {} if pin is None else {"assert_fingerprint": pin}
        if pin is not None:
            self._context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN  # it need not be an authority
        if certificate is not None:
            self._context.load_cert_chain(certificate.certificate, certificate.key, password=lambda: "")
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()
        super().__init__(pool_connections=POOL_SIZE, pool_maxsize=POOL_SIZE)

    def abort(self) -> None:
        """Shut every open socket down; whoever waits on one gets an error at once."""
        with self._lock:
            sockets = list(self._sockets)
        for connection in sockets:
            try:
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # also of TLS: its own shutdown is not thread-safe
            except OSError:
                continue  # closed in the meantime

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        """As requests', with connections that are kept track of."""
        super().init_poolmanager(connections, maxsize, block, ssl_context=self._context, **self._pinning, **options)
        self._track(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """As requests', with connections that are kept track of."""
        manager = super().proxy_manager_for(proxy, ssl_context=self._context, **self._pinning, **options)
        self._track(manager)
        return manager

    def _track(self, manager: PoolManager) -> None:
        adapter = self

        class TrackedHTTPConnection(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                adapter._remember(self.sock)

        class TrackedHTTPSConnection(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                adapter._remember(self.sock)

        class TrackedHTTPPool(HTTPConnectionPool):
            ConnectionCls = TrackedHTTPConnection

        class TrackedHTTPSPool(HTTPSConnectionPool):
            ConnectionCls = TrackedHTTPSConnection

        manager.pool_classes_by_scheme = {"http": TrackedHTTPPool, "https": TrackedHTTPSPool}

    def _remember(self, connection: Any) -> None:
        if isinstance(connection, socket.socket):
            with self._lock:
                self._sockets.add(connection)


def open_adapter(
    ca_file: Path | None, pin: str | None = None, certificate: ClientCertificate | None = None
) -> AbortableAdapter:
    """An adapter as above.

    :raises CertificateError: if a file cannot be read or is not what it should be.
    """
    try:
        return AbortableAdapter(ca_file, pin, certificate)
    except OSError as error:  # ssl.SSLError is one of them
        raise CertificateError(
            "The certificate authority's file cannot be read; is it PEM?"
            if certificate is None
            else "The files of certificates cannot be used; are they PEM, and the key without a passphrase?"
        ) from error


class BearerToken(AuthBase):
    """Sets the token itself (RFC 6750): without an auth object, requests would let a .netrc entry replace the header.

    :param token: or None: nothing is set, and nothing is taken from elsewhere.
    """

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """As requests asks of it."""
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request
