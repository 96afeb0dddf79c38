"""Clients that take their time, or say two things at once: they are cut off, and nobody else notices."""

import contextlib
import re
import socket
import ssl
import statistics
import time
from urllib.parse import urlsplit

import pytest
import requests

from ppcmi_server.operation.connections import ServingConfig
from ppcmi_server.settings import ServeSettings
from support.app_server import TASK, app_server, make_latents, running
from support.loopback import write_certificate
from support.random_models import add_model, random_umn

HEADER_S = 1.0
SLOW = 500
SETTINGS = ServeSettings(header_seconds=HEADER_S, keep_alive_seconds=2.0, connections=256)
LIMITS = {"idle_seconds": 20.0, "body_seconds": 2.0, "bundle_bytes": 1 << 20}
HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with app_server(tmp_path_factory.mktemp("slow") / "server", {"serve": SETTINGS}, **LIMITS) as server:
        yield server


@pytest.fixture(scope="module")
def site(server):
    return server.add_consortium("Hospital A")[0]


@pytest.fixture
def connect(server):
    parts = urlsplit(server.url)
    with contextlib.ExitStack() as open_sockets:

        def connect():
            return open_sockets.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=15))

        yield connect


def seconds_until_cut_off(connection):
    """How long until the server ends the connection; what it says before does not count."""
    start = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while connection.recv(1 << 16):
            pass
    return time.monotonic() - start


def drip(connection, data, pause_s=0.1):
    """Send byte by byte until the server has had enough, or everything is sent."""
    start = time.monotonic()
    with contextlib.suppress(OSError):
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(pause_s)
        return None
    return time.monotonic() - start


def is_answered(connection):
    """Whether a whole request to the health check gets its whole answer."""
    connection.sendall(HEAD + b"\r\n")
    got = b""
    while not got.endswith(b"}") and (data := connection.recv(4096)):
        got += data
    return got.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT", HEAD + b"X-Padding: "], ids=["nothing", "a line", "headers"])
def test_a_head_that_does_not_come_to_its_end_is_waited_for_only_so_long(connect, sent):
    connection = connect()
    connection.sendall(sent)
    assert HEADER_S * 0.5 < seconds_until_cut_off(connection) < HEADER_S * 3


def test_a_head_that_comes_byte_by_byte_has_no_longer_than_one_that_does_not_come_at_all(connect):
    assert drip(connect(), HEAD + b"X-Padding: " + b"a" * 200) < HEADER_S * 3


def test_the_second_head_of_a_connection_has_the_same_deadline_and_an_idle_connection_its_own(connect):
    connection = connect()
    assert is_answered(connection)
    time.sleep(HEADER_S * 1.2)  # idle connections stay longer than heads may take
    assert is_answered(connection)
    assert drip(connection, HEAD + b"X-Padding: " + b"a" * 200) < HEADER_S * 3
    idle = connect()
    assert is_answered(idle)
    assert SETTINGS.keep_alive_seconds * 0.7 < seconds_until_cut_off(idle) < SETTINGS.keep_alive_seconds * 2


