"""``ppcmi-server tls``: a certificate for a server without an authority, and what sites have to know of it."""

from __future__ import annotations

import datetime as dt

from ppcmi.cli.parsers import Groups, add_group
from ppcmi_server.cli.options import Command, add_command
from ppcmi_server.errors import OperatorError
from ppcmi_server.operation.settings_source import write_settings
from ppcmi_server.operation.tls import (
    CERTIFICATE_NAME,
    DAYS,
    KEY_NAME,
    CertificateFacts,
    make_self_signed,
    read_certificate,
)


def add_parsers(groups: Groups, summary: str) -> None:
    """The group's commands."""
    group = add_group(groups, "tls", summary)
    parser = add_command(
        group,
        "self-signed",
        _self_signed,
        f"Make a key and a certificate of {DAYS} days, put them into the server's folder and name them in server.toml.",
        "ppcmi-server tls self-signed --name ppcmi.example.org 10.0.0.5",
    )
    parser.add_argument(
        "--name",
        nargs="+",
        action="extend",
        required=True,
        metavar="HOST",
        help="names and addresses that sites use for the server",
    )
    add_command(
        group, "show", _show, "The certificate's names, dates and fingerprint.", "ppcmi-server tls show"
    )  # fmt: skip


def _self_signed(command: Command) -> int:
    folder = command.config.folder
    facts = make_self_signed(folder, command.options.name)
    write_settings(folder, "tls", {"certificate": CERTIFICATE_NAME, "key": KEY_NAME})
    _tell(command, facts)
    command.console.remark("A server that runs takes it with SIGHUP, or when it starts again.")
    command.console.remark("Sites pin the fingerprint, 'ppcmi site init --pin ...'; tell it on a way that you trust.")
    return 0


def _show(command: Command) -> int:
    certificate = command.config.tls.certificate
    if certificate is None:
        raise OperatorError("The server has no certificate; make one with 'ppcmi-server tls self-signed'.")
    _tell(command, read_certificate(command.config.file(certificate)))
    return 0


def _tell(command: Command, facts: CertificateFacts) -> None:
    console = command.console
    console.result(f"Names:        {', '.join(facts.names) or '-'}")
    console.result(f"Good until:   {facts.not_after:%Y-%m-%d} ({facts.days_left(dt.datetime.now(dt.UTC)):.0f} days)")
    console.result(f"Signed by:    {'itself' if facts.self_signed else 'an authority'}")
    console.result(f"Fingerprint:  {facts.fingerprint}")
