"""Numbers for monitoring: what is counted, who may see it, and that nobody is in it by name."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from ppcmi_server.access import operators
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import Job, JobEpoch
from ppcmi_server.operation.load_window import LoadWindow
from ppcmi_server.operation.metrics import MAP_ROUTE, METHODS, OTHER, REFUSALS, STAGES, Metrics
from ppcmi_server.operation.metrics_state import ServerState
from ppcmi_server.operation.readiness import Readiness, ReadinessCheck
from ppcmi_server.settings import DashboardSettings
from ppcmi_server.storage.blobs import BlobStore
from support.app_server import TASK, app_server

DEPLOY = Path(__file__).resolve().parents[2] / "PPCMIServer" / "deploy"
SITE_NAME = "Hospital Zanzibar"
PROMETHEUS_WORDS = {
    "sum", "by", "rate", "increase", "histogram_quantile", "le", "m", "h", "status", "stage", "reason", "route", "job",
    "up", "state",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with app_server(tmp_path_factory.mktemp("metrics") / "server") as server:
        yield server


@pytest.fixture(scope="module")
def site(server):
    return server.add_consortium(SITE_NAME)[0]


@pytest.fixture(scope="module")
def token(server):
    with server.services.database.writing() as session:
        return operators.add_operator(session, "monitoring", ("observe",))


@pytest.fixture(scope="module")
def _a_training_under_way(server, site):
    with server.services.database.writing() as session:
        session.add(Job(id=7, task_id=1, state="running", config={}, created="2026-01-01T00:00:00Z"))
        session.flush()
        session.add(JobEpoch(job_id=7, epoch=3, train_loss=0.5, validation_loss=0.75, seconds=1.0))


def scrape(server, token):
    answer = requests.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {token}"}, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("text/plain")
    return answer.text


def samples(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_numbers_are_for_operators_who_may_observe_and_for_nobody_else(server, site, token):
    with server.services.database.writing() as session:
        working = operators.add_operator(session, "no numbers", ("operate",))
    for wrong, status in ((None, 401), ("x" * 43, 401), (site.token, 403), (working, 403)):
        headers = {} if wrong is None else {"Authorization": f"Bearer {wrong}"}
        answer = requests.get(f"{server.url}/metrics", headers=headers, timeout=30)
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert scrape(server, token)


def test_numbers_are_for_anyone_where_the_operator_says_so(tmp_path):
    with app_server(tmp_path / "server", {"dashboard": DashboardSettings(open_metrics=True)}) as open_server:
        answer = requests.get(f"{open_server.url}/metrics", timeout=30)
    assert answer.status_code == 200
    assert "ppcmi_build_info" in answer.text


def test_requests_are_counted_by_the_form_of_their_route_and_by_nothing_that_they_brought_along(server, site, token):
    before = samples(scrape(server, token))
    for _ in range(3):
        assert site.call("GET", f"/v1/tasks/{TASK.name}").status_code == 200
    assert site.call("GET", "/v1/zanzibar/4711?name=zanzibar").status_code == 404
    assert site.call("ZANZIBAR", "/v1/me").status_code == 405
    text = scrape(server, token)
    after = samples(text)

    def grown(route, method, status):
        key = ("ppcmi_requests_total", (("method", method), ("route", route), ("status", status)))
        return after[key] - before.get(key, 0)

    assert grown("/v1/tasks/{name}", "GET", "2xx") == 3
    assert grown("-", "GET", "4xx") == 1
    assert {key: value for key, value in after.items() if ("method", OTHER) in key[1] and "created" not in key[0]} == {
        ("ppcmi_requests_total", (("method", OTHER), ("route", "/v1/me"), ("status", "4xx"))): 1
    }
    assert "zanzibar" not in text.lower()
    assert site.site_id not in text


def test_every_label_has_few_values_that_are_known_beforehand(server, site, token):
    described = set(requests.get(f"{server.url}/openapi.json", timeout=30).json()["paths"])
    allowed = {
        "route": described | {"/metrics", "/openapi.json", "-"},
        "method": {*METHODS, OTHER},
        "status": {f"{n}xx" for n in range(6)},
        "stage": set(STAGES),
        "reason": set(REFUSALS),
        "state": {"queued", "running", "paused", "done", "failed", "stopped", "open", "whole", "withdrawn",
                  "ready", "active", "retired", "invited", "enrolled", "revoked"},
        "kind": {"models", "jobs", "database"},
        "cases": {"training", "validation"},
    }  # fmt: skip
    for _, labels in samples(scrape(server, token)):
        for name, value in labels:
            if name in ("le", "version"):
                continue
            assert (value.isdigit() and len(value) < 10) if name == "job" else value in allowed[name], (name, value)


@pytest.mark.usefixtures("_a_training_under_way")
def test_what_the_database_knows_is_counted_when_it_is_asked(server, site, token):
    found = samples(scrape(server, token))
    assert found["ppcmi_jobs", (("state", "running"),)] == 1
    assert found["ppcmi_training_epoch", (("job", "7"),)] == 3
    assert found["ppcmi_training_loss", (("cases", "validation"), ("job", "7"))] == 0.75
    assert found["ppcmi_sites", (("state", "enrolled"),)] == 1
    assert found["ppcmi_database_up", ()] == 1
    assert found["ppcmi_storage_free_bytes", ()] > 0
    assert found["process_resident_memory_bytes", ()] > 1 << 20


def test_uploads_are_counted_in_bytes_and_frames(server, site, token, tmp_path):
    before = samples(scrape(server, token))
    cohort = site.write_cohort(tmp_path / "a.ppcmi", [1, 2], slices=1)
    site.upload(cohort)
    after = samples(scrape(server, token))
    sent = sum(len(frame.data) for _, frame in cohort.frames())
    assert after["ppcmi_upload_bytes_total", ()] - before["ppcmi_upload_bytes_total", ()] == sent
    assert after["ppcmi_cohort_frames", ()] == 4
    assert after["ppcmi_cohorts", (("state", "whole"),)] == 1
    assert after["ppcmi_cohort_bytes", ()] >= sent


@pytest.mark.usefixtures("_a_training_under_way")
def test_every_number_that_the_grafana_page_and_the_alerts_ask_for_is_told(server, site, token):
    told = {name for name, _ in samples(scrape(server, token))}
    page = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in page["panels"] for target in panel["targets"]]
    queries += re.findall(r"expr: (.*)", (DEPLOY / "ppcmi-alerts.yml").read_text())
    assert len(queries) > 25
    asked = set()
    for query in queries:
        asked |= set(re.findall(r"[a-z_]{2,}", re.sub(r'"[^"]*"|\[[^]]*\]', "", query))) - PROMETHEUS_WORDS
    assert asked <= told
    assert {name for name in told if name.startswith("ppcmi_")} - asked <= {
        name for name in told if name.endswith(("_created", "_bucket", "_sum", "_count"))
    }


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_the_load_is_that_of_the_last_minute_and_takes_no_more_memory_for_more_requests():
    clock = Clock()
    window = LoadWindow(clock)
    for second in range(600):
        clock.now = 1000.0 + second
        for _ in range(5):
            window.request(200)
        window.request(503 if second % 2 else 500)
        window.mapping_answered(0.040 if second % 50 else 2.0)
        window.mapped(8)
    load = window.load(3, 2, 1 << 20)
    assert load.requests_per_second == pytest.approx(6.0)
    assert (load.failures_per_minute, load.refusals_per_minute) == (30, 30)
    assert load.slices_per_second == pytest.approx(8.0)
    assert load.p50_ms == pytest.approx(40, rel=0.15)
    assert load.p99_ms == pytest.approx(2000, rel=0.15)
    assert (load.mapping_admitted, load.mapping_waiting) == (3, 2)
    clock.now += 61
    assert window.load(0, 0, 0).requests_per_second == 0
    assert window.load(0, 0, 0).p50_ms is None


def test_a_server_that_has_just_started_tells_rates_over_the_time_that_there_was():
    clock = Clock()
    metrics = Metrics(clock)
    clock.now += 10
    for _ in range(40):
        metrics.request(MAP_ROUTE, "POST", 200, 0.01)
    assert metrics.load().requests_per_second == pytest.approx(4.0)
    assert metrics.load().memory_bytes > 1 << 20


def test_readiness_tells_what_cannot_be_used_in_one_word_and_whether_uploads_have_room(server, tmp_path):
    services, config = server.services, server.services.config
    assert requests.get(f"{server.url}/readyz", timeout=30).json() == {"status": "ok", "uploads": "open"}
    full = dataclasses.replace(config, storage=dataclasses.replace(config.storage, reserve_bytes=1 << 62))
    assert ReadinessCheck(full, services.database, services.blobs)() == Readiness((), room_for_uploads=False)
    (tmp_path / "a file").write_bytes(b"")
    blobs = BlobStore(str(tmp_path / "a file"))
    assert ReadinessCheck(config, services.database, blobs)().failing == ("storage",)
    url = "postgresql+pg8000://somebody:secret@127.0.0.1:1/zanzibar"
    nobody = Database(dataclasses.replace(config, storage=dataclasses.replace(config.storage, database_url=url)))
    assert ReadinessCheck(config, nobody, blobs)().failing == ("database", "storage")
    source = list(ServerState(config, nobody).collect())
    assert [family.samples[0].value for family in source if family.name == "ppcmi_database_up"] == [0]
    server.app.state.readiness = ReadinessCheck(config, nobody, services.blobs)
    answer = requests.get(f"{server.url}/readyz", timeout=30)
    assert (answer.status_code, answer.headers["Content-Type"]) == (503, "application/problem+json")
    assert "database" in answer.text
    assert not {"secret", "zanzibar", "127.0.0.1"} & set(re.findall(r"[\w.]+", answer.text))


def test_readiness_is_found_out_no_more_often_than_every_two_seconds(server):
    clock, services = Clock(), server.services
    check = ReadinessCheck(services.config, services.database, services.blobs, clock)
    first = check()
    assert check() is first
    clock.now += 3
    assert check() is not first
