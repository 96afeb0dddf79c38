"""``ppcmi-server operator``: who may use the dashboard, and what may read the metrics."""

from __future__ import annotations

from ppcmi.cli.parsers import Groups, add_group
from ppcmi_server.access import operators, tokens
from ppcmi_server.cli.options import Command, add_command
from ppcmi_server.database.schema import Token


def add_parsers(groups: Groups, summary: str) -> None:
    """The group's commands."""
    group = add_group(groups, "operator", summary)
    parser = add_command(
        group,
        "add",
        _add,
        "Make a token for an operator and print it; it is shown this once.",
        'ppcmi-server operator add "Dr. Ops" --days 90',
    )
    parser.add_argument("label", metavar="LABEL", help="who or what it is for")
    parser.add_argument(
        "--scope",
        action="append",
        choices=tokens.OPERATOR_SCOPES,
        help="operate: change what the server does; observe: only look, as monitoring does; may be repeated "
        "(default: both)",
    )
    parser.add_argument("--days", type=float, metavar="N", help="how long it works (default: until it is revoked)")
    add_command(group, "list", _list, "Every operator's token, without the token itself.", "ppcmi-server operator list")
    parser = add_command(
        group,
        "revoke",
        _revoke,
        "End an operator's access, logins included, at once.",
        "ppcmi-server operator revoke 7",
    )
    parser.add_argument("number", metavar="NUMBER", type=int, help="the token's number in 'ppcmi-server operator list'")


def _add(command: Command) -> int:
    options = command.options
    with command.database.writing() as session:
        token = operators.add_operator(session, options.label, options.scope or tokens.OPERATOR_SCOPES, options.days)
    command.console.result(token)
    command.console.remark("It is shown this once. Whoever has it is this operator; keep it as a password.")
    return 0


def _list(command: Command) -> int:
    with command.database.reading() as session:
        rows = [token_row(token) for token in operators.list_operators(session)]
    command.console.table(TOKEN_COLUMNS, rows)
    return 0


def _revoke(command: Command) -> int:
    with command.database.writing() as session:
        operators.revoke_operator(session, command.options.number)
    command.console.result("Revoked: the token and its logins no longer work.")
    return 0


TOKEN_COLUMNS = ("Number", "Label", "Scopes", "Made", "Last used", "Expires", "State")


def token_row(token: Token) -> list[str]:
    """A token for a table."""
    return [
        str(token.id), token.label or "-", ", ".join(token.scopes), token.created, token.last_used or "-",
        token.expires or "-", token_state(token),
    ]  # fmt: skip


def token_state(token: Token) -> str:
    """In a word, what a token is good for."""
    if token.revoked:
        return "revoked"
    return "valid" if tokens.is_valid(token) else "expired"
