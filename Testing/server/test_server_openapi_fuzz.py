"""Requests made up from the OpenAPI description: no failure, and no answer that the description does not know."""

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from ppcmi_server.operation.connections import ServingConfig
from ppcmi_server.settings import RateSettings, ServeSettings
from support.app_server import app_server, running
from support.openapi_fuzz import fuzz_description
from support.random_models import add_model, random_umn

EXAMPLES = 5
NO_RATES = RateSettings(requests_per_minute=10**9, mapped_slices_per_hour=10**9, failed_per_minute=10**9)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "server"
    with app_server(folder, {"rates": NO_RATES}, idle_seconds=2.0) as server:
        add_model(server.services, random_umn())
        yield server


def test_every_operation_answers_as_its_description_says_to_valid_and_invalid_requests(server):
    site, spare = server.add_consortium("Hospital A", "Hospital B")
    outcome = fuzz_description(server.url, lambda path: spare.token if "/token" in path else site.token, EXAMPLES)
    assert outcome.failures == []
    assert (outcome.failed, outcome.hangs) == (0, 0)
    assert outcome.requests > 150
    assert outcome.statuses[200] > 10
    assert outcome.statuses[422] > 20
    assert set(outcome.statuses) & {400, 401, 403, 404, 409}


def test_an_answer_that_the_description_does_not_know_is_found():
    app = FastAPI()

    @app.get("/broken/{number}")
    def broken(number: int) -> dict[str, int]:
        return {"number": number, "wrong": "text"} if number % 2 else JSONResponse({"number": "text"}, 418)

    with running(ServingConfig(app, ServeSettings(), 10.0, port=0, log_config=None)) as (host, port):
        outcome = fuzz_description(f"http://{host}:{port}", lambda _: "none", 10)
    assert outcome.failed > 0
    assert any("418" in failure for failure in outcome.failures)
    assert any("500" in failure for failure in outcome.failures)
