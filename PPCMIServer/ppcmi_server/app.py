"""The application: routes, services, mapper, from a configuration."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from ppcmi_server import __version__
from ppcmi_server.api import (
    cohort_routes,
    identity_routes,
    map_route,
    metrics_routes,
    model_routes,
    network_routes,
    task_routes,
    token_routes,
)
from ppcmi_server.api.access_log import AccessLog
from ppcmi_server.api.bodies import BodyMemory
from ppcmi_server.api.examples import add_examples
from ppcmi_server.api.overload import Overload
from ppcmi_server.api.problems import add_common_problems, add_handlers
from ppcmi_server.api.rates import FailedAttempts, Rate
from ppcmi_server.api.request_heads import RequestHeads
from ppcmi_server.api.storage_problems import add_storage_handlers
from ppcmi_server.api.volume import MappedVolume
from ppcmi_server.config import ServerConfig
from ppcmi_server.dashboard import add_dashboard
from ppcmi_server.intake.garbage import Sweeper
from ppcmi_server.operation.readiness import ReadinessCheck
from ppcmi_server.services import Services, open_services, start_mapper
from ppcmi_server.training.supervisor import Supervisor

DESCRIPTION = """\
Private collaborative segmentation: sites send protected latents, never images. Research use only.
Errors are problem documents (RFC 9457). Formats and keys: docs/protocol.md.
"""


def create_app(config: ServerConfig, services: Services | None = None) -> FastAPI:
    """The service as an ASGI application; it opens ``services`` itself unless they are given.

    :raises OperatorError: if the server's folder is not usable.
    """
    opened = services or open_services(config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweeper = Sweeper(opened.sweep)
        sweeper.start()
        app.state.mapper = start_mapper(opened)
        app.state.supervisor = Supervisor(opened)
        app.state.supervisor.start()
        try:
            yield
        finally:
            await run_in_threadpool(app.state.supervisor.close)
            await run_in_threadpool(app.state.mapper.close)
            await run_in_threadpool(sweeper.close)
            opened.database.close()

    app = FastAPI(
        title="PPCMI server", version=__version__, description=DESCRIPTION, lifespan=lifespan,
        docs_url=None, redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.state.services = opened
    app.state.readiness = ReadinessCheck(config, opened.database, opened.blobs)
    app.state.body_memory = BodyMemory(config.limits.memory_bytes)
    app.state.failed_attempts = FailedAttempts(config.rates.failed_per_minute)
    app.state.request_rate = Rate(config.rates.requests_per_minute, 60.0)
    app.state.mapped_volume = MappedVolume(config.rates.mapped_slices_per_hour, opened.database)
    app.add_middleware(RequestHeads)
    app.add_middleware(Overload, requests=config.limits.requests)
    app.add_middleware(AccessLog, metrics=opened.metrics)  # the last one added is the outermost
    add_handlers(app)
    add_storage_handlers(app)
    for router in (
        identity_routes.public,
        identity_routes.router,
        token_routes.router,
        task_routes.router,
        task_routes.binary,
        network_routes.router,
        network_routes.binary,
        cohort_routes.router,
        cohort_routes.binary,
        model_routes.router,
        map_route.router,
        metrics_routes.router if config.dashboard.open_metrics else metrics_routes.guarded,
    ):
        app.include_router(router)
    if config.dashboard.enabled:
        add_dashboard(app)
    _describe_with_examples(app)
    return app


def _describe_with_examples(app: FastAPI) -> None:
    describe = app.openapi
    described: dict[str, Any] = {}

    def with_examples() -> dict[str, Any]:
        if not described:
            described.update(add_examples(add_common_problems(describe())))
        return described

    app.openapi = with_examples  # type: ignore[method-assign]  # as FastAPI says to
