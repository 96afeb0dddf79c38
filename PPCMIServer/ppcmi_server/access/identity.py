"""Sites: enrolment by one-time code, who calls, quota and weight, revocation.

Only the SHA-256 of a code is stored. It has 100 random bits, so a slow hash would add nothing.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from ppcmi.errors import BundleError, SiteError, UsageError
from ppcmi_server import audit, clock
from ppcmi_server.access import tokens
from ppcmi_server.database.schema import EnrolmentCode, Invitation, SharedNetwork, Site, Token
from ppcmi_server.errors import RefusalError, forbidden, not_found, unauthorized, unprocessable
from ppcmi_server.storage.keys import ServerKeys

CODE_ALPHABET = "abcdefghjkmnpqrstuvwxyz023456789"
CODE_GROUPS, CODE_GROUP_SIZE = 5, 4
CODE_DAYS = 7.0
SALT_BYTES = 16
LARGEST_QUOTA = 1000 << 40
LARGEST_WEIGHT = 100.0


@dataclass(frozen=True)
class Caller:
    """The site that makes a request, with what its token allows."""

    site_id: str
    site_name: str
    public_key: bytes = field(repr=False)
    link_salt: bytes = field(repr=False)
    scopes: tuple[str, ...]
    token_id: int = 0
    use: tokens.Use = "noted"
    certificate: str | None = None


@dataclass(frozen=True)
class Enrolment:
    """What a site gets for its code; the token exists nowhere else."""

    site_id: str
    site_name: str
    token: str = field(repr=False)
    link_salt: bytes = field(repr=False)


def add_site(session: Session, name: str, days: float = CODE_DAYS, actor: str = audit.OPERATOR) -> str:
    """A new site's one-time code.

    :raises UsageError: if the name is not usable.
    :raises SiteError: if a site has that name.
    """
    name = name.strip()
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise UsageError("A site's name has 1 to 100 printable characters.")
    if session.scalar(select(Site).where(Site.name == name)) is not None:
        raise SiteError(
            "There is a site of that name; choose another name, or 'ppcmi-server site code' for a new code."
        )
    site = Site(id=secrets.token_hex(8), name=name, created=clock.now())
    session.add(site)
    session.flush()
    audit.record(session, actor, "site.add", site=site.id)
    return _new_code(session, site, days)


def renew_code(session: Session, name: str, days: float = CODE_DAYS, actor: str = audit.OPERATOR) -> str:
    """Another code for a site that has not enrolled; its earlier ones no longer work.

    :raises SiteError: if there is no such site, or it has enrolled.
    """
    site = site_named(session, name)
    if site.public_key is not None:
        raise SiteError("That site has enrolled already; add it under another name to enrol it anew.")
    if site.revoked is not None:
        raise SiteError("That site was revoked; add it under another name.")
    session.execute(
        update(EnrolmentCode).where(EnrolmentCode.site_id == site.id, EnrolmentCode.used.is_(None)).values(used="-")
    )
    audit.record(session, actor, "site.code", site=site.id)
    return _new_code(session, site, days)


def revoke_site(session: Session, name: str, actor: str = audit.OPERATOR) -> list[str]:
    """End a site's access at once: tokens, unused codes and invitations from it no longer work.

    Its cohorts stay until they are withdrawn, as models were trained on them; networks that it shares go, as nobody
    is offered them any longer. Returns their blobs, which are deleted once the transaction is kept.

    :raises SiteError: if there is no such site.
    """
    site = site_named(session, name)
    site.revoked = site.revoked or clock.now()
    session.execute(update(Token).where(Token.site_id == site.id).values(revoked=True))
    session.execute(
        update(EnrolmentCode).where(EnrolmentCode.site_id == site.id, EnrolmentCode.used.is_(None)).values(used="-")
    )
    session.execute(delete(Invitation).where(or_(Invitation.from_id == site.id, Invitation.to_id == site.id)))
    networks = list(session.scalars(select(SharedNetwork).where(SharedNetwork.site_id == site.id)))
    for network in networks:
        session.delete(network)
    audit.record(session, actor, "site.revoke", site=site.id)
    return [network.blob for network in networks]


def enrol(
    session: Session, code: str, public_key: bytes, keys: ServerKeys, certificate: str | None = None
) -> Enrolment:
    """Trade a one-time code for an identity.

    :param certificate: SHA-256 (hex) of the certificate that the site shows; from then on it has to be this one.
    :raises RefusalError: 403 if the code is unknown, used or expired, without saying which; 422 if the key is unusable.
    """
    found = session.scalar(
        select(EnrolmentCode).where(EnrolmentCode.code_hash == tokens.digest_of(code.strip().lower()))
    )
    site = None if found is None else session.get(Site, found.site_id)
    if found is None or site is None or found.used is not None or tokens.is_past(found.expires) or site.revoked:
        raise forbidden("The enrolment code is not valid, or no longer; ask the server's operator for a new one.")
    salt = os.urandom(SALT_BYTES)
    try:
        keys.link_key(site.id, public_key, salt)
    except BundleError as error:
        raise unprocessable("public_key is not a usable X25519 key; make a new one.") from error
    found.used = site.enrolled = clock.now()
    site.public_key, site.link_salt, site.certificate = public_key, salt, certificate
    session.flush()
    _, token = tokens.make_token(session, site.id, tokens.SITE_SCOPES)
    audit.record(session, site.id, "site.enrol", site=site.id)
    return Enrolment(site.id, site.name, token, salt)


def authenticate(session: Session, token: str) -> Caller | None:
    """Whose token it is; None for what is no site's, and for one that is revoked or expired."""
    found = tokens.find_token(session, token)
    if found is None or found.site_id is None or not tokens.is_valid(found):
        return None
    site = session.get_one(Site, found.site_id)
    if site.revoked is not None or site.public_key is None or site.link_salt is None:
        return None
    scopes = tuple(found.scopes)
    return Caller(
        site.id,
        site.name,
        site.public_key,
        site.link_salt,
        scopes,
        found.id,
        tokens.use_of(found),
        site.certificate,
    )


