"""What the pages show of a site: its state, what it holds of its quota, when it was last seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ppcmi import sealing
from ppcmi_server import clock
from ppcmi_server.access import tokens
from ppcmi_server.config import ServerConfig
from ppcmi_server.database.schema import Cohort, EnrolmentCode, Member, Site, Task, Token
from ppcmi_server.intake.quota import stored_by_site

NEAR_QUOTA = 0.9


@dataclass(frozen=True)
class SiteFacts:
    """A site with what it holds.

    :param last_seen: when a token of its was last used, to the hour.
    :param code_until: how long an unused enrolment code works.
    """

    site: Site
    state: str
    fingerprint: str | None
    tasks: tuple[str, ...]
    cohorts: int
    stored_bytes: int
    quota_bytes: int
    own_quota: bool
    tokens: tuple[Token, ...]
    last_seen: str | None
    code_until: str | None

    @property
    def share(self) -> float:
        """How much of its quota is used."""
        return self.stored_bytes / self.quota_bytes if self.quota_bytes else 1.0

    @property
    def near_quota(self) -> bool:
        """Whether it will soon be refused."""
        return self.share >= NEAR_QUOTA


def site_facts(session: Session, config: ServerConfig, sites: Sequence[Site]) -> list[SiteFacts]:
    """What is known of the sites, in their order."""
    stored = stored_by_site(session)
    cohorts = _cohorts(session)
    members: dict[str, list[str]] = {}
    of_members = select(Member.site_id, Task.name).join(Task, Task.id == Member.task_id).order_by(Task.name)
    for site_id, task in session.execute(of_members):
        members.setdefault(site_id, []).append(task)
    held: dict[str, list[Token]] = {}
    for token in session.scalars(select(Token).where(Token.site_id.is_not(None)).order_by(Token.id)):
        held.setdefault(token.site_id or "", []).append(token)
    codes = _codes(session)
    default = config.storage.site_quota_bytes
    return [
        SiteFacts(
            site=site,
            state=_state(site),
            fingerprint=None if site.public_key is None else sealing.fingerprint(site.public_key),
            tasks=tuple(members.get(site.id, ())),
            cohorts=cohorts.get(site.id, 0),
            stored_bytes=stored.get(site.id, 0),
            quota_bytes=default if site.quota_bytes is None else site.quota_bytes,
            own_quota=site.quota_bytes is not None,
            tokens=tuple(token for token in held.get(site.id, ()) if tokens.is_valid(token)),
            last_seen=max((token.last_used for token in held.get(site.id, ()) if token.last_used), default=None),
            code_until=codes.get(site.id),
        )
        for site in sites
    ]


def site_names(session: Session) -> dict[str, str]:
    """Every site's name, by its id."""
    return {site.id: site.name for site in session.scalars(select(Site))}


def _codes(session: Session) -> dict[str, str]:
    """Until when each site has an enrolment code that works."""
    usable = select(EnrolmentCode.site_id, func.max(EnrolmentCode.expires)).where(
        EnrolmentCode.used.is_(None), EnrolmentCode.expires > clock.now()
    )
    return {row[0]: row[1] for row in session.execute(usable.group_by(EnrolmentCode.site_id))}


def _cohorts(session: Session) -> dict[str, int]:
    """How many cohorts each site has that were not withdrawn."""
    query = select(Cohort.site_id, func.count()).where(Cohort.state != "withdrawn").group_by(Cohort.site_id)
    return {site_id: int(count) for site_id, count in session.execute(query)}


def _state(site: Site) -> str:
    if site.revoked is not None:
        return "revoked"
    return "invited" if site.public_key is None else "enrolled"
