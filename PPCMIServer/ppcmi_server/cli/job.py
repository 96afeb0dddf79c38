"""``ppcmi-server job``: trainings, under way and past."""

from __future__ import annotations

from ppcmi.cli.parsers import Groups, add_group
from ppcmi_server import jobs
from ppcmi_server.cli.options import Command, add_command
from ppcmi_server.database.schema import Job
from ppcmi_server.models import curve


def add_parsers(groups: Groups) -> None:
    """The group's commands."""
    group = add_group(groups, "job", "Training jobs.")
    add_command(group, "list", _list, "Every training job and how far it is.", "ppcmi-server job list")
    parser = add_command(
        group, "stop", _stop, "Stop a training for good; no model comes of it.", "ppcmi-server job stop 3"
    )
    parser.add_argument("number", type=int, metavar="N", help="the job's number")


def _list(command: Command) -> int:
    with command.database.reading() as session:
        rows = [
            [str(job.id), task.name, f"{len(curve(session, job.id))}/{job.config['epochs']}", _state(command, job)]
            for job, task in jobs.list_jobs(session)
        ]
    command.console.table(("Job", "Task", "Epochs", "State"), rows)
    return 0


def _stop(command: Command) -> int:
    with command.database.writing() as session:
        waits = jobs.request_stop(session, command.config, command.options.number)
    command.console.result("It ends within a few seconds." if waits else "Stopped.")
    return 0


def _state(command: Command, job: Job) -> str:
    if job.state == "running" and not jobs.is_running(command.config, job):
        return "interrupted"
    return f"{job.state}: {job.message}" if job.state == "failed" else job.state
