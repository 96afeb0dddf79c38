"""The server's process while it serves: starts, tells that it listens, takes a new certificate, drains, ends.

SIGTERM and Ctrl-C end it: no new connections, requests under way get ``serve.drain_seconds``, then the application's
own end. SIGHUP has it read its certificate again, for connections to come; those there are go on.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
import ssl
from collections.abc import Callable
from typing import Any

import uvicorn

from ppcmi.errors import PpcmiError
from ppcmi_server import __version__
from ppcmi_server.config import ServerConfig
from ppcmi_server.errors import OperatorError
from ppcmi_server.operation.connections import ServingConfig
from ppcmi_server.operation.service_manager import ServiceManager
from ppcmi_server.operation.tls import load_certificate, server_context

LOG = logging.getLogger("ppcmi_server.operation.serving")


class OperatedServer(uvicorn.Server):
    """A server that an operator and a service manager run.

    :param announce: gets the address once it listens.
    :raises OperatorError: if TLS cannot be had as the settings say.
    """

    def __init__(
        self,
        config: ServerConfig,
        app: Any,
        listener: socket.socket,
        manager: ServiceManager,
        announce: Callable[[str], None],
    ) -> None:
        self._settings, self._context = config, server_context(config)
        super().__init__(_uvicorn_config(config, app, self._context))
        self._listener = listener
        self._manager = manager
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; then tell."""
        await super().startup(sockets)
        if not self.started:
            return
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        scheme, (host, port) = "https" if self._context else "http", self._listener.getsockname()[:2]
        fields = {"version": __version__, "tls": self._context is not None, "port": port}
        LOG.info("server-started", extra={"fields": fields})
        self._announce(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
        self._manager.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, within ``drain_seconds``."""
        self._manager.stopping()
        LOG.info("server-stopping", extra={"fields": {"requests": len(self.server_state.tasks)}})
        await super().shutdown(sockets)

    def _reload(self) -> None:
        if self._context is None:
            return
        self._manager.reloading()
        try:
            load_certificate(self._context, self._settings)
            LOG.info("certificate-reloaded")
        except PpcmiError as error:
            LOG.error("certificate-refused", extra={"fields": {"reason": str(error)}})  # noqa: TRY400 - one sentence
        self._manager.ready()


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; several servers never share a port.

    :raises OperatorError: if the address is not this machine's or the port is taken.
    """
    try:
        version = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host).version
        listener = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except ValueError as error:
        raise OperatorError("The host to listen on is a number such as 127.0.0.1, or localhost.") from error
    except (OSError, OverflowError) as error:
        raise OperatorError("The server cannot listen there: the port is taken, or the address not ours.") from error
    return listener


def _uvicorn_config(config: ServerConfig, app: Any, context: ssl.SSLContext | None) -> uvicorn.Config:
    return ServingConfig(
        app,
        config.serve,
        config.limits.body_seconds,
        log_config=None,
        access_log=False,  # its lines hold addresses and names; ppcmi_server.api.access_log's do not
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(config.serve.drain_seconds)),
        ssl_context_factory=None if context is None else lambda *_: context,
    )
