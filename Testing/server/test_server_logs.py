"""The log: one JSON object a line, with ids and numbers, and never a word that a user or a request brought along."""

import asyncio
import io
import json
import logging
import sys
import threading
from pathlib import Path

import pytest
import requests

from ppcmi_server.api.access_log import AccessLog
from ppcmi_server.operation.logs import configure_logging, describe, log_error
from ppcmi_server.operation.metrics import Metrics
from ppcmi_server.settings import LogSettings
from support.markers import Markers
from support.real_server import real_server

FIXED = {"time", "level", "logger", "event"}


@pytest.fixture
def log_of():
    """``log_of(format)``: a stream that gets what is logged from now on."""
    root, hooks = logging.getLogger(), (sys.excepthook, threading.excepthook)
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in ("", "ppcmi", "ppcmi_server")}

    def configure(**settings):
        stream = io.StringIO()
        configure_logging(LogSettings(**settings), stream)
        return stream

    yield configure
    logging.captureWarnings(False)
    sys.excepthook, threading.excepthook = hooks
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def lines_of(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_with_its_fields(log_of):
    stream = log_of()
    logging.getLogger("ppcmi_server.training.jobs").info("job-started", extra={"fields": {"job": 3, "epochs": 12}})
    (line,) = lines_of(stream)
    assert line["event"] == "job-started"
    assert (line["level"], line["logger"], line["job"], line["epochs"]) == ("info", "ppcmi_server.training.jobs", 3, 12)
    assert line["time"].endswith("Z")


def test_as_text_it_is_a_line_for_people(log_of):
    stream = log_of(format="text")
    logging.getLogger("ppcmi_server.training.jobs").warning(
        "job-stuck", extra={"fields": {"job": 3, "why": "no sign of life"}}
    )
    assert stream.getvalue().endswith('Z warning ppcmi_server.training.jobs job-stuck job=3 why="no sign of life"\n')


@pytest.mark.parametrize(("level", "events"), [("debug", 3), ("info", 2), ("error", 1)])
def test_the_level_is_that_of_the_settings(log_of, level, events):
    stream = log_of(level=level)
    for number in (logging.DEBUG, logging.INFO, logging.ERROR):
        logging.getLogger("ppcmi_server").log(number, "event")
    assert len(lines_of(stream)) == events


@pytest.mark.parametrize("form", ["json", "text"])
def test_of_other_libraries_lines_and_of_errors_only_kind_and_place_are_written(log_of, form):
    stream, markers = log_of(format=form), Markers()

    def fail():
        try:
            Path(f"/{markers.word()}").read_bytes()
        except FileNotFoundError as error:
            raise ValueError(markers.word()) from error

    for name in ("uvicorn.error", "sqlalchemy.engine", "asyncio"):
        logging.getLogger(name).error("%s " + markers.word(), markers.word())
        logging.getLogger(name).info(markers.word())
    try:
        fail()
    except ValueError as error:
        log_error("unexpected", error)
        logging.getLogger("botocore").exception(markers.word())
    logging.getLogger("ppcmi_server.x").error("%s", markers.word())  # not how we log
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    log = stream.getvalue()
    assert not [word for word in markers.words if word in log]
    assert "uncaught-in-thread" in log
    assert log.count("ValueError") == 3
    assert "test_server_logs.fail:" in log
    assert "FileNotFoundError" in log
    assert log.count("\n") == 3 + 2 + 1 + 1


def test_an_error_without_a_trace_is_described_too():
    assert describe(None) == {"kind": "unknown"}
    assert describe(KeyError("secret"))["kind"] == "KeyError"


def test_a_log_that_cannot_be_written_stops_nothing_and_shows_nothing(log_of, capsys):
    stream = log_of()
    stream.close()
    logging.getLogger("ppcmi_server").error("event")
    assert capsys.readouterr() == ("", "")


def test_an_unexpected_error_is_a_500_and_a_line_with_the_answers_id(log_of):
    stream, markers, answers = log_of(), Markers(), []

    async def fails(scope, receive, send):
        raise RuntimeError(markers.word())

    async def send(message):
        answers.append(message)

    scope = {"type": "http", "method": "GET", "path": f"/{markers.word()}", "headers": []}
    asyncio.run(AccessLog(fails, Metrics())(scope, None, send))
    error, request = lines_of(stream)
    (request_id,) = [value.decode() for name, value in answers[0]["headers"] if name == b"x-request-id"]
    assert (error["event"], error["kind"]) == ("unexpected", "RuntimeError")
    assert (request["event"], request["status"], request["route"]) == ("request", 500, "-")
    assert error["request"] == request["request"] == request_id
    text = stream.getvalue() + answers[1]["body"].decode()
    assert not [word for word in markers.words if word in text]


def test_nothing_that_requests_bring_along_is_in_a_servers_log_or_on_its_disk(tmp_path):
    markers = Markers()
    word = markers.word
    with real_server(tmp_path / "server") as server:
        code = server.add_site("Hospital A")
        session = requests.Session()
        calls = [
            ("GET", f"/v1/tasks/{word()}?patient={word()}", {}),
            ("GET", f"/{word()}/{word()}", {"headers": {"Authorization": f"Bearer {word()}", "User-Agent": word()}}),
            ("GET", "/v1/me", {"headers": {"Authorization": f"Bearer {word(43)}", "Cookie": f"a={word()}"}}),
            ("GET", "/v1/me", {"headers": {"Authorization": f"Basic {word()}", "X-Request-ID": word()}}),
            ("POST", "/v1/enrol", {"json": {"code": word(), "public_key": word(), word(): word()}}),
            ("POST", "/v1/enrol", {"json": {"code": code, "public_key": "A" * 42 + "=="}}),
            ("POST", "/v1/enrol", {"data": f"{{{word()}", "headers": {"Content-Type": f"text/{word()}"}}),
            ("POST", "/v1/enrol", {"files": {word(): (f"../{word()}", word())}}),
            (word(8), "/v1/me", {}),
        ]
        for method, path, options in calls:
            answer = session.request(method, server.url + path, timeout=20, **options)
            assert 400 <= answer.status_code < 500, (method, path)
            assert not [marker for marker in markers.words if marker in answer.text]
    assert server.log.count('"event": "request"') == len(calls)
    stored = b"".join(path.read_bytes() for path in server.folder.rglob("*") if path.is_file())
    assert not [marker for marker in markers.words if marker in server.log or marker.encode() in stored]
    log = [line for line in server.log.splitlines() if line.startswith("{")]
    assert [line for line in log if json.loads(line).keys() >= FIXED] == log
    for never in (str(tmp_path), "127.0.0.1", "Traceback", code, "Hospital"):
        assert not [line for line in log if never in line]
