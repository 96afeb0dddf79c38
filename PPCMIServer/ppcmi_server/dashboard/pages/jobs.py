"""Training jobs: the queue, one job with its live curve and its report, and what can be asked of it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from ppcmi.errors import UsageError
from ppcmi.scales import PRIVACY_PROFILES, Profile
from ppcmi_server import tasks
from ppcmi_server.dashboard.guard import Change, UsesChange, UsesVisit
from ppcmi_server.dashboard.pages import page_router
from ppcmi_server.dashboard.training import job_facts, job_rows, suspects, usable_cohorts
from ppcmi_server.database.schema import Job, Site, Task
from ppcmi_server.errors import conflict, not_found
from ppcmi_server.intake.cohorts import set_excluded
from ppcmi_server.training import jobs
from ppcmi_server.training.checkpoints import delete_checkpoints

Number = Annotated[int, Path(ge=1, lt=1 << 31)]
SHOWN = 100

router = page_router()


@router.get("/jobs")
def list_jobs(visit: UsesVisit, before: Annotated[int | None, Query(ge=1, lt=1 << 31)] = None) -> Response:
    """Every job, the newest first, and the form for another."""
    with visit.services.database.reading() as session:
        rows = job_rows(session, visit.services.config, SHOWN + 1, before)
        names = [task.name for task in tasks.list_tasks(session)]
    return visit.page(
        "jobs.html", jobs=rows[:SHOWN], tasks=names, profiles=[str(p) for p in PRIVACY_PROFILES],
        workers=visit.services.config.training.workers,
        older=rows[SHOWN - 1].job.id if len(rows) > SHOWN else None,
    )  # fmt: skip


@router.post("/jobs")
def start_job(change: UsesChange) -> Response:
    """Queue a training."""
    form, profile = change.form, change.form.text("profile")
    if profile and profile not in PRIVACY_PROFILES:
        raise UsageError("There is no such privacy profile; choose one of the list.")
    request = jobs.TrainingRequest(
        preset="paper" if form.text("preset") == "paper" else None,
        profile=Profile(profile) if profile else None,
        epochs=form.whole_number("epochs"),
        seed=form.whole_number("seed"),
    )
    with change.services.database.writing() as session:
        job, new = jobs.queue_job(session, tasks.find_task(session, form.text("task")), request, actor=change.actor)
        number = job.id
    return change.done(f"/jobs/{number}", "The training is queued." if new else "This training is under way already.")


@router.get("/jobs/{number}")
def show_job(number: Number, visit: UsesVisit) -> Response:
    """One job."""
    with visit.services.database.reading() as session:
        facts = job_facts(session, visit.services.config, *_job(session, number))
    return visit.page("job.html", facts=facts)


@router.get("/jobs/{number}/live")
def show_progress(number: Number, visit: UsesVisit) -> Response:
    """The part of a job's page that changes while it trains."""
    with visit.services.database.reading() as session:
        facts = job_facts(session, visit.services.config, *_job(session, number))
    return visit.part("job_live.html", facts=facts)


@router.post("/jobs/{number}/pause")
def pause(number: Number, change: UsesChange) -> Response:
    """Have a job paused."""
    with change.services.database.writing() as session:
        jobs.request_pause(session, number, actor=change.actor)
    return _asked(change, number, "The training pauses after the batch that it is at.")


@router.post("/jobs/{number}/resume")
def resume(number: Number, change: UsesChange) -> Response:
    """Have a job go on."""
    with change.services.database.writing() as session:
        jobs.resume(session, number, actor=change.actor)
    return _asked(change, number, "The training goes on from its checkpoint when it is its turn.")


