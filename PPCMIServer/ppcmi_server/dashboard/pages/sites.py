"""Sites: who may take part, what each holds, and what the operator can change about it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Response
from sqlalchemy.orm import Session

from ppcmi_server.access import identity
from ppcmi_server.dashboard.guard import Change, UsesChange, UsesVisit
from ppcmi_server.dashboard.pages import page_router
from ppcmi_server.dashboard.site_facts import site_facts
from ppcmi_server.database.schema import Site
from ppcmi_server.errors import not_found
from ppcmi_server.settings import GIBIBYTE

SiteId = Annotated[str, Path(pattern="^[0-9a-f]{16}$")]
CODE_STEPS = (
    "Tell it to the site on a way that you trust: by telephone, or in person.",
    "The site types it in 3D Slicer, in the Site panel of PPCMI Segment, or into 'ppcmi site init --code ...'.",
    "It works once, for seven days. Compare the site's fingerprint by telephone afterwards.",
)

router = page_router()


@router.get("/sites")
def list_sites(visit: UsesVisit) -> Response:
    """Every site, and the form for another."""
    with visit.services.database.reading() as session:
        facts = site_facts(session, visit.services.config, identity.list_sites(session))
    return visit.page("sites.html", sites=facts)


@router.post("/sites")
def add_site(change: UsesChange) -> Response:
    """Add a site; its code is shown once."""
    with change.services.database.writing() as session:
        code = identity.add_site(session, change.form.text("name"), actor=change.actor)
    return change.done(
        "/sites", "The site is added. This is its one-time code; it is shown this once.", code, CODE_STEPS
    )


@router.get("/sites/{site_id}")
def show_site(site_id: SiteId, visit: UsesVisit) -> Response:
    """One site."""
    with visit.services.database.reading() as session:
        (facts,) = site_facts(session, visit.services.config, [_site(session, site_id)])
    return visit.page("site.html", facts=facts, gibibyte=GIBIBYTE)


@router.post("/sites/{site_id}/code")
def renew_code(site_id: SiteId, change: UsesChange) -> Response:
    """Another code for a site that has not enrolled."""
    with change.services.database.writing() as session:
        code = identity.renew_code(session, _site(session, site_id).name, actor=change.actor)
    return change.done(
        f"/sites/{site_id}", "This is the new one-time code; earlier ones no longer work. It is shown this once.",
        code, CODE_STEPS,
    )  # fmt: skip


@router.post("/sites/{site_id}/quota")
def set_quota(site_id: SiteId, change: UsesChange) -> Response:
    """Set what a site may store, in GiB; empty for the server's own setting."""
    gibibytes = change.form.number("gibibytes")
    quota = None if gibibytes is None else round(gibibytes * GIBIBYTE)
    with change.services.database.writing() as session:
        identity.set_quota(session, _site(session, site_id).name, quota, actor=change.actor)
    return _changed(change, site_id, "The quota is set.")


@router.post("/sites/{site_id}/weight")
def set_weight(site_id: SiteId, change: UsesChange) -> Response:
    """Set how much a site's slices count in training."""
    weight = change.form.number("weight")
    with change.services.database.writing() as session:
        identity.set_weight(
            session, _site(session, site_id).name, 1.0 if weight is None else weight, actor=change.actor
        )
    return _changed(change, site_id, "The weight is set; it counts from the next training on.")


@router.get("/sites/{site_id}/revoke")
def confirm_revocation(site_id: SiteId, visit: UsesVisit) -> Response:
    """Ask before a site is revoked."""
    with visit.services.database.reading() as session:
        (facts,) = site_facts(session, visit.services.config, [_site(session, site_id)])
    return visit.page(
        "confirm.html",
        heading="Revoke this site?",
        subject=facts.site.name,
        sentences=[
            "Its tokens and unused codes stop working at once: it can neither segment nor upload any longer.",
            "This cannot be undone. To take part again it has to be added under another name.",
            f"Its cohorts stay and are trained on; it has {facts.cohorts}. "
            "Withdraw or exclude them on the page of cohorts.",
        ],
        warnings=[],
        button="Revoke the site",
        action=f"/sites/{site_id}/revoke",
        back=f"/sites/{site_id}",
        fields={},
    )


@router.post("/sites/{site_id}/revoke")
def revoke_site(site_id: SiteId, change: UsesChange) -> Response:
    """End a site's access."""
    with change.services.database.writing() as session:
        unneeded = identity.revoke_site(session, _site(session, site_id).name, actor=change.actor)
    for blob in unneeded:
        change.services.blobs.delete(blob)
    return _changed(change, site_id, "The site is revoked; its tokens no longer work.")


def _site(session: Session, site_id: str) -> Site:
    site = session.get(Site, site_id)
    if site is None:
        raise not_found("site")
    return site


def _changed(change: Change, site_id: str, sentence: str) -> Response:
    return change.done(f"/sites/{site_id}", sentence)
