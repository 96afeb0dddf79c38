"""Load: what the server is doing now, and what room it has."""

from __future__ import annotations

from fastapi import Response

from ppcmi_server.dashboard.guard import UsesVisit, Visit
from ppcmi_server.dashboard.pages import page_router

router = page_router()


@router.get("/load")
def show_load(visit: UsesVisit) -> Response:
    """The page."""
    return visit.page("load.html", **_content(visit))


@router.get("/load/live")
def show_numbers(visit: UsesVisit) -> Response:
    """The part of it that changes."""
    return visit.part("load_live.html", **_content(visit))


def _content(visit: Visit) -> dict[str, object]:
    config = visit.services.config
    return {
        "load": visit.services.metrics.load(),
        "mapper_alive": visit.request.app.state.mapper.alive,
        "limits": config.limits,
        "disks": visit.services.cohorts.room.disks(),
        "reserve": config.storage.reserve_bytes,
    }