def test_a_body_that_always_comes_a_little_further_ends_as_a_whole(site, connect):
    connection = connect()
    head = f"POST /v1/tasks/{TASK.name}/invitations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.token}\r\n"
    connection.sendall(head.encode() + b"Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n")
    assert drip(connection, b"{" * 200) < LIMITS["body_seconds"] * 2.5
    with contextlib.suppress(ConnectionError):
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_body_that_nobody_asked_for_is_not_read_for_ever_after_the_answer(connect):
    connection = connect()
    connection.sendall(b"POST /v1/nothing-here HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
    assert connection.recv(4096).startswith(b"HTTP/1.1 404")
    assert drip(connection, b"x" * 300) < HEADER_S * 4


def test_a_client_that_does_not_read_its_answers_is_cut_off(server, connect):
    connection = connect()
    connection.settimeout(0.5)
    asked, request = 0, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nX-Padding: " + b"a" * 4000 + b"\r\n\r\n"
    with contextlib.suppress(OSError):
        while asked < 5000:
            connection.sendall(request)
            asked += 1
    assert asked < 5000, "the server took any number of requests whose answers nobody reads"
    time.sleep(LIMITS["body_seconds"] + 0.5)
    connection.settimeout(15)
    seconds_until_cut_off(connection)
    assert requests.get(server.url + "/healthz", timeout=15).status_code == 200


def test_an_answer_that_nobody_reads_counts_as_memory_until_its_client_is_cut_off(tmp_path):
    limits = {"bundle_bytes": 32 << 20, "body_seconds": 4.0}
    with app_server(tmp_path / "server", {"serve": SETTINGS}, **limits) as server:
        (site,), memory = server.add_consortium("Hospital A"), server.app.state.body_memory
        add_model(server.services, random_umn())
        bundle, free = site.bundle(make_latents(1500, 1)), memory.left
        parts = urlsplit(server.url)
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(60)
            connection.connect((parts.hostname, parts.port))
            head = f"POST /v1/tasks/{TASK.name}/map HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.token}\r\n"
            connection.sendall(head.encode() + f"Content-Length: {len(bundle)}\r\n\r\n".encode() + bundle)
            assert connection.recv(12) == b"HTTP/1.1 200"
            time.sleep(1)
            assert memory.left <= free - len(bundle)
            assert server.mapper.waiting == 0
            time.sleep(limits["body_seconds"])
            assert memory.left == free


def test_hundreds_of_slow_clients_do_not_delay_an_honest_one(server, site, connect):
    """More connections than the server lets there be: the slow ones push each other out."""

    def honest(count):
        times = []
        for _ in range(count):
            start = time.monotonic()
            assert site.call("GET", "/v1/me").status_code == 200
            times.append(time.monotonic() - start)
        return times

    honest(5)
    alone = statistics.median(honest(20))
    slow = []
    for number in range(SLOW):
        connection = connect()
        connection.sendall(HEAD[: number % len(HEAD)])
        slow.append(connection)
    among_slow = honest(20)
    assert statistics.median(among_slow) < 2 * alone + 0.02
    assert max(among_slow) < 2
    time.sleep(HEADER_S * 1.5)
    with contextlib.suppress(ConnectionError):
        assert slow[-1].recv(100) == b""
    honest(3)


SMUGGLED = b"GET /v1/tasks HTTP/1.1\r\nHost: x\r\n\r\n"
TWO_MEANINGS = {
    "length and chunks": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": b"Content-Length: 0\r\nContent-Length: 40\r\n\r\n" + SMUGGLED,
    "a list of lengths": b"Content-Length: 0, 40\r\n\r\n" + SMUGGLED,
    "a length with a sign": b"Content-Length: +0\r\n\r\n" + SMUGGLED,
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunked twice": b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a space before the colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a folded line": b"Content-Length: 0\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a line without a return": b"Content-Length: 0\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk's size that is none": b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n" + SMUGGLED,
    "a name with a null": b"Content-Length\x00: 0\r\n\r\n" + SMUGGLED,
}


@pytest.mark.parametrize("name", TWO_MEANINGS)
def test_a_request_whose_end_two_readers_could_see_at_two_places_is_refused_and_its_connection_closed(connect, name):
    connection = connect()
    connection.sendall(b"POST /v1/nothing-here HTTP/1.1\r\nHost: x\r\n" + TWO_MEANINGS[name])
    got = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            got += data
    assert got.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501")), got
    assert len(re.findall(rb"HTTP/1.1 [0-9]", got)) == 1, "what was smuggled behind it was answered as well"
    if got.startswith(b"HTTP/1.1 400"):
        assert b"application/problem+json" in got


def test_a_body_in_very_many_very_small_chunks_is_refused_before_it_costs_anything(server, site, connect):
    connection, sent, start = connect(), 0, time.monotonic()
    connection.sendall(
        f"PUT /v1/tasks/{TASK.name}/codec HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.token}\r\n"
        f"X-PPCMI-Codec: {'0' * 32}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    )
    with contextlib.suppress(OSError):
        while sent < 100 << 20:
            connection.sendall(b"1\r\nx\r\n" * 1000)
            sent += 6000
    assert sent < 20 << 20
    assert time.monotonic() - start < 5
    assert site.call("GET", "/v1/me").status_code == 200


def test_a_head_without_end_is_refused_within_a_few_kilobytes(connect):
    connection, sent = connect(), 0
    connection.sendall(HEAD)
    with contextlib.suppress(OSError):
        while sent < 10 << 20:
            connection.sendall(b"X-Padding: " + b"a" * 1000 + b"\r\n")
            sent += 1000
    assert sent < 5 << 20


def test_a_tls_handshake_that_does_not_go_on_is_cut_off(tmp_path):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    certificate = write_certificate(tmp_path / "server.pem")
    config = ServingConfig(
        app, SETTINGS, 2.0, port=0, log_config=None, lifespan="off", ssl_certfile=certificate, ssl_keyfile=certificate
    )
    with running(config) as address:
        with socket.create_connection(address, timeout=15) as silent:
            assert HEADER_S * 0.5 < seconds_until_cut_off(silent) < HEADER_S * 3
        context = ssl.create_default_context(cafile=certificate)
        with (
            socket.create_connection(address, timeout=15) as plain,
            context.wrap_socket(plain, server_hostname=address[0]) as connection,
        ):
            assert is_answered(connection)
            assert drip(connection, HEAD + b"X-Padding: " + b"a" * 200) < HEADER_S * 3
