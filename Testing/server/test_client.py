"""The client against a server on loopback that behaves well, badly, or not at all."""

import json
import socket
import threading
import time

import pytest

from ppcmi.client import Patience, ServerClient
from ppcmi.errors import CancelledError, ConnectionFailedError, ServerRefusedError, UsageError
from ppcmi.server_address import normalize_url
from support.loopback import Answer, loopback_server, write_certificate

IMPATIENT = Patience(connect_s=2, read_s=5, attempts=3, pause_s=0.01, longest_pause_s=0.2)
INFO = json.dumps({"service": "ppcmi-server", "version": "1", "protocol": 1, "public_key": ""}).encode()


def problem(status, title, detail="", **headers):
    body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail}).encode()
    return Answer(status, body, {"Content-Type": "application/problem+json", **headers})


def answers(*in_turn):
    """A responder that gives these answers one after the other, the last one for ever."""
    left = list(in_turn)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("https://ppcmi.example.org:8765/", "https://ppcmi.example.org:8765"),
        ("ppcmi.example.org", "https://ppcmi.example.org"),
        ("  ppcmi.example.org/behind/proxy// ", "https://ppcmi.example.org/behind/proxy"),
        ("localhost:8765", "http://localhost:8765"),
        ("127.0.0.1:8765", "http://127.0.0.1:8765"),
        ("http://[::1]:8765", "http://[::1]:8765"),
    ],
)
def test_an_address_is_understood_as_people_type_it(typed, meant):
    assert normalize_url(typed) == meant
    assert normalize_url(meant) == meant


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "http://ppcmi.example.org",
        "ftp://127.0.0.1",
        "https://user:secret@host",
        "https://host?x=1",
        "a b",
        "host:99999",
    ],
)
def test_an_address_that_is_unsafe_or_nonsense_is_refused(typed):
    with pytest.raises(UsageError) as caught:
        normalize_url(typed)
    assert "secret" not in str(caught.value)


def test_the_token_goes_into_the_header_and_never_into_the_address():
    with loopback_server(lambda request: Answer(body=b"{}")) as server:
        ServerClient(server.url, "the-token", patience=IMPATIENT).me()
    (request,) = server.requests
    assert request.headers["Authorization"] == "Bearer the-token"
    assert "the-token" not in request.path


def test_a_netrc_entry_does_not_replace_the_token(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with loopback_server(lambda request: Answer()) as server:
        ServerClient(server.url, "the-token", patience=IMPATIENT).me()
    assert server.requests[0].headers["Authorization"] == "Bearer the-token"


def test_names_are_quoted_in_addresses():
    with loopback_server(lambda request: Answer()) as server:
        ServerClient(server.url, patience=IMPATIENT).find_site("Hospital B & C/../x")
    assert server.requests[0].path == "/v1/sites?name=Hospital%20B%20%26%20C%2F..%2Fx"


def test_a_problem_document_becomes_a_refusal_with_its_text():
    with loopback_server(answers(problem(409, "Consortium exists", "Ask to be invited."))) as server:
        client = ServerClient(server.url, "t", patience=IMPATIENT)
        with pytest.raises(ServerRefusedError, match="Consortium exists: Ask to be invited") as caught:
            client.create_consortium("phantom", "consortium", "two-layer", "00")
    assert caught.value.status == 409
    assert len(server.requests) == 1


def test_what_a_server_writes_cannot_move_the_cursor_of_a_terminal():
    with (
        loopback_server(answers(problem(403, "No\x1b[2J\nway"))) as server,
        pytest.raises(ServerRefusedError) as caught,
    ):
        ServerClient(server.url, patience=IMPATIENT).me()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"detail": 1}', b"\xff\xfe"])
def test_a_refusal_without_a_problem_document_is_still_a_refusal(body):
    with loopback_server(answers(Answer(404, body))) as server, pytest.raises(ServerRefusedError, match="404"):
        ServerClient(server.url, patience=IMPATIENT).me()


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_waited_for_as_long_as_it_asks(status):
    busy = problem(status, "Busy", **{"Retry-After": "0.1"})
    with loopback_server(answers(busy, Answer(body=b"mapped"))) as server:
        start = time.monotonic()
        assert ServerClient(server.url, "t", patience=IMPATIENT).map_bundle("phantom", b"latents", 1) == b"mapped"
    assert time.monotonic() - start >= 0.1
    assert [request.body for request in server.requests] == [b"latents", b"latents"]


def test_a_server_that_stays_busy_is_given_up_with_its_own_words():
    with (
        loopback_server(answers(problem(503, "Busy", "Try later."))) as server,
        pytest.raises(ServerRefusedError, match="Try later"),
    ):
        ServerClient(server.url, patience=IMPATIENT).me()
    assert len(server.requests) == IMPATIENT.attempts


def test_a_gateway_error_is_tried_again_only_where_that_cannot_do_harm():
    with loopback_server(answers(Answer(502), Answer(200))) as server:
        client = ServerClient(server.url, patience=IMPATIENT)
        client.me()
        assert len(server.requests) == 2
    with (
        loopback_server(answers(Answer(502))) as server,
        pytest.raises(ServerRefusedError),
    ):
        ServerClient(server.url, patience=IMPATIENT).enrol("code", b"key")
    assert len(server.requests) == 1