def require_access(session: Session, caller: Caller) -> None:
    """A caller that was let in still has access: a body takes up to half an hour, and much may be revoked meanwhile.

    :raises RefusalError: 401 if its site or token was revoked since.
    """
    revocation = revocation_of(session, session.get_one(Token, caller.token_id))
    if revocation is not None:
        raise revocation


def revocation_of(session: Session, token: Token) -> RefusalError | None:
    """401 for a token that was revoked, or whose site was; None for others, also for one that has expired."""
    if token.site_id is not None and session.get_one(Site, token.site_id).revoked is not None:
        return unauthorized("revoked", "The site's access was revoked; ask the server's operator.")
    if token.revoked:
        return unauthorized("token-ended", "The token was replaced or revoked; take up a new one.")
    return None


def set_quota(session: Session, name: str, quota_bytes: int | None, actor: str = audit.OPERATOR) -> None:
    """Say how much a site may store; None for what the server's settings say.

    :raises SiteError: if there is no such site.
    :raises UsageError: if it is not a size.
    """
    if quota_bytes is not None and not 0 <= quota_bytes <= LARGEST_QUOTA:
        raise UsageError("A quota has from 0 bytes up to 1000T.")
    site = site_named(session, name)
    site.quota_bytes = quota_bytes
    audit.record(session, actor, "site.quota", site=site.id, bytes="default" if quota_bytes is None else quota_bytes)


def set_weight(session: Session, name: str, weight: float, actor: str = audit.OPERATOR) -> None:
    """Say how much each of a site's slices counts in further trainings, beside 1 for others.

    :raises SiteError: if there is no such site.
    :raises UsageError: if it is no weight.
    """
    if not 0 <= weight <= LARGEST_WEIGHT:  # so is what is no number
        raise UsageError(f"A weight is a number from 0 to {LARGEST_WEIGHT:g}.")
    site = site_named(session, name)
    site.weight = float(weight)
    audit.record(session, actor, "site.weight", site=site.id, weight=f"{weight:g}")


def bind_certificate(session: Session, site_id: str, certificate: str) -> str:
    """Bind a site to the certificate that it shows, unless it is bound to one; the one that it is bound to."""
    site = session.get_one(Site, site_id)
    if site.certificate is None:
        site.certificate = certificate
        audit.record(session, site_id, "site.certificate", site=site_id)
    return site.certificate


def forget_certificate(session: Session, name: str, actor: str = audit.OPERATOR) -> None:
    """Let a site come with another certificate: the next one that it shows is the one.

    :raises SiteError: if there is no such site.
    """
    site = site_named(session, name)
    site.certificate = None
    audit.record(session, actor, "site.forget-certificate", site=site.id)


def tokens_of(session: Session, site_id: str) -> list[Token]:
    """A site's tokens, also those that are valid no longer, in the order they were made."""
    return list(session.scalars(select(Token).where(Token.site_id == site_id).order_by(Token.id)))


def site_named(session: Session, name: str) -> Site:
    """A site by its name, for the operator.

    :raises SiteError: if there is no such site.
    """
    site = session.scalar(select(Site).where(Site.name == name.strip()))
    if site is None:
        raise SiteError("There is no site of that name; 'ppcmi-server site list' shows those there are.")
    return site


def find_site(session: Session, name: str) -> Site:
    """An enrolled site by its name.

    :raises RefusalError: 404.
    """
    site = session.scalar(select(Site).where(Site.name == name))
    if site is None or site.public_key is None or site.revoked is not None:
        raise not_found("site")
    return site


def list_sites(session: Session) -> list[Site]:
    """Every site, by name."""
    return list(session.scalars(select(Site).order_by(Site.name)))


def _new_code(session: Session, site: Site, days: float) -> str:
    if not 0 < days <= 365:
        raise UsageError("A code is valid for up to 365 days.")
    groups = ("".join(secrets.choice(CODE_ALPHABET) for _ in range(CODE_GROUP_SIZE)) for _ in range(CODE_GROUPS))
    code = "-".join(groups)
    session.add(EnrolmentCode(site_id=site.id, code_hash=tokens.digest_of(code), expires=clock.in_future(days)))
    return code