@router.get("/jobs/{number}/stop")
def confirm_stop(number: Number, visit: UsesVisit) -> Response:
    """Ask before a training's work is thrown away."""
    with visit.services.database.reading() as session:
        job, task = _job(session, number)
    return visit.page(
        "confirm.html",
        heading="Stop this training?",
        subject=f"Job {job.id}, {task.name}",
        sentences=[
            "It ends within seconds and no model comes of it; what it has learned so far is deleted.",
            "To go on later, pause it instead.",
        ],
        warnings=[],
        button="Stop the training",
        action=f"/jobs/{number}/stop",
        back=f"/jobs/{number}",
        fields={},
    )


@router.post("/jobs/{number}/stop")
def stop(number: Number, change: UsesChange) -> Response:
    """Have a job stopped for good."""
    with change.services.database.writing() as session:
        jobs.request_stop(session, number, actor=change.actor)
    delete_checkpoints(change.services.blobs, number)
    return _asked(change, number, "The training is stopped, or will be within seconds.")


@router.get("/jobs/{number}/without/{site_id}")
def confirm_exclusion(
    number: Number, site_id: Annotated[str, Path(pattern="^[0-9a-f]{16}$")], visit: UsesVisit
) -> Response:
    """Ask before a site's cohorts are excluded and a training begins without them."""
    with visit.services.database.reading() as session:
        job, task = _job(session, number)
        site = session.get(Site, site_id)
        if site is None:
            raise not_found("site")
        cohorts = usable_cohorts(session, task.id, site_id)
        suspect = site_id in suspects(job)
    slices = sum(cohort.slices for cohort in cohorts)
    return visit.page(
        "confirm.html",
        heading="Train anew without this site?",
        subject=site.name,
        sentences=[
            f"Its cohorts of task {task.name} are excluded: {len(cohorts)}, with {slices:,} slices. They stay stored, "
            "and can be included again on the page of cohorts.",
            f"Then a training with the options of job {number} is queued on what the other sites have uploaded.",
            "Nothing changes for the active model until you activate another. Talk to the site: its labels or its "
            "export may be wrong without anybody's intention.",
        ],
        warnings=[] if suspect else ["The report of this job does not call the site suspect."],
        button="Exclude and train anew",
        action=f"/jobs/{number}/without/{site_id}",
        back=f"/jobs/{number}",
        fields={},
    )


@router.post("/jobs/{number}/without/{site_id}")
def train_without(
    number: Number, site_id: Annotated[str, Path(pattern="^[0-9a-f]{16}$")], change: UsesChange
) -> Response:
    """Exclude a site's cohorts of the job's task and queue the same training without them: both, or neither."""
    with change.services.database.writing() as session:
        job, task = _job(session, number)
        _require_ended(session, task)
        for cohort in usable_cohorts(session, task.id, site_id):
            set_excluded(session, cohort.id, True, change.actor)
        session.flush()
        anew, _ = jobs.queue_job(session, task, _same_request(job), actor=change.actor)
        queued = anew.id
    return change.done(f"/jobs/{queued}", "The site's cohorts are excluded, and the training without them is queued.")


def _job(session: Session, number: int) -> tuple[Job, Task]:
    job = session.get(Job, number)
    if job is None:
        raise not_found("job")
    return job, session.get_one(Task, job.task_id)


def _require_ended(session: Session, task: Task) -> None:
    """A task has one unfinished job at a time, which has its cohorts already."""
    unfinished = select(Job.id).where(Job.task_id == task.id, Job.state.in_(jobs.UNFINISHED)).limit(1)
    if session.scalar(unfinished) is not None:
        raise conflict("job-unfinished", "Another training of this task is unfinished; stop it, or let it end first.")


def _same_request(job: Job) -> jobs.TrainingRequest:
    """What was asked of a job, for another; how long it takes is left to the preset where it was."""
    config = jobs.config_of(job)
    return jobs.TrainingRequest(
        preset=config.preset,
        profile=config.profile,
        epochs=None if config.minimum_steps else config.epochs,
        seed=config.seed,
    )


def _asked(change: Change, number: int, sentence: str) -> Response:
    return change.done(f"/jobs/{number}", sentence)
