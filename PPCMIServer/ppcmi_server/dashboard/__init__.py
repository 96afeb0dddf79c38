"""The operator's dashboard: pages that the server renders itself, at ``/dashboard``.

No build step, nothing from other servers, and no script that a page needs. Every page is behind a login with an
operator's token; what changes something is a form with the login's token in it, and calls the same functions as
the command line.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import FastAPI
from jinja2 import Environment

from ppcmi_server.dashboard.chain import CheckedChain
from ppcmi_server.dashboard.login import Logins
from ppcmi_server.dashboard.notices import Notices
from ppcmi_server.dashboard.pages import (
    access,
    cohorts,
    files,
    jobs,
    load,
    models,
    operators,
    overview,
    records,
    sites,
    tasks,
)
from ppcmi_server.dashboard.rendering import make_environment
from ppcmi_server.services import Services


@dataclass(frozen=True)
class Dashboard:
    """What its pages share; in ``app.state.dashboard``."""

    environment: Environment
    logins: Logins
    notices: Notices
    chain: CheckedChain


def add_dashboard(app: FastAPI) -> None:
    """Serve the pages; ``app.state.services`` is there already."""
    services: Services = app.state.services
    app.state.dashboard = Dashboard(make_environment(), Logins(services.config.dashboard), Notices(), CheckedChain())
    for module in (access, overview, sites, tasks, cohorts, jobs, models, records, load, operators, files):
        app.include_router(module.router)  # files is the last: it has the page for addresses that there are not
