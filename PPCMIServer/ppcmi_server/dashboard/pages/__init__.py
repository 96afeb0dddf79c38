"""The pages, a module for each entry of the navigation."""

from __future__ import annotations

from fastapi import APIRouter

from ppcmi_server.dashboard.guard import PageRoute
from ppcmi_server.dashboard.rendering import ROOT


def page_router() -> APIRouter:
    """A router of pages below the dashboard's root; they are no part of the API that OpenAPI describes."""
    return APIRouter(prefix=ROOT, route_class=PageRoute, include_in_schema=False)
