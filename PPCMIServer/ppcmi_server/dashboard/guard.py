"""What stands before every page: who is logged in, whether a form is our own, and errors as pages."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ppcmi.errors import PpcmiError, SiteError, TaskError, TrainingError, UsageError
from ppcmi_server.api.storage_problems import refusal_of
from ppcmi_server.dashboard.forms import Form, read_form
from ppcmi_server.dashboard.login import Logins, OpenLogin
from ppcmi_server.dashboard.notices import Notice
from ppcmi_server.dashboard.origin import cookie_name, require_own_page
from ppcmi_server.dashboard.rendering import HEADERS, ROOT, error_page, render
from ppcmi_server.errors import OperatorError, RefusalError, forbidden
from ppcmi_server.operation.logs import log_error
from ppcmi_server.services import Services

SEE_OTHER = 303
REFRESH = "refresh"
"""In the query of what a page asks for by itself: it is no click, and does not keep a login alive."""

_STATUS_OF = {UsageError: 422, TaskError: 422, SiteError: 409, TrainingError: 409, OperatorError: 409}
_SENTENCES = {
    404: "There is no such page; choose one from the navigation.",
    405: "This page does not know that; go back and use its buttons.",
    408: "The form did not arrive in time; go back and send it again.",
    413: "The form is larger than 64 KiB; for a larger task file use 'ppcmi-server task add'.",
    422: "The address has something that it should not; choose a page from the navigation.",
}


class LoginNeededError(RefusalError):
    """Nobody is logged in."""

    def __init__(self) -> None:
        super().__init__(401, "unauthorized", "Not authorized", "You are not logged in, or no longer; log in again.")


@dataclass(frozen=True)
class Visit:
    """A request of an operator who is logged in."""

    request: Request
    services: Services
    login: OpenLogin

    @property
    def actor(self) -> str:
        """Who it is in the audit log."""
        return self.login.operator.actor

    def page(self, template: str, **content: Any) -> HTMLResponse:
        """A page for the operator, with the notice that was left for it."""
        notice = self.request.app.state.dashboard.notices.take(self.login)
        return render(self.request, template, visit=self, notice=notice, **content)

    def part(self, template: str, **content: Any) -> HTMLResponse:
        """A part of a page that the page asks for by itself."""
        return render(self.request, template, visit=self, **content)


@dataclass(frozen=True)
class Change(Visit):
    """A form that an operator sent from one of our pages."""

    form: Form

    def done(self, path: str, sentence: str, secret: str | None = None, steps: tuple[str, ...] = ()) -> Response:
        """Go to a page below the dashboard's root, which says what was done."""
        self.request.app.state.dashboard.notices.leave(self.login, Notice(sentence, secret, steps))
        return RedirectResponse(ROOT + path, SEE_OTHER)


class PageRoute(APIRoute):
    """A route of pages: safe headers, and errors as pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, guarded."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                response = await handle(request)
            except LoginNeededError as error:
                response = _ask_to_log_in(request, error)
            except (PpcmiError, HTTPException, RequestValidationError) as error:
                response = error_page(request, *_told(error))
            except ClientDisconnect:
                raise
            except Exception as error:
                response = _of_failure(request, error)
            response.headers.update(HEADERS)
            return response

        return guarded


async def visit(request: Request) -> Visit:
    """Who visits.

    :raises LoginNeededError: if nobody is logged in.
    """
    services: Services = request.app.state.services
    found = await run_in_threadpool(_find_login, request, services)
    if found is None:
        raise LoginNeededError
    request.state.visit = Visit(request, services, found)
    return request.state.visit  # type: ignore[no-any-return]


async def change(request: Request, visitor: Annotated[Visit, Depends(visit)]) -> Change:
    """A form, if it comes from one of the operator's own pages.

    :raises RefusalError: 403 if not, 413, 415 or 422 if it cannot be read.
    """
    require_own_page(request)
    form = await read_form(request)
    if not visitor.login.has_csrf(form.text("csrf")):
        raise forbidden("The page is of an earlier login; go back, reload it and send the form again.")
    return Change(visitor.request, visitor.services, visitor.login, form)


UsesVisit = Annotated[Visit, Depends(visit)]
UsesChange = Annotated[Change, Depends(change)]


def _find_login(request: Request, services: Services) -> OpenLogin | None:
    logins: Logins = request.app.state.dashboard.logins
    cookie = request.cookies.get(cookie_name(request), "")
    if not cookie.isascii() or not 0 < len(cookie) <= 200:
        return None
    with services.database.reading() as session:
        found = logins.find(session, cookie)
    if found is not None and found.is_stale and REFRESH not in request.query_params:
        _note_click(services, logins, found.login_id)
    return found


def _note_click(services: Services, logins: Logins, login_id: int) -> None:
    """Pages can be read while the disk is full or the database busy; the idle time then goes on."""
    try:
        with services.database.writing() as session:
            logins.note_click(session, login_id)
    except SQLAlchemyError as error:
        if refusal_of(error) is None:
            raise
        log_error("click-not-noted", error)


def _ask_to_log_in(request: Request, error: LoginNeededError) -> Response:
    if request.method != "GET" or REFRESH in request.query_params:
        return error_page(request, error.status, error.detail, {})
    return RedirectResponse(f"{ROOT}/login?next={quote(request.url.path, safe='/')}", SEE_OTHER)


def _of_failure(request: Request, error: Exception) -> Response:
    """507 for a full disk, 503 for a busy database; for what nobody expected 500, with its place in the log."""
    refusal = refusal_of(error)
    if refusal is not None:
        return error_page(request, *_told(refusal))
    log_error("unexpected", error)
    return error_page(request, 500, "The server failed; find the request below in its log.", {})


def _told(error: Exception) -> tuple[int, str, dict[str, str]]:
    """Status, sentence and headers of an error's page."""
    if isinstance(error, RefusalError):
        return error.status, error.detail, error.headers
    if isinstance(error, HTTPException):
        sentence = _SENTENCES.get(error.status_code, HTTPStatus(error.status_code).phrase + ".")
        return error.status_code, sentence, dict(error.headers or {})
    if isinstance(error, RequestValidationError):
        return 422, _SENTENCES[422], {}
    status = next((status for kind, status in _STATUS_OF.items() if isinstance(error, kind)), 500)
    return status, str(error), {}
