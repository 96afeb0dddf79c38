"""How often one caller may ask: wrong codes and tokens by address, requests by token, and nobody for another's sake."""

import re

import pytest
import requests
from requests.adapters import HTTPAdapter

from ppcmi_server.access import identity
from ppcmi_server.api.rates import BUCKETS_KEPT, FailedAttempts, Rate
from ppcmi_server.errors import RefusalError
from support.app_server import app_server

PUBLIC_KEY = "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
WRONG_CODE = {"code": "aaaa-aaaa-aaaa-aaaa-aaaa", "public_key": PUBLIC_KEY}
LET_THROUGH = 5


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with app_server(tmp_path_factory.mktemp("rates") / "server") as server:
        yield server


@pytest.fixture
def attempts(server, clock):
    """The server's account of failed attempts, with a clock of the test's."""
    server.app.state.failed_attempts = FailedAttempts(LET_THROUGH, clock)
    return server.app.state.failed_attempts


def new_code(server, name):
    with server.services.database.writing() as session:
        return identity.add_site(session, name)


def enrol(server, body, address="127.0.0.1"):
    return call("POST", server.url + "/v1/enrol", address, json=body)


def call(method, url, address="127.0.0.1", **options):
    """A request from one of this machine's own addresses, which are all of 127.0.0.0/8."""

    class FromAddress(HTTPAdapter):
        def init_poolmanager(self, *arguments, **more):
            super().init_poolmanager(*arguments, **more, source_address=(address, 0))

    with requests.Session() as session:
        session.mount("http://", FromAddress())
        return session.request(method, url, timeout=30, **options)


def require_wait(answer):
    assert answer.status_code == 429
    assert answer.json()["type"] == "urn:ppcmi:problem:too-many"
    wait = int(answer.headers["Retry-After"])
    assert 1 <= wait <= 60
    assert f"{wait} s" in answer.json()["detail"]
    return wait


def test_codes_cannot_be_guessed_by_trying_many(server, attempts, clock):
    code = new_code(server, "Guessed")
    assert [enrol(server, WRONG_CODE).status_code for _ in range(LET_THROUGH)] == [403] * LET_THROUGH
    right = {"code": code, "public_key": PUBLIC_KEY}
    wait = require_wait(enrol(server, right))  # not even the right one, or guessing would go on
    assert enrol(server, right, "127.0.0.2").status_code == 201  # from elsewhere it works meanwhile
    clock.now += wait
    assert enrol(server, WRONG_CODE).status_code == 403


def test_a_code_that_is_right_but_badly_used_is_no_failed_attempt(server, attempts):
    code = new_code(server, "Small order")
    for _ in range(2 * LET_THROUGH):
        assert enrol(server, {"code": code, "public_key": "A" * 43 + "="}).status_code == 422


def test_wrong_tokens_are_slowed_down_and_right_ones_from_the_same_address_are_not(server, attempts):
    site = server.add_site("Behind the same proxy")
    wrong = {"Authorization": "Bearer " + "x" * 43}
    me = server.url + "/v1/me"
    assert [call("GET", me, headers=wrong).status_code for _ in range(LET_THROUGH)] == [401] * LET_THROUGH
    require_wait(call("GET", me, headers=wrong))
    assert site.call("GET", "/v1/me").status_code == 200
    assert call("GET", me, "127.0.0.3", headers=wrong).status_code == 401
    assert call("GET", me).status_code == 401  # without a token nothing was tried


def test_a_token_that_once_was_right_is_no_guess(server, attempts):
    site = server.add_site("Revoked")
    with server.services.database.writing() as session:
        identity.revoke_site(session, "Revoked")
    assert {site.call("GET", "/v1/me").status_code for _ in range(3 * LET_THROUGH)} == {401}
    assert enrol(server, WRONG_CODE).status_code == 403


def test_one_sites_flood_is_answered_429_and_the_other_site_does_not_notice(server, clock):
    busy, calm = server.add_site("Busy"), server.add_site("Calm")
    server.app.state.request_rate = Rate(10, 60, clock)
    answers = [busy.call("GET", "/v1/me") for _ in range(15)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [429] * 5
    wait = require_wait(answers[-1])
    assert {calm.call("GET", "/v1/me").status_code for _ in range(10)} == {200}
    clock.now += wait
    assert busy.call("GET", "/v1/me").status_code == 200


def test_a_client_waits_as_long_as_it_is_asked_to(server, clock):
    site = server.add_site("Patient")
    server.app.state.request_rate = Rate(1, 1.5)
    site.call("GET", "/v1/me")
    from ppcmi.client import Patience, ServerClient

    patient = ServerClient(server.url, site.token, patience=Patience(5, 30, attempts=3, pause_s=0.01))
    assert patient.me()["site_id"] == site.site_id
    server.app.state.request_rate = Rate(1_000_000, 60)


def test_a_bucket_fills_up_evenly_and_never_over(clock):
    rate = Rate(60, 60, clock)
    rate.take("a", 60)
    with pytest.raises(RefusalError) as refused:
        rate.take("a", 30)
    assert refused.value.headers == {"Retry-After": "30"}
    clock.now += 30
    rate.take("a", 30)
    clock.now += 1_000_000
    rate.take("a", 60)
    with pytest.raises(RefusalError):
        rate.take("a")


def test_what_is_larger_than_the_bucket_is_let_in_when_that_is_full_and_waited_for_afterwards(clock):
    rate = Rate(10, 10, clock)
    rate.take("a", 100)
    with pytest.raises(RefusalError) as refused:
        rate.take("a")
    assert refused.value.headers == {"Retry-After": "91"}


def test_a_clock_that_stands_still_or_many_callers_cost_a_bounded_memory(clock):
    rate = Rate(1, 60, clock)
    for number in range(BUCKETS_KEPT + 500):
        rate.take(str(number))
    assert len(rate._buckets) == BUCKETS_KEPT
    with pytest.raises(RefusalError):
        rate.take(str(BUCKETS_KEPT + 499))  # the newest are those that are kept


def test_a_whole_ipv6_network_is_one_caller(clock):
    attempts = FailedAttempts(1, clock)
    attempts.note("2001:db8::1")
    for same in ("2001:db8::2", "2001:db8::ffff:1"):
        with pytest.raises(RefusalError):
            attempts.require_room(same)
    attempts.require_room("2001:db8:0:1::1")
    attempts.note("::ffff:192.0.2.7")
    with pytest.raises(RefusalError):
        attempts.require_room("192.0.2.7")
    attempts.require_room("192.0.2.8")
    attempts.note("no address at all")


def test_what_is_kept_of_an_address_has_another_key_in_every_process(clock):
    kept = []
    for _ in range(2):
        attempts = FailedAttempts(1, clock)
        for address in ("2001:db8::1", "192.0.2.7"):
            attempts.note(address)
        kept += attempts._rate._buckets
    assert all(re.fullmatch(r"[0-9a-f]{32}", name) for name in kept)
    assert len(set(kept)) == 4


def test_the_servers_log_and_database_have_no_address(server, attempts, capfd):
    enrol(server, WRONG_CODE, "127.99.88.77")
    content = b"".join(file.read_bytes() for file in server.services.config.folder.rglob("*") if file.is_file())
    assert b"127.99.88.77" not in content
    assert "127.99.88.77" not in "".join(capfd.readouterr())