def test_nobody_there_is_a_sentence_not_a_traceback():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ConnectionFailedError, match="cannot be reached"):
        ServerClient(f"127.0.0.1:{port}", patience=IMPATIENT).info()


def test_a_server_that_is_not_ours_is_told_apart():
    with (
        loopback_server(answers(Answer(body=b'{"hello": 1}'))) as server,
        pytest.raises(ConnectionFailedError, match="not a PPCMI server"),
    ):
        ServerClient(server.url, patience=IMPATIENT).info()
    with (
        loopback_server(answers(Answer(body=INFO.replace(b'"protocol": 1', b'"protocol": 9')))) as server,
        pytest.raises(ConnectionFailedError, match="another version"),
    ):
        ServerClient(server.url, patience=IMPATIENT).info()


def test_an_answer_without_end_is_not_swallowed():
    with (
        loopback_server(answers(Answer(body=b" " * (5 << 20)))) as server,
        pytest.raises(ConnectionFailedError, match="larger"),
    ):
        ServerClient(server.url, patience=IMPATIENT).me()
    assert len(server.requests) == 1


def test_redirects_are_not_followed_because_the_token_would_go_along():
    with loopback_server(answers(Answer())) as elsewhere:
        redirect = Answer(307, b"", {"Location": f"{elsewhere.url}/v1/me"})
        with loopback_server(answers(redirect)) as server, pytest.raises(ConnectionFailedError, match="elsewhere"):
            ServerClient(server.url, "t", patience=IMPATIENT).me()
    assert elsewhere.requests == []


def test_a_certificate_that_nobody_vouches_for_is_refused_whatever_the_environment_says(tmp_path, monkeypatch):
    certificate = write_certificate(tmp_path / "server.pem")
    monkeypatch.setenv("PYTHONHTTPSVERIFY", "0")
    with loopback_server(answers(Answer(body=INFO)), certificate) as server:
        untrusting = ServerClient(server.url, patience=IMPATIENT)
        with pytest.raises(ConnectionFailedError, match="certificate is not trusted"):
            untrusting.info()
        assert ServerClient(server.url, ca_file=certificate, patience=IMPATIENT).info()["protocol"] == 1
        assert len(server.requests) == 1


def test_a_certificate_for_another_host_is_refused(tmp_path):
    certificate = write_certificate(tmp_path / "server.pem", address="10.0.0.1")
    with (
        loopback_server(answers(Answer(body=INFO)), certificate) as server,
        pytest.raises(ConnectionFailedError, match="certificate is not trusted"),
    ):
        ServerClient(server.url, ca_file=certificate, patience=IMPATIENT).info()


def test_only_the_authority_that_was_chosen_is_trusted(tmp_path, monkeypatch):
    chosen, other = write_certificate(tmp_path / "chosen.pem"), write_certificate(tmp_path / "other.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))
    with (
        loopback_server(answers(Answer(body=INFO)), other) as server,
        pytest.raises(ConnectionFailedError, match="certificate is not trusted"),
    ):
        ServerClient(server.url, ca_file=chosen, patience=IMPATIENT).info()


def test_a_file_that_is_no_certificate_authority_is_named_as_the_fault(tmp_path):
    (tmp_path / "ca.pem").write_text("nothing of the kind")
    with pytest.raises(ConnectionFailedError, match="PEM"):
        ServerClient("https://127.0.0.1:1", ca_file=tmp_path / "ca.pem")


@pytest.mark.parametrize("with_tls", [False, True])
def test_cancelling_ends_a_call_at_once_and_the_server_sees_it(tmp_path, with_tls):
    certificate = write_certificate(tmp_path / "server.pem") if with_tls else None
    arrived, release = threading.Event(), threading.Event()

    def respond(request):
        arrived.set()
        release.wait(5)
        return Answer(body=b"x" * (8 << 20))

    with loopback_server(respond, certificate) as server:
        client = ServerClient(server.url, ca_file=certificate, patience=IMPATIENT)
        raised = []

        def call():
            try:
                client.map_bundle("phantom", b"latents", 1)
            except CancelledError as error:
                raised.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        assert arrived.wait(5)
        start = time.monotonic()
        client.abort()
        thread.join(2)
        assert time.monotonic() - start < 1
        assert len(raised) == 1
        release.set()
        assert server.disconnects.wait(5)


def test_a_client_works_again_after_cancelling():
    with loopback_server(answers(Answer(body=INFO))) as server:
        client = ServerClient(server.url, patience=IMPATIENT)
        client.info()
        client.abort()
        assert client.info()["protocol"] == 1


def test_cancelling_ends_the_pause_before_another_try():
    with loopback_server(answers(problem(503, "Busy", **{"Retry-After": "60"}))) as server:
        client = ServerClient(server.url, patience=Patience(pause_s=60, longest_pause_s=60))
        timer = threading.Timer(0.2, client.abort)
        timer.start()
        start = time.monotonic()
        with pytest.raises(CancelledError):
            client.me()
        assert time.monotonic() - start < 5
