"""``ppcmi-server serve``: answer the sites until told to stop."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ppcmi.cli.parsers import Groups
from ppcmi.locks import hold_lock
from ppcmi_server.app import create_app
from ppcmi_server.cli.options import Command, add_command
from ppcmi_server.config import ServerConfig
from ppcmi_server.database.engine import sqlite_file
from ppcmi_server.errors import OperatorError
from ppcmi_server.operation.checks import serving_findings
from ppcmi_server.operation.logs import configure_logging
from ppcmi_server.operation.service_manager import ADDRESS_VARIABLE, ServiceManager
from ppcmi_server.operation.serving import OperatedServer, listen
from ppcmi_server.training.supervisor import SERVE_LOCK

LOG = logging.getLogger("ppcmi_server.operation.serving")


def add_parsers(groups: Groups, summary: str) -> None:
    """The command."""
    parser = add_command(
        groups,
        "serve",
        _serve,
        summary,
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
    for finding in serving_findings(config):
        if finding.level == "problem":
            raise OperatorError(finding.says)
    with _alone(config), listen(config.serve.host, config.serve.port) as listener:
        configure_logging(config.log, sys.stderr)
        server = OperatedServer(
            config,
            create_app(config),
            listener,
            ServiceManager(command.environment.get(ADDRESS_VARIABLE)),
            lambda address: command.console.result(f"Listening on {address}"),
        )
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn sends it once more
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            LOG.info("server-stopped")
        finally:
            signal.signal(signal.SIGTERM, previous)
    if not server.started:
        raise OperatorError("The server could not start; its log says why.")
    return 0


@contextmanager
def _alone(config: ServerConfig) -> Iterator[None]:
    """Hold the folder, and the SQLite file if that lies elsewhere, for this server alone."""
    locks = [config.folder / SERVE_LOCK]
    database = sqlite_file(config)  # found without opening it: whoever may not serve must not upgrade it either
    if database is not None and database.parent.resolve() != config.folder:
        locks.append(database.with_name(f"{database.name}.lock"))
    refusal = OperatorError("This server runs already; stop it before you start it again.")
    with ExitStack() as held:
        for lock in locks:
            held.enter_context(hold_lock(lock, refusal))
        yield


def _with_options(config: ServerConfig, options: argparse.Namespace) -> ServerConfig:
    """The settings, where the command line does not say otherwise."""
    if (options.tls_cert is None) != (options.tls_key is None):
        raise OperatorError("TLS takes both --tls-cert and --tls-key.")
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
