"""``ppcmi-server serve``: answer the sites until told to stop."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import signal
import socket
import ssl
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn

from ppcmi.cli.parsers import Groups
from ppcmi.device import choose_device
from ppcmi.locks import hold_lock
from ppcmi.server_address import is_loopback
from ppcmi_server import jobs
from ppcmi_server.app import create_app
from ppcmi_server.cli.options import Command, add_command
from ppcmi_server.config import ServerConfig
from ppcmi_server.errors import OperatorError
from ppcmi_server.worker import spawn

LOG_FORMAT = "%(asctime)s %(name)s %(message)s"


def add_parsers(groups: Groups) -> None:
    """The command."""
    parser = add_command(
        groups,
        "serve",
        _serve,
        "Answer the sites until Ctrl-C or SIGTERM, and go on with trainings that were interrupted. Other machines are "
        "served over TLS only.",
        "ppcmi-server serve /srv/ppcmi --host 0.0.0.0 --tls-cert server.pem --tls-key server-key.pem",
    )
    parser.add_argument("folder", type=Path, nargs="?", metavar="DIR", help="the server's folder, as --dir")
    parser.add_argument("--host", help="address to listen on (default: what server.toml says)")
    parser.add_argument("--port", type=int, help="0 takes any that is free (default: what server.toml says)")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain (PEM)")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="the certificate's private key (PEM)")
    parser.add_argument(
        "--insecure-without-tls",
        action="store_true",
        default=None,
        help="serve other machines without TLS all the same, e.g. behind a proxy that adds it: tokens travel in clear",
    )


def _serve(command: Command) -> int:
    config = _with_options(command.config, command.options)
    _require_safe(config)
    choose_device(config.training.device)  # an unknown one is an error now, not at the first request
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=LOG_FORMAT)
    logging.getLogger("ppcmi_server").setLevel(logging.INFO)
    with (
        hold_lock(
            config.folder / "serve.lock", OperatorError("This server runs already; stop it before you start it again.")
        ),
        _listen(config.serve.host, config.serve.port) as listener,
    ):
        server = _AnnouncingServer(_uvicorn_config(config), command, listener)
        _go_on_with_jobs(command)
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn sends it once more
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            command.console.remark("Stopped.")
        finally:
            signal.signal(signal.SIGTERM, previous)
    if not server.started:
        raise OperatorError("The server could not start; its log says why.")
    return 0


def _go_on_with_jobs(command: Command) -> None:
    """Start trainings again that ended with the machine or by force."""
    with command.database.reading() as session:
        numbers = jobs.interrupted(session, command.config)
    for number in numbers:
        spawn(command.config, number)
        command.console.remark(f"Job {number} was interrupted and goes on.")


class _AnnouncingServer(uvicorn.Server):
    """Says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, command: Command, listener: socket.socket) -> None:
        super().__init__(config)
        self._command = command
        self._listener = listener

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        if self.started:
            scheme, host = "https" if self.config.is_ssl else "http", self._listener.getsockname()[0]
            host = f"[{host}]" if ":" in host else host
            self._command.console.result(f"Listening on {scheme}://{host}:{self._listener.getsockname()[1]}")


def _with_options(config: ServerConfig, options: argparse.Namespace) -> ServerConfig:
    """The settings, where the command line does not say otherwise."""
    certificate, key = (None if file is None else str(file.resolve()) for file in (options.tls_cert, options.tls_key))
    return replace(
        config,
        serve=replace(
            config.serve,
            **_given(host=options.host, port=options.port, insecure_without_tls=options.insecure_without_tls),
        ),
        tls=replace(config.tls, **_given(certificate=certificate, key=key)),
    )


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _uvicorn_config(config: ServerConfig) -> uvicorn.Config:
    certificate, key = config.tls.certificate, config.tls.key
    return uvicorn.Config(
        create_app(config),
        log_config=None,
        access_log=False,  # its lines hold addresses and names; ppcmi_server.api.access_log's do not
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(config.serve.keep_alive_seconds),
        timeout_graceful_shutdown=int(config.serve.drain_seconds),
        ssl_certfile=None if certificate is None else config.file(certificate),
        ssl_keyfile=None if key is None else config.file(key),
    )


def _require_safe(config: ServerConfig) -> None:
    certificate, key = config.tls.certificate, config.tls.key
    if (certificate is None) != (key is None):
        raise OperatorError("TLS takes both --tls-cert and --tls-key.")
    if certificate is not None and key is not None:
        _require_certificate(config.file(certificate), config.file(key))
    elif not is_loopback(config.serve.host) and not config.serve.insecure_without_tls:
        raise OperatorError(
            "Other machines are served over TLS only; give --tls-cert and --tls-key, or insist with "
            "--insecure-without-tls."
        )


def _require_certificate(certificate: Path, key: Path) -> None:
    """Try what uvicorn will do.

    :raises OperatorError: if it would fail, or ask for a passphrase.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
    except OSError as error:  # ssl.SSLError is one of them
        raise OperatorError(
            "The files of --tls-cert and --tls-key are not a certificate and its key without a passphrase (PEM)."
        ) from error


def _listen(host: str, port: int) -> socket.socket:
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
