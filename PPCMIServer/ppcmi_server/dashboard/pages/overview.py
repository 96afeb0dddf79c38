"""Overview: is it well, and what must I do?"""

from __future__ import annotations

from fastapi import Request, Response
from sqlalchemy import select

from ppcmi_server import tasks
from ppcmi_server.access import identity
from ppcmi_server.dashboard.attention import concerns
from ppcmi_server.dashboard.guard import UsesVisit
from ppcmi_server.dashboard.pages import page_router
from ppcmi_server.dashboard.site_facts import site_facts
from ppcmi_server.dashboard.task_facts import task_facts
from ppcmi_server.dashboard.training import job_facts
from ppcmi_server.database.schema import Job, Task
from ppcmi_server.training import jobs

router = page_router()


@router.get("")
def show_overview(request: Request, visit: UsesVisit) -> Response:
    """The first page."""
    config, alive = visit.services.config, request.app.state.mapper.alive
    with visit.services.database.reading() as session:
        sites = site_facts(session, config, identity.list_sites(session))
        unfinished = session.execute(
            select(Job, Task).join(Task, Task.id == Job.task_id).where(Job.state.in_(jobs.UNFINISHED)).order_by(Job.id)
        )
        content = {
            "concerns": concerns(session, config, sites, request.app.state.dashboard.chain.lately(session), alive),
            "tasks": [task_facts(session, task) for task in tasks.list_tasks(session)],
            "jobs": [job_facts(session, config, job, task) for job, task in unfinished],
            "stored": sum(facts.stored_bytes for facts in sites),
        }
    disks = visit.services.cohorts.room.disks()
    return visit.page("overview.html", sites=sites, load=visit.services.metrics.load(), disks=disks, **content)
