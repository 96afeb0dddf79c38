"""Style sheet, script and icon, and the answer for addresses that there are not."""

from __future__ import annotations

from pathlib import Path as FilePath

from fastapi import Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from ppcmi_server.dashboard.guard import SEE_OTHER, UsesVisit
from ppcmi_server.dashboard.pages import page_router
from ppcmi_server.dashboard.rendering import ROOT

STATIC = FilePath(__file__).parents[1] / "static"
KINDS = {
    "dashboard.css": "text/css; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

router = page_router()


@router.get("/static/{name}")
def get_file(name: str) -> Response:
    """One of the three files; a name is looked up, never made into a path."""
    if name not in KINDS:
        raise HTTPException(404)
    return Response((STATIC / name).read_bytes(), media_type=KINDS[name])


@router.api_route("/{anything:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
def get_nothing(anything: str, visit: UsesVisit) -> Response:
    """404 for who is logged in; others are asked to log in first. A slash at the end of the root is forgiven."""
    if not anything:
        return RedirectResponse(ROOT, SEE_OTHER)
    raise HTTPException(404)
