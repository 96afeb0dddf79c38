"""Bearer tokens of sites and operators: what they may be used for, and until when.

A token is 256 random bits and only its SHA-256 is stored, so a slow hash would add nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from ppcmi.errors import UsageError
from ppcmi_server import clock
from ppcmi_server.database.schema import Token

SITE_SCOPES = ("segment", "contribute", "validate")
"""Map bundles; found, invite, join, publish and upload; report scores. What any of them needs to see, each may."""
OPERATOR_SCOPES = ("operate", "observe")
"""Change what the server does; only look at it, as a monitoring system does."""
TOKEN_BYTES = 32
LONGEST_TOKEN = 200
LABEL_LETTERS = 60
LONGEST_DAYS = 3650.0
LEEWAY_S = 60.0
"""By how much clocks may differ, or jump, before a token or code counts as expired."""
USE_NOTED_EVERY_S = 3600.0

Use = Literal["first", "news", "noted"]


def digest_of(secret: str) -> bytes:
    """What is stored of a token, code or cookie: its SHA-256."""
    return hashlib.sha256(secret.encode()).digest()


def make_token(
    session: Session, site_id: str | None, scopes: Sequence[str], label: str = "", days: float | None = None
) -> tuple[Token, str]:
    """A new token and its text, which exists nowhere else.

    :param site_id: whose it is; None for an operator's.
    :param days: how long it works; None for until it is revoked.
    :raises UsageError: if label, scopes or days are not usable.
    """
    allowed = OPERATOR_SCOPES if site_id is None else SITE_SCOPES
    if not scopes or not set(scopes) <= set(allowed):
        raise UsageError(f"A token's scopes are among: {', '.join(allowed)}.")
    if len(label) > LABEL_LETTERS or not label.isprintable():
        raise UsageError(f"A token's label has up to {LABEL_LETTERS} printable characters.")
    if days is not None and not 0 < days <= LONGEST_DAYS:
        raise UsageError(f"A token is valid for up to {LONGEST_DAYS:g} days.")
    text = secrets.token_urlsafe(TOKEN_BYTES)
    token = Token(
        site_id=site_id,
        token_hash=digest_of(text),
        scopes=[scope for scope in allowed if scope in scopes],
        label=label,
        created=clock.now(),
        expires=None if days is None else clock.in_future(days),
    )
    session.add(token)
    session.flush()  # it needs its id: that is what the audit log names
    return token, text


def find_token(session: Session, text: str) -> Token | None:
    """The token of that text, whether or not it is still valid."""
    if not 0 < len(text) <= LONGEST_TOKEN or not text.isascii():
        return None
    digest = digest_of(text)
    found = session.scalar(select(Token).where(Token.token_hash == digest))
    return found if found is not None and hmac.compare_digest(found.token_hash, digest) else None


def is_valid(token: Token) -> bool:
    """Whether it is neither revoked nor expired."""
    return not token.revoked and not is_past(token.expires)


def is_past(moment: str | None) -> bool:
    """Whether a moment at which something expires is over, with leeway; None never is."""
    return moment is not None and moment <= clock.ago(LEEWAY_S)


def use_of(token: Token) -> Use:
    """Whether using it now is its first use, or one that should be noted since the last was noted long ago."""
    if token.last_used is None:
        return "first"
    return "news" if token.last_used <= clock.ago(USE_NOTED_EVERY_S) else "noted"
