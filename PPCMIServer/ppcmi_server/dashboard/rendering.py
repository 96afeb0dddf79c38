"""Pages from templates, with the headers that keep them from being framed, scripted or kept."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from ppcmi_server.dashboard import charts, view
from ppcmi_server.operation.logs import REQUEST_ID

ROOT = "/dashboard"
POLICY = "; ".join((
    "default-src 'none'",
    "style-src 'self'",
    "script-src 'self'",
    "img-src 'self' data:",
    "connect-src 'self'",
    "form-action 'self'",
    "frame-ancestors 'none'",
    "base-uri 'none'",
))  # fmt: skip
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def make_environment() -> Environment:
    """The templates; everything that they are given is escaped."""
    environment = Environment(
        loader=PackageLoader("ppcmi_server.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(view.FILTERS)
    environment.globals.update(root=ROOT, learning_curve=charts.learning_curve, swatch=charts.swatch)
    return environment


def render(request: Request, template: str, status: int = 200, **content: Any) -> HTMLResponse:
    """A page; ``content`` is what its template names."""
    environment: Environment = request.app.state.dashboard.environment
    return HTMLResponse(environment.get_template(template).render(**content), status)


def error_page(request: Request, status: int, sentence: str, headers: Mapping[str, str]) -> HTMLResponse:
    """One sentence that says what is wrong and what to do, with the navigation for who is logged in."""
    page = render(
        request, "error.html", status,
        visit=getattr(request.state, "visit", None), title=HTTPStatus(status).phrase, sentence=sentence,
        request_id=REQUEST_ID.get(),
    )  # fmt: skip
    page.headers.update(headers)
    return page
