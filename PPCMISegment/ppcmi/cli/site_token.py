"""``ppcmi site token``: narrower tokens for a site's workstations."""

from __future__ import annotations

from ppcmi.cli.options import Command, add_command
from ppcmi.cli.parsers import Groups, add_group
from ppcmi.cli.passphrase import ask_secret, secret_in
from ppcmi.site_token import use_token
from ppcmi.wording import printable

SCOPES = ("segment", "contribute", "validate")


def add_parsers(groups: Groups) -> None:
    """The group's commands."""
    group = add_group(groups, "token", "Narrower tokens for this site's workstations.")
    parser = add_command(
        group,
        "add",
        _add,
        "Make a token for a workstation and print it; it is shown this once.",
        'ppcmi site token add "reading room 2" --scope segment --days 365',
    )
    parser.add_argument("label", metavar="LABEL", help="what it is for")
    parser.add_argument(
        "--scope",
        action="append",
        choices=SCOPES,
        help="segment: map images; contribute: found, join, upload; validate: report scores; may be repeated "
        "(default: segment)",
    )
    parser.add_argument("--days", type=float, metavar="N", help="how long it works (default: until it is revoked)")
    add_command(group, "list", _list, "This site's tokens, without the tokens themselves.", "ppcmi site token list")
    parser = add_command(group, "revoke", _revoke, "End a token at once.", "ppcmi site token revoke 0123456789abcdef")
    parser.add_argument("token_id", metavar="ID", help="as 'ppcmi site token list' shows it")
    parser = add_command(
        group,
        "use",
        _use,
        "Have this workstation's profile use another token of the same site, e.g. a narrower one.",
        "ppcmi site token use --token-file token.txt",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="file whose first line is the token, or - for standard input (default: ask)",
    )


def _add(command: Command) -> int:
    options, console = command.options, command.console
    token = command.site().client().add_token(options.label, options.scope or ["segment"], options.days)
    console.result(token)
    console.remark("It is shown this once. At the workstation: import the profile, then 'ppcmi site token use'.")
    return 0


def _list(command: Command) -> int:
    rows = [
        [
            printable(str(token.get("id"))),
            printable(str(token.get("label") or ("this one" if token.get("current") else "-"))),
            printable(", ".join(map(str, token.get("scopes") or []))),
            printable(str(token.get("last_used") or "-")),
            printable(str(token.get("expires") or "-")),
        ]
        for token in command.site().client().tokens()
    ]
    command.console.table(["id", "label", "scopes", "last used, to the hour", "expires"], rows)
    return 0


def _revoke(command: Command) -> int:
    command.site().client().revoke_token(command.options.token_id)
    command.console.result("Revoked: the token no longer works.")
    return 0


def _use(command: Command) -> int:
    file = command.options.token_file
    token = ask_secret("Token: ", "token", "--token-file") if file is None else secret_in(file, "the token")
    scopes = use_token(command.site(), token)
    command.console.result(f"The profile uses this token now; it allows: {printable(', '.join(scopes))}.")
    return 0
