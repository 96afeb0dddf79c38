"""Operators: people and programs that run the server, each with a token of their own.

The command line on the server's machine needs none; the dashboard and ``/metrics`` do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from ppcmi.errors import UsageError
from ppcmi_server import audit
from ppcmi_server.access import tokens
from ppcmi_server.database.schema import Token
from ppcmi_server.errors import OperatorError


@dataclass(frozen=True)
class Operator:
    """An operator who makes a request, with what the token allows."""

    token_id: int
    label: str
    scopes: tuple[str, ...]
    use: tokens.Use = "noted"

    @property
    def actor(self) -> str:
        """Who it is in the audit log."""
        return f"{audit.OPERATOR}-{self.token_id}"


def add_operator(
    session: Session,
    label: str,
    scopes: Sequence[str] = tokens.OPERATOR_SCOPES,
    days: float | None = None,
    actor: str = audit.OPERATOR,
) -> str:
    """A new operator's token, which is shown once.

    :param label: who or what it is for.
    :param days: how long it works; None for until it is revoked.
    :raises UsageError: if label, scopes or days are not usable.
    """
    label = label.strip()
    if not label:
        raise UsageError("An operator has a label; say who or what the token is for.")
    token, text = tokens.make_token(session, None, scopes, label, days)
    audit.record(session, actor, "operator.add", token=token.id, scopes=",".join(token.scopes))
    return text


def authenticate_operator(session: Session, token: str) -> Operator | None:
    """Whose token it is; None for what is no operator's, and for one that is revoked or expired."""
    return _as_operator(tokens.find_token(session, token))


def operator_of(session: Session, token_id: int) -> Operator | None:
    """The operator of a token, if it is valid still: for logins, which end with their token."""
    return _as_operator(session.get(Token, token_id))


def list_operators(session: Session) -> list[Token]:
    """Every operator's token, also those that are valid no longer, in the order they were made."""
    return list(session.scalars(select(Token).where(Token.site_id.is_(None)).order_by(Token.id)))


def revoke_operator(session: Session, token_id: int, actor: str = audit.OPERATOR) -> None:
    """End an operator's access, logins included, at the next request.

    :raises OperatorError: if there is no such operator.
    """
    token = session.get(Token, token_id)
    if token is None or token.site_id is not None:
        raise OperatorError("There is no operator of that number; 'ppcmi-server operator list' shows those there are.")
    token.revoked = True
    audit.record(session, actor, "operator.revoke", token=token_id)


def _as_operator(token: Token | None) -> Operator | None:
    if token is None or token.site_id is not None or not tokens.is_valid(token):
        return None
    return Operator(token.id, token.label, tuple(token.scopes), tokens.use_of(token))
