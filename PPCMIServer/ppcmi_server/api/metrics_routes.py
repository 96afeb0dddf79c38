"""``/metrics`` for Prometheus: the operator's numbers, for a token of scope ``observe`` or, if set so, for anyone.

It is not of the sites' protocol and not in the OpenAPI description.
"""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response

from ppcmi_server.api.access import UsesServices, operator_with
from ppcmi_server.operation.metrics import MEDIA_TYPE

PATH = "/metrics"

router = APIRouter(include_in_schema=False)
"""For anyone, see ``dashboard.open_metrics``."""
guarded = APIRouter(include_in_schema=False, dependencies=[Depends(operator_with("observe"))])


@router.get(PATH)
@guarded.get(PATH)
def metrics(services: UsesServices) -> Response:
    """Every number, in Prometheus' text format."""
    return Response(services.metrics.render(), media_type=MEDIA_TYPE)
