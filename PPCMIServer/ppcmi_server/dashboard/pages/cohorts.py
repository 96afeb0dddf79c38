"""Cohorts: what the sites have uploaded, which models saw it, and taking it out of further trainings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Path, Query, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from ppcmi_server.dashboard.guard import UsesChange, UsesVisit
from ppcmi_server.dashboard.pages import page_router
from ppcmi_server.database.schema import Cohort, JobCohort, Model, Site, Task
from ppcmi_server.errors import not_found
from ppcmi_server.intake.cohorts import fits_consortium, set_excluded
from ppcmi_server.training.jobs import note_on_exclusion

CohortId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
SHOWN = 200

router = page_router()


@dataclass(frozen=True)
class CohortFacts:
    """A cohort, whose it is, the models that were trained on it, and whether it fits its consortium as that is now."""

    cohort: Cohort
    site: Site
    task: Task
    models: tuple[Model, ...]
    fits: bool

    @property
    def state(self) -> str:
        """As the operator sees it."""
        if self.cohort.state == "whole" and not self.fits:
            return "earlier codec"
        if self.cohort.state == "whole" and self.cohort.excluded is not None:
            return "excluded"
        return "uploading" if self.cohort.state == "open" else self.cohort.state


@router.get("/cohorts")
def list_cohorts(
    visit: UsesVisit,
    site: Annotated[str, Query(pattern="^([0-9a-f]{16})?$")] = "",
    task: Annotated[str, Query(pattern="^[a-z0-9-]{0,63}$")] = "",
    offset: Annotated[int, Query(ge=0, lt=1 << 31)] = 0,
) -> Response:
    """Cohorts, the newest first."""
    with visit.services.database.reading() as session:
        facts = _facts(session, site, task, offset)
        sites = list(session.scalars(select(Site).where(Site.id.in_(select(Cohort.site_id))).order_by(Site.name)))
        names = list(session.scalars(select(Task.name).order_by(Task.name)))
    return visit.page(
        "cohorts.html", cohorts=facts[:SHOWN], sites=sites, tasks=names, site=site, task=task, offset=offset,
        older=offset + SHOWN if len(facts) > SHOWN else None,
    )  # fmt: skip


@router.post("/cohorts/{cohort_id}/exclude")
def exclude(cohort_id: CohortId, change: UsesChange) -> Response:
    """Leave a cohort out of further trainings."""
    with change.services.database.writing() as session:
        set_excluded(session, cohort_id, True, change.actor)
    with change.services.database.reading() as session:
        note = note_on_exclusion(session, change.services.blobs, cohort_id)
    said = "Further trainings leave the cohort out. Models that saw it stay as they are."
    return change.done("/cohorts", f"{said} {note}".strip())


@router.post("/cohorts/{cohort_id}/include")
def include(cohort_id: CohortId, change: UsesChange) -> Response:
    """Take a cohort into further trainings again."""
    with change.services.database.writing() as session:
        set_excluded(session, cohort_id, False, change.actor)
    return change.done("/cohorts", "Further trainings take the cohort in again.")


@router.get("/cohorts/{cohort_id}/withdraw")
def confirm_withdrawal(cohort_id: CohortId, visit: UsesVisit) -> Response:
    """Ask before a cohort's bytes are deleted."""
    with visit.services.database.reading() as session:
        cohort = session.get(Cohort, cohort_id)
        if cohort is None:
            raise not_found("cohort")
        site, seen = session.get_one(Site, cohort.site_id), _models(session).get(cohort_id, ())
    return visit.page(
        "confirm.html",
        heading="Withdraw this cohort?",
        subject=f"{cohort_id[:8]} of {site.name}",
        sentences=[
            f"Its {cohort.cases} cases are deleted here, with the key that they are stored under. "
            "This cannot be undone; the site would have to export and upload them anew.",
            f"Models that were trained on it stay and are marked: {len(seen)}.",
            "Withdrawing is the site's own right. Do it for a site only when it asks you to; to keep harmful data out "
            "of trainings, exclude the cohort instead.",
        ],
        warnings=[],
        button="Withdraw the cohort",
        action=f"/cohorts/{cohort_id}/withdraw",
        back="/cohorts",
        fields={},
    )


@router.post("/cohorts/{cohort_id}/withdraw")
def withdraw(cohort_id: CohortId, change: UsesChange) -> Response:
    """Delete a cohort for its site."""
    change.services.cohorts.withdraw_by_operator(cohort_id, change.actor)
    return change.done("/cohorts", "The cohort is withdrawn; its bytes and its key are gone.")


def _facts(session: Session, site: str, task: str, offset: int) -> list[CohortFacts]:
    """One more than a page shows, if there are more."""
    wanted = (
        select(Cohort, Site, Task, fits_consortium()).join(Site, Site.id == Cohort.site_id)
        .join(Task, Task.id == Cohort.task_id)
    )  # fmt: skip
    if site:
        wanted = wanted.where(Cohort.site_id == site)
    if task:
        wanted = wanted.where(Task.name == task)
    rows = session.execute(wanted.order_by(Cohort.created.desc(), Cohort.id).offset(offset).limit(SHOWN + 1))
    seen = _models(session)
    return [CohortFacts(cohort, owner, of, seen.get(cohort.id, ()), fits) for cohort, owner, of, fits in rows]


def _models(session: Session) -> dict[str, tuple[Model, ...]]:
    """The models that saw each cohort."""
    rows = session.execute(
        select(JobCohort.cohort_id, Model).join(Model, Model.job_id == JobCohort.job_id).order_by(Model.number)
    )
    seen: dict[str, tuple[Model, ...]] = {}
    for cohort_id, model in rows:
        seen[cohort_id] = (*seen.get(cohort_id, ()), model)
    return seen
