"""The test of the connection says which of the things that can be wrong is wrong."""

import json
import socket

import pytest

from ppcmi.cli.main import main
from ppcmi.connection_check import CALLS, Verdict, check_address, check_site
from ppcmi.errors import ConnectionFailedError, ServerRefusedError, UsageError
from ppcmi.site import SiteProfile
from support.loopback import Answer, loopback_server, write_certificate
from support.real_server import real_server

INFO = {"service": "ppcmi-server", "version": "7", "protocol": 1, "public_key": ""}


def answering(**by_end_of_path):
    """A responder: the answer whose name ends the request's path, else 404."""
    return lambda request: by_end_of_path.get(request.path.rsplit("/", 1)[-1], Answer(404))


def info(**changes):
    return Answer(body=json.dumps({**INFO, **changes}).encode())


def problem(status, kind):
    return Answer(status, json.dumps({"type": f"urn:ppcmi:problem:{kind}", "title": "No", "status": status}).encode())


@pytest.fixture(scope="module")
def a_server(tmp_path_factory):
    with real_server(tmp_path_factory.mktemp("server") / "server") as server:
        yield server


def test_an_enrolled_site_is_ready_and_a_revoked_one_is_told_so(a_server, tmp_path, capsys):
    site = SiteProfile.enrol(tmp_path / "site", a_server.url, a_server.add_site("Hospital A"))
    check = check_site(site)
    assert (check.verdict, check.site_name, check.exit_code) == (Verdict.READY, "Hospital A", 0)
    assert 0 < check.round_trip_ms < 5000
    assert main(["site", "test", "--site", str(site.folder)]) == 0
    assert "knows Hospital A" in capsys.readouterr().out
    a_server.command("site", "revoke", "Hospital A")
    check = check_site(site)
    assert check.verdict is Verdict.REVOKED
    assert check.round_trip_ms > 0
    assert main(["site", "test", "--site", str(site.folder)]) == ServerRefusedError.exit_code
    assert "token revoked" in capsys.readouterr().err


def test_a_site_that_the_server_never_saw_is_not_enrolled(a_server, tmp_path):
    assert check_address(a_server.url).verdict is Verdict.NOT_ENROLLED
    site = SiteProfile.enrol(tmp_path / "site", a_server.url, a_server.add_site("Hospital B"))
    (site.folder / "token").write_text("x" * 43)
    check = check_site(site)
    assert check.verdict is Verdict.NOT_ENROLLED
    assert check.server_version is not None
    assert "x" * 43 not in check.sentence
    (site.folder / "token").unlink()
    assert check_site(site).verdict is Verdict.NOT_ENROLLED


def test_nobody_at_home_is_found_out_without_many_tries():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    check = check_address(address)
    assert check.verdict is Verdict.UNREACHABLE
    assert check.exit_code == ConnectionFailedError.exit_code
    assert check.round_trip_ms is None


@pytest.mark.parametrize("status", [502, 503, 429])
def test_a_server_that_cannot_answer_at_the_moment_is_not_another_one(status):
    with loopback_server(answering(info=Answer(status))) as server:
        check = check_address(server.url)
        assert check.verdict is Verdict.UNREACHABLE
        assert len(server.requests) == 1


def test_a_certificate_that_nobody_vouches_for_is_told_from_one_that_somebody_does(tmp_path):
    certificate = write_certificate(tmp_path / "server.pem")
    responder = answering(info=info(), me=problem(401, "unauthorized"))
    with loopback_server(responder, certificate) as server:
        assert check_address(server.url).verdict is Verdict.UNTRUSTED
        assert check_address(server.url, certificate).verdict is Verdict.NOT_ENROLLED
        (tmp_path / "no.pem").write_text("nothing")
        assert check_address(server.url, tmp_path / "no.pem").verdict is Verdict.UNTRUSTED
        assert check_address(server.url, tmp_path / "absent.pem").verdict is Verdict.UNTRUSTED


def test_a_port_without_tls_is_not_a_matter_of_certificates():
    with loopback_server(answering(info=info())) as server:
        assert check_address(server.url.replace("http:", "https:")).verdict is Verdict.OTHER_SERVER


@pytest.mark.parametrize(
    "answer",
    [
        Answer(404, b"<html>"),
        Answer(200, b"<html>"),
        Answer(200, b"[]"),
        Answer(302, b"", {"Location": "/login"}),
        problem(401, "unauthorized"),
        info(service="another"),
    ],
)
def test_another_kind_of_server_is_named_as_such(answer):
    with loopback_server(answering(info=answer)) as server:
        assert check_address(server.url).verdict is Verdict.OTHER_SERVER


def test_a_server_of_another_protocol_is_a_version_mismatch():
    with loopback_server(answering(info=info(protocol=2))) as server:
        assert check_address(server.url).verdict is Verdict.OTHER_VERSION


def test_the_round_trip_is_the_median_of_several_calls():
    with loopback_server(answering(info=info(), me=Answer(body=b'{"site_name": "A\\u001b[2J"}'))) as server:
        check = check_address(server.url)
    assert check.ready
    assert check.server_version == "7"
    assert check.site_name.isprintable()
    assert sum(request.path == "/v1/info" for request in server.requests) == 1 + CALLS


def test_an_address_that_is_none_is_the_users_error():
    with pytest.raises(UsageError):
        check_address("http://ppcmi.example.org")
