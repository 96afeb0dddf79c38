"""Log in, log out."""

from __future__ import annotations

import re

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from ppcmi_server.access.operators import authenticate_operator
from ppcmi_server.access.site_tokens import note_use
from ppcmi_server.api.access import UsesServices, address_of, failed_attempts_of
from ppcmi_server.dashboard.forms import read_form
from ppcmi_server.dashboard.guard import SEE_OTHER, UsesChange
from ppcmi_server.dashboard.login import SCOPE, Logins
from ppcmi_server.dashboard.origin import cookie_name, is_encrypted, require_own_page
from ppcmi_server.dashboard.pages import page_router
from ppcmi_server.dashboard.rendering import ROOT, render
from ppcmi_server.services import Services

WRONG = "That token does not open the dashboard; it takes a valid one of an operator with the scope 'operate'."
_PAGE = re.compile(re.escape(ROOT) + r"(/[A-Za-z0-9_-]+)*")

router = page_router()


@router.get("/login")
def show_login(request: Request) -> Response:
    """The form."""
    return _form(request, request.query_params.get("next", ""), 200, None)


@router.post("/login")
async def log_in(request: Request, services: UsesServices) -> Response:
    """Begin a login: a new cookie each time, never one that the browser brought along."""
    require_own_page(request)
    form = await read_form(request)
    attempts, address = failed_attempts_of(request), address_of(request)
    attempts.require_room(address)
    cookie = await run_in_threadpool(_begin, services, request.app.state.dashboard.logins, form.text("token"))
    if cookie is None:
        attempts.note(address)
        return _form(request, form.text("next"), 403, WRONG)
    answer = RedirectResponse(_page_or_overview(form.text("next")), SEE_OTHER)
    answer.set_cookie(
        cookie_name(request), cookie, path=ROOT, httponly=True, samesite="strict", secure=is_encrypted(request),
        max_age=int(request.app.state.dashboard.logins.lifetime_s),
    )  # fmt: skip
    return answer


@router.post("/logout")
def log_out(request: Request, change: UsesChange) -> Response:
    """End the login, here and at the server."""
    dashboard = request.app.state.dashboard
    with change.services.database.writing() as session:
        dashboard.logins.end(session, change.login)
    dashboard.notices.forget(change.login)
    answer = RedirectResponse(f"{ROOT}/login", SEE_OTHER)
    answer.delete_cookie(
        cookie_name(request), path=ROOT, httponly=True, samesite="strict", secure=is_encrypted(request)
    )
    return answer


def _begin(services: Services, logins: Logins, token: str) -> str | None:
    """The new cookie, or None: whatever is wrong with the token, the answer is the same."""
    with services.database.reading() as session:
        operator = authenticate_operator(session, token)
    if operator is None or SCOPE not in operator.scopes:
        return None
    with services.database.writing() as session:
        note_use(session, operator.token_id)
        return logins.begin(session, operator)


def _form(request: Request, next_page: str, status: int, problem: str | None) -> Response:
    return render(request, "login.html", status, visit=None, next_page=_page_or_overview(next_page), problem=problem)


def _page_or_overview(path: str) -> str:
    """A page of the dashboard, whatever an address asks for."""
    return path if _PAGE.fullmatch(path) and len(path) <= 200 else ROOT
