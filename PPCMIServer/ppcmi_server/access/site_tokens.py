"""A site's own tokens: replaced without a moment in which none works, and narrower ones for its workstations.

A replaced token goes on working until an hour after its successor was first used: a site that never got the answer with
the new one has lost nothing. It ends at once when the site says that it has the new one (:func:`retire`).
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from ppcmi.errors import UsageError
from ppcmi_server import audit, clock
from ppcmi_server.access import tokens
from ppcmi_server.access.identity import Caller, tokens_of
from ppcmi_server.database.schema import Token
from ppcmi_server.errors import conflict, forbidden, not_found, unprocessable

OVERLAP_S = 3600.0
MOST_TOKENS = 100
ID_BYTES = 8


def rotate(session: Session, caller: Caller) -> str:
    """A token with the same scopes, label and expiry, to be used instead of the caller's.

    :raises RefusalError: 409 if it was replaced already and the successor is in use.
    """
    old = session.get_one(Token, caller.token_id)
    earlier = list(session.scalars(select(Token).where(Token.replaces == old.id, Token.revoked.is_(False))))
    if any(successor.last_used is not None for successor in earlier):
        raise conflict("token-replaced", "The token was replaced already, and the new one is in use; use that one.")
    for successor in earlier:
        successor.revoked = True  # nobody got it: whoever asks again has the old one still
    made, text = tokens.make_token(session, caller.site_id, old.scopes, old.label)
    made.expires, made.replaces = old.expires, old.id
    audit.record(session, caller.site_id, "token.rotate", token=public_id(made), replaces=public_id(old))
    return text


def retire(session: Session, caller: Caller) -> None:
    """End the token that the caller's replaced; nothing changes if there is none, or it has ended."""
    old = _replaced_by(session, session.get_one(Token, caller.token_id))
    if old is not None and not old.revoked:
        old.revoked = True
        audit.record(session, caller.site_id, "token.retire", token=public_id(old))


def note_use(session: Session, token_id: int) -> None:
    """Note that a token is in use now; with the first use of a successor the overlap begins."""
    token = session.get_one(Token, token_id)
    old = _replaced_by(session, token) if token.last_used is None else None
    if old is not None:
        end = clock.in_future(OVERLAP_S / 86400)
        old.expires = end if old.expires is None else min(old.expires, end)
    token.last_used = clock.now()


def add(session: Session, caller: Caller, label: str, scopes: Sequence[str], days: float | None) -> tuple[Token, str]:
    """A token for one of the site's workstations, and its text, which is shown once.

    :raises RefusalError: 403 if the caller's own is a narrower one, 409 if there are too many, 422 if it cannot be so.
    """
    _require_all_scopes(caller)
    if sum(tokens.is_valid(token) for token in tokens_of(session, caller.site_id)) >= MOST_TOKENS:
        raise conflict("too-many-tokens", f"A site has at most {MOST_TOKENS} tokens; revoke one first.")
    try:
        made, text = tokens.make_token(session, caller.site_id, scopes, label, days)
    except UsageError as error:
        raise unprocessable(str(error)) from error
    audit.record(session, caller.site_id, "token.add", token=public_id(made), scopes=",".join(made.scopes))
    return made, text


def valid_tokens(session: Session, caller: Caller) -> list[Token]:
    """The site's tokens that work.

    :raises RefusalError: 403 if the caller's own is a narrower one.
    """
    _require_all_scopes(caller)
    return [token for token in tokens_of(session, caller.site_id) if tokens.is_valid(token)]


def revoke(session: Session, caller: Caller, token_id: str) -> None:
    """End one of the site's tokens; again changes nothing.

    :param token_id: as :func:`public_id` has it.
    :raises RefusalError: 403 if the caller's own is a narrower one, 404 if the site has no such token, 409 if it is the
        caller's own.
    """
    _require_all_scopes(caller)
    found = [token for token in tokens_of(session, caller.site_id) if public_id(token) == token_id]
    if not found:
        raise not_found("token")
    if found[0].id == caller.token_id:
        raise conflict("own-token", "This is the token that you call with; replace it instead.")
    if not found[0].revoked:
        found[0].revoked = True
        audit.record(session, caller.site_id, "token.revoke", token=token_id)


def public_id(token: Token) -> str:
    """What a token is called outside of the server: random as the token is, and no use without it."""
    return token.token_hash[:ID_BYTES].hex()


def _replaced_by(session: Session, token: Token) -> Token | None:
    return None if token.replaces is None else session.get(Token, token.replaces)


def _require_all_scopes(caller: Caller) -> None:
    if set(caller.scopes) != set(tokens.SITE_SCOPES):
        raise forbidden("The site's tokens are managed with a token that has every scope.")
