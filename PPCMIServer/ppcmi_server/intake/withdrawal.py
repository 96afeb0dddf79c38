"""Taking data back, in one transaction: rows and wrapped key gone, models marked, an audit event.

The bytes are deleted once the transaction is kept; what a crash leaves of them, the sweep finds
(:mod:`ppcmi_server.intake.garbage`), and without the cohort's key nobody can read it.
"""

from __future__ import annotations

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from ppcmi_server import audit, clock
from ppcmi_server.database.schema import Case, Chunk, Cohort, Frame, JobCohort, Model
from ppcmi_server.errors import conflict, not_found


def withdraw_cohort(session: Session, cohort: Cohort, actor: str) -> None:
    """Take a cohort back; nothing changes for one that is withdrawn."""
    if cohort.state == "withdrawn":
        return
    _empty(session, cohort)
    audit.record(session, actor, "cohort.withdraw", cohort=cohort.id)


def withdraw_case(session: Session, cohort: Cohort, pseudonym: str, actor: str) -> list[str]:
    """Take one case of a whole cohort back, with the last one the cohort; the blobs to delete.

    :raises RefusalError: 404 without such a case, 409 while the cohort is open.
    """
    if cohort.state == "open":
        raise conflict("cohort-open", "The cohort is not committed yet; withdraw the whole cohort instead.")
    case = session.get(Case, (cohort.id, pseudonym))
    if case is None:
        raise not_found("case")
    if case.withdrawn is not None:
        return []
    frames = list(session.scalars(select(Frame).where(Frame.cohort_id == cohort.id, Frame.pseudonym == pseudonym)))
    for frame in frames:
        session.delete(frame)
    case.withdrawn = clock.now()
    cohort.cases, cohort.slices = cohort.cases - 1, cohort.slices - case.slices
    cohort.stored_bytes = max(0, cohort.stored_bytes - sum(frame.stored_bytes for frame in frames))
    _mark_models(session, cohort.id)
    audit.record(session, actor, "case.withdraw", cohort=cohort.id, case=pseudonym)
    if cohort.cases == 0:
        session.flush()
        _empty(session, cohort)
    return [frame.blob for frame in frames]


def _empty(session: Session, cohort: Cohort) -> None:
    session.execute(delete(Frame).where(Frame.cohort_id == cohort.id))
    session.execute(delete(Chunk).where(Chunk.cohort_id == cohort.id))
    session.execute(
        update(Case).where(Case.cohort_id == cohort.id, Case.withdrawn.is_(None)).values(withdrawn=clock.now())
    )
    cohort.state, cohort.withdrawn = "withdrawn", clock.now()
    cohort.wrapped_key = cohort.header = None
    cohort.cases = cohort.slices = cohort.stored_bytes = 0
    _mark_models(session, cohort.id)


def _mark_models(session: Session, cohort_id: str) -> None:
    """Mark what was trained on a cohort, also a training that is still under way."""
    session.execute(update(JobCohort).where(JobCohort.cohort_id == cohort_id).values(withdrawn=True))
    jobs = select(JobCohort.job_id).where(JobCohort.cohort_id == cohort_id)
    session.execute(update(Model).where(Model.job_id.in_(jobs)).values(withdrawn_data=True))
