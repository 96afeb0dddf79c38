"""What comes in is bounded and checked; what is refused gets a problem document that gives nothing back."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
import requests

from ppcmi_server import tasks
from ppcmi_server.api import documents
from ppcmi_server.api.documents import Document
from ppcmi_server.database.schema import Job, Model
from ppcmi_server.operation.logs import JsonLines
from ppcmi_server.settings import MEMORY_OF_A_BYTE
from support.app_server import CODEC, TASK, app_server, make_latents, pseudonym

MARKER = "Zanzibar-4711"
KIB = 1 << 10
LIMITS = {
    "json_bytes": 8 * KIB,
    "frame_bytes": 64 * KIB,
    "bundle_bytes": 64 * KIB,
    "codec_bytes": 64 * KIB,
    "network_bytes": 64 * KIB,
    "sealed_bytes": KIB,
    "memory_bytes": MEMORY_OF_A_BYTE * 96 * KIB,
    "idle_seconds": 0.5,
    "requests": 6,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with app_server(tmp_path_factory.mktemp("bodies") / "server", **LIMITS) as server:
        yield server


@pytest.fixture(scope="module")
def site(server):
    return server.add_consortium("Hospital A", "Hospital B")[0]


@pytest.fixture(scope="module")
def cohort_id(site, tmp_path_factory):
    return site.upload(site.write_cohort(tmp_path_factory.mktemp("cohort") / "a.ppcmi", [1], slices=1))


@pytest.fixture
def log(caplog):
    """What the server writes, line by line, as it writes it."""
    caplog.handler.setFormatter(JsonLines())
    caplog.set_level("INFO", logger="ppcmi_server.access")
    return lambda: [json.loads(line) for line in caplog.text.splitlines()]


def expect_problem(answer, *statuses):
    assert answer.status_code in statuses, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    document = answer.json()
    assert set(document) == {"type", "title", "status", "detail"}
    assert document["status"] == answer.status_code
    assert document["type"].startswith("urn:ppcmi:problem:")
    for never in (MARKER, "Traceback", 'File "', ".py", "sqlalchemy", "pydantic"):
        assert never not in answer.text
    return document


def in_pieces(data, size=4 * KIB):
    """As a body of unknown length."""
    return (data[start : start + size] for start in range(0, len(data), size))


BINARY = [
    ("PUT", "/v1/cohorts/{cohort_id}/frames/0"),
    ("POST", f"/v1/tasks/{TASK.name}/map"),
    ("PUT", f"/v1/tasks/{TASK.name}/codec"),
    ("PUT", f"/v1/tasks/{TASK.name}/network"),
]


@pytest.mark.parametrize("route", BINARY, ids=" ".join)
@pytest.mark.parametrize("prepare", [bytes, in_pieces], ids=["declared", "chunked"])
def test_a_binary_body_over_its_limit_is_refused(server, site, cohort_id, route, prepare):
    add_untrained_model(server)
    method, path = route
    headers = {"X-PPCMI-Codec": CODEC}
    for size, status in ((64 * KIB + 1, 413), (64 * KIB, None)):
        answer = site.call(method, path.format(cohort_id=cohort_id), data=prepare(bytes(size)), headers=headers)
        if status is not None:
            expect_problem(answer, status)
        else:
            assert answer.status_code in (204, 409, 422)


def add_untrained_model(server):
    with server.services.database.writing() as session:
        task = tasks.find_task(session, TASK.name)
        if session.get(Model, 1) is None:
            session.add(Job(id=1, task_id=task.id, state="done", config={}, created="2026-01-01T00:00:00Z"))
            session.flush()
            session.add(
                Model(
                    id=1, task_id=task.id, number=1, job_id=1, state="active", preset="default", profile="coarse",
                    mode="two-layer", scope="consortium", codecs={CODEC: None}, config={}, seed=1, code_version="-",
                    file="absent", file_digest="-", cases=1, slices=1, created="2026-01-01T00:00:00Z",
                )
            )  # fmt: skip


@pytest.mark.parametrize("prepare", [bytes, in_pieces], ids=["declared", "chunked"])
def test_a_json_body_over_its_limit_is_refused_with_and_without_a_token(server, site, prepare):
    body = json.dumps({"code": "x" * 9 * KIB, "public_key": ""}).encode()
    headers = {"Content-Type": "application/json"}
    expect_problem(requests.post(server.url + "/v1/enrol", data=prepare(body), headers=headers, timeout=30), 413)
    expect_problem(site.call("POST", f"/v1/tasks/{TASK.name}/invitations", data=prepare(body), headers=headers), 413)


def test_a_body_that_does_not_arrive_ends(server, site, cohort_id):
    parts = urlsplit(server.url)
    for path in (f"/v1/cohorts/{cohort_id}/frames/0", "/v1/enrol"):
        method = "POST" if path == "/v1/enrol" else "PUT"
        with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.token}\r\n"
            head += "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
            connection.sendall(head.encode() + b"{")
            start = time.monotonic()
            assert connection.recv(4096).startswith(b"HTTP/1.1 408")
            assert time.monotonic() - start < 10


def test_too_many_requests_at_a_time_are_told_to_come_back(server, site, cohort_id):
    """Six that do not go on fill the server; they are gone after the idle time."""
    parts = urlsplit(server.url)
    head = f"PUT /v1/cohorts/{cohort_id}/frames/0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.token}\r\n"
    connections = [socket.create_connection((parts.hostname, parts.port), timeout=20) for _ in range(6)]
    for connection in connections:
        connection.sendall(head.encode() + b"Content-Length: 9\r\n\r\n")
    time.sleep(0.2)
    answer = requests.get(server.url + "/healthz", timeout=30)
    expect_problem(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0
    for connection in connections:
        connection.recv(4096)
        connection.close()
    assert requests.get(server.url + "/healthz", timeout=30).status_code == 200


def test_no_site_waits_for_the_disk_that_another_ones_blob_is_made_durable_on(server, site, monkeypatch):
    """Its folder and the blob itself are written for as long as the disk, or the object store, takes."""
    blobs, waits, done = server.services.blobs, threading.Semaphore(0), threading.Event()
    writing = blobs.writing

    @contextmanager
    def slowly(name):
        waits.release()
        assert done.wait(20)
        with writing(name) as file:
            yield file
            waits.release()
            done.clear()
            assert done.wait(20)

    monkeypatch.setattr(blobs, "writing", slowly)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(site.client.put_codec, TASK.name, b"encrypted codec", CODEC)
        for _ in range(2):  # when it is opened, and when it is closed
            assert waits.acquire(timeout=10)
            assert requests.get(f"{server.url}/healthz", timeout=5).status_code == 200
            done.set()
        answer.result()
    assert site.client.codec(TASK.name) == (b"encrypted codec", CODEC)


@pytest.mark.parametrize("length", [None, 1000], ids=["without a byte", "broken off"])
def test_of_a_codec_that_does_not_come_whole_nothing_is_left(server, site, length):
    before = server.services.blobs.names("codecs")
    parts = urlsplit(server.url)
    head = f"PUT /v1/tasks/{TASK.name}/codec HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.token}\r\n"
    head += f"X-PPCMI-Codec: {CODEC}\r\nContent-Length: {length or 0}\r\n\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(head.encode() + (b"" if length is None else b"half"))
        assert connection.recv(4096).startswith(b"HTTP/1.1 422" if length is None else b"HTTP/1.1 408")
    assert server.services.blobs.names("codecs") == before


def test_bodies_that_do_not_fit_into_memory_together_are_told_to_come_back(server, site, cohort_id):
    parts = urlsplit(server.url)
    head = f"PUT /v1/cohorts/{cohort_id}/frames/0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.token}\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(head.encode() + f"Content-Length: {64 * KIB}\r\n\r\n".encode() + bytes(60 * KIB))
        time.sleep(0.2)
        answer = site.call("PUT", f"/v1/cohorts/{cohort_id}/frames/0", data=bytes(60 * KIB))
        expect_problem(answer, 503)
        assert int(answer.headers["Retry-After"]) > 0
        connection.recv(4096)
    expect_problem(site.call("PUT", f"/v1/cohorts/{cohort_id}/frames/0", data=bytes(60 * KIB)), 409)


NONSENSE = {
    "an unknown address": ("GET", f"/v1/{MARKER}", {}),
    "an unknown method": ("PATCH", "/v1/tasks", {"data": MARKER}),
    "a name that is none": ("GET", f"/v1/tasks/{MARKER}", {}),
    "no JSON": ("POST", "/v1/enrol", {"data": MARKER}),
    "cut-off JSON": ("POST", "/v1/enrol", {"data": f'{{"code": "{MARKER}'}),
    "JSON nested too deep": ("POST", "/v1/enrol", {"data": "[" * 8000}),
    "a number too long": ("POST", "/v1/enrol", {"data": '{"code": 1' + "0" * 5000 + "}"}),
    "bytes that are no text": ("POST", "/v1/enrol", {"data": b'{"code": "\xff\xfe"}'}),
    "half a character": ("POST", "/v1/enrol", {"data": '{"code": "\\ud800", "public_key": "AA=="}'}),
    "a list": ("POST", "/v1/enrol", {"json": [MARKER]}),
    "an unknown field": ("POST", "/v1/enrol", {"json": {"code": "x", "public_key": "AA==", MARKER: 1}}),
    "a key that is none": ("POST", "/v1/enrol", {"json": {"code": "x", "public_key": MARKER}}),
    "another type": (
        "POST",
        "/v1/tasks/tiny/consortium",
        {"json": {"scope": MARKER, "mode": 1, "inner_check": MARKER}},
    ),
    "a label nobody knows": (
        "POST",
        "/v1/tasks/tiny/models/1/validations",
        {"json": {"cases": 1, "labels": {MARKER: {"dice": 0.5}}}},
    ),
    "a score nobody knows": (
        "POST",
        "/v1/tasks/tiny/models/1/validations",
        {"json": {"cases": 1, "labels": {"Organ": {MARKER: 0.5}}}},
    ),
    "no number": (
        "POST",
        "/v1/tasks/tiny/models/1/validations",
        {"data": '{"cases": 1, "labels": {"Organ": {"dice": NaN}}}'},
    ),
    "a model beyond all numbers": (
        "POST",
        f"/v1/tasks/tiny/models/{10**30}/validations",
        {"json": {"cases": 1, "labels": {}}},
    ),
    "a bundle beyond all numbers": ("POST", f"/v1/tasks/tiny/map?model={10**30}", {"data": b"x"}),
    "a model that is no number": ("POST", f"/v1/tasks/tiny/map?model={MARKER}", {"data": b"x"}),
    "no bundle": ("POST", "/v1/tasks/tiny/map", {"data": MARKER.encode() * 20}),
    "nothing to map": ("POST", "/v1/tasks/tiny/map", {"data": b""}),
    "a fingerprint that is none": ("PUT", "/v1/tasks/tiny/codec", {"data": b"x", "headers": {"X-PPCMI-Codec": MARKER}}),
    "an empty codec": ("PUT", "/v1/tasks/tiny/codec", {"data": b"", "headers": {"X-PPCMI-Codec": CODEC}}),
    "a network of no codec": ("PUT", "/v1/tasks/tiny/network", {"data": b"x", "headers": {"X-PPCMI-Codec": MARKER}}),
    "an empty network": ("PUT", "/v1/tasks/tiny/network", {"data": b"", "headers": {"X-PPCMI-Codec": CODEC}}),
    "a network that is nobody's": ("GET", f"/v1/tasks/tiny/networks/{MARKER}", {}),
    "an invitation too long": (
        "POST",
        "/v1/tasks/tiny/invitations",
        {"json": {"to": "0" * 16, "sealed": "A" * 2048}},
    ),
    "a header that is none": ("POST", "/v1/tasks/tiny/cohorts", {"json": {"header": "WmFuemliYXItNDcxMQ=="}}),
    "a cohort that is none": ("GET", f"/v1/cohorts/{MARKER}", {}),
    "a frame beyond all": ("PUT", f"/v1/cohorts/{'0' * 32}/frames/{1 << 20}", {"data": b"x"}),
    "a site that nobody is": ("GET", f"/v1/sites?name={MARKER}", {}),
    "a commit of nothing": ("POST", f"/v1/cohorts/{'0' * 32}/commit", {"json": {"frames": 0, "digest": MARKER}}),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_gets_a_problem_document_that_does_not_repeat_it(server, site, name, log):
    add_untrained_model(server)
    method, path, options = NONSENSE[name]
    headers = {"Content-Type": "application/json", **options.get("headers", {})}
    answer = site.call(method, path, **{**options, "headers": headers})
    document = expect_problem(answer, 400, 404, 405, 409, 422)
    assert document["detail"]
    assert MARKER not in json.dumps(log())
    assert answer.headers["X-Request-ID"]


def test_a_failure_nobody_foresaw_is_a_problem_document_and_a_log_line_without_its_text(server, site, monkeypatch, log):
    def fail(*_):
        raise RuntimeError(MARKER)

    monkeypatch.setattr("ppcmi_server.models.list_models", fail)
    answer = site.call("GET", f"/v1/tasks/{TASK.name}/models")
    expect_problem(answer, 500)
    (line,) = [line for line in log() if line["level"] == "error"]
    assert (line["kind"], line["request"]) == ("RuntimeError", answer.headers["X-Request-ID"])
    assert line["at"].startswith("test_server_bodies.fail:")
    assert MARKER not in json.dumps(log())


def test_a_model_whose_file_is_gone_is_unusable_but_not_the_server(server, site):
    add_untrained_model(server)
    bundle = site.bundle(make_latents(1, 1))
    with server.services.database.writing() as session:
        session.get_one(Model, 1).codecs = {CODEC: site.protection().inner.check()}
    expect_problem(site.call("POST", f"/v1/tasks/{TASK.name}/map", data=bundle), 503)
    assert requests.get(server.url + "/readyz", timeout=30).status_code == 200


def test_every_request_and_answer_of_the_description_has_an_example_that_is_valid(server):
    description = requests.get(server.url + "/openapi.json", timeout=30).json()
    for name, schema in description["components"]["schemas"].items():
        document: type[Document] = getattr(documents, name)
        document.model_validate_json(json.dumps(schema["example"]))
    described = 0
    for methods in description["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            for body in (operation.get("requestBody", {}), *operation["responses"].values()):
                for content in body.get("content", {}).values():
                    assert "example" in content
                    described += 1
            for parameter in operation.get("parameters", []):
                assert (
                    parameter["schema"].get("examples") or "default" in parameter["schema"] or parameter.get("example")
                )
    assert described > 80


def test_the_log_has_a_line_a_request_with_the_routes_form_and_nothing_else(server, site, log):
    answer = site.call("GET", f"/v1/cohorts/{pseudonym(77)}?{MARKER}=1", headers={"User-Agent": MARKER})
    assert site.call("GET", "/v1/me").status_code == 200  # by now the line before it is written
    (line,) = [line for line in log() if line.get("route", "").startswith("/v1/cohorts")]
    assert set(line) == {"time", "level", "logger", "event", "request", "method", "route", "status", "ms"}
    assert (line["method"], line["route"], line["status"]) == ("GET", "/v1/cohorts/{cohort_id}", 404)
    assert line["request"] == answer.headers["X-Request-ID"]
    assert MARKER not in json.dumps(log())
