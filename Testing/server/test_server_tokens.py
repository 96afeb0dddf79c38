"""Tokens: replaced without a gap, narrower for workstations, ended at once, stored as hashes, forgiving of clocks."""

import random
import subprocess
import sys
import time

import pytest
import requests
from sqlalchemy import select

from ppcmi.cli.main import main as site_main
from ppcmi.client import ServerClient
from ppcmi.connection_check import check_site
from ppcmi.connection_errors import TokenEndedError
from ppcmi.errors import ServerRefusedError, SiteError
from ppcmi.site import SiteProfile
from ppcmi.site_token import rotate_token, use_token
from ppcmi_server import clock
from ppcmi_server.access import identity, operators, site_tokens, tokens
from ppcmi_server.cli.main import main
from ppcmi_server.database.schema import AuditEvent, EnrolmentCode, Token
from support.app_server import IMPATIENT, app_server

HOUR_S = 3600
ROTATE = """
import sys; from pathlib import Path
from ppcmi.site import SiteProfile; from ppcmi.site_token import rotate_token
site = SiteProfile.open(Path(sys.argv[1])); print("ready", flush=True)
while True: rotate_token(site)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with app_server(tmp_path_factory.mktemp("tokens") / "server") as server:
        yield server


@pytest.fixture
def site(server, request):
    return server.add_site(ascii(request.node.name)[:90])


@pytest.fixture
def profile(server, request, tmp_path):
    with server.services.database.writing() as session:
        code = identity.add_site(session, f"Profile of {request.node.name}"[:90])
    return SiteProfile.enrol(tmp_path / "site", server.url, code)


def with_token(server, token):
    return ServerClient(server.url, token, patience=IMPATIENT)


def stored(server, token):
    with server.services.database.reading() as session:
        return tokens.find_token(session, token)


def change(server, token, **values):
    with server.services.database.writing() as session:
        found = tokens.find_token(session, token)
        for name, value in values.items():
            setattr(found, name, value)


def refused(status, call, *arguments):
    with pytest.raises(ServerRefusedError) as caught:
        call(*arguments)
    assert caught.value.status == status
    return caught.value


def test_a_replaced_token_works_until_an_hour_after_the_new_one_was_first_used(server, site):
    new = site.client.rotate_token()
    assert site.client.me()["site_id"] == site.site_id
    assert stored(server, site.token).expires is None  # nobody has the new one yet, as far as the server knows
    assert with_token(server, new).me()["scopes"] == list(tokens.SITE_SCOPES)
    assert clock.now() < stored(server, site.token).expires <= clock.in_future(HOUR_S / 86400)
    assert site.client.me()["site_id"] == site.site_id
    change(server, site.token, expires=clock.ago(2 * tokens.LEEWAY_S))
    refused(401, site.client.me)


def test_a_replaced_token_ends_at_once_when_the_site_says_so(server, site):
    new = with_token(server, site.client.rotate_token())
    new.retire_token()
    with pytest.raises(TokenEndedError):
        site.client.me()
    new.retire_token()  # again changes nothing
    assert new.me()["site_id"] == site.site_id


def test_who_goes_on_with_a_replaced_token_is_told_to_take_up_the_new_one(server, profile):
    old = (profile.folder / "token").read_text()
    rotate_token(profile)
    profile.keep_token(old)  # as on another workstation
    assert "replaced" in check_site(profile).sentence


def test_of_new_tokens_that_never_arrived_none_works(server, site):
    lost = [site.client.rotate_token() for _ in range(3)]
    newest = site.client.rotate_token()
    for token in lost:
        refused(401, with_token(server, token).me)
    assert with_token(server, newest).me()["site_id"] == site.site_id


def test_a_token_whose_successor_is_in_use_cannot_be_replaced_again(server, site):
    """Whoever stole the old one gets no token of their own out of it."""
    with_token(server, site.client.rotate_token()).me()
    assert "replaced already" in str(refused(409, site.client.rotate_token))


def test_a_rotation_keeps_scopes_label_and_the_day_on_which_it_expires(server, site):
    narrow = site.client.add_token("reading room", ["segment"], 3)
    new = with_token(server, narrow).rotate_token()
    before, after = stored(server, narrow), stored(server, new)
    assert (after.scopes, after.label, after.expires) == (["segment"], "reading room", before.expires)


def test_a_profile_rotates_its_token_and_the_old_one_ends(server, profile):
    old = (profile.folder / "token").read_text()
    rotate_token(profile)
    assert profile.client(IMPATIENT).me()["site_id"] == profile.identity.site_id
    assert (profile.folder / "token").stat().st_mode & 0o777 == 0o600
    refused(401, with_token(server, old).me)


def test_a_rotation_that_is_killed_anywhere_leaves_a_profile_that_works(profile):
    pauses = random.Random(7)
    seen = {(profile.folder / "token").read_text()}
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", ROTATE, str(profile.folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(subprocess.TimeoutExpired):  # it goes on until it is killed
            process.wait(pauses.uniform(0.02, 0.5))
        process.kill()
        process.communicate()
        seen.add((profile.folder / "token").read_text())
        assert profile.client(IMPATIENT).me()["site_id"] == profile.identity.site_id
    assert len(seen) > 1  # some got as far as a new one


def test_a_workstations_token_does_what_it_is_for_and_nothing_else(server, site):
    narrow = with_token(server, site.client.add_token("reading room", ["segment"], None))
    assert narrow.me()["scopes"] == ["segment"]
    assert "scope" in str(refused(403, narrow.withdraw, "0" * 32))
    for call in (
        lambda: narrow.add_token("more", ["segment"], None),
        narrow.tokens,
        lambda: narrow.revoke_token("0" * 16),
    ):
        assert "every scope" in str(refused(403, call))


def test_a_site_sees_its_own_tokens_and_ends_them_at_once(server, site):
    token = site.client.add_token("reading room", ["validate", "segment"], 30)
    (listed,) = (entry for entry in site.client.tokens() if entry["label"])
    assert listed["scopes"] == ["segment", "validate"]
    assert clock.now() < listed["expires"] <= clock.in_future(30)
    assert token not in str(site.client.tokens())
    other = server.add_site("Neighbor of " + site.name[:70])
    refused(404, other.client.revoke_token, listed["id"])
    assert with_token(server, token).me()
    site.client.revoke_token(listed["id"])
    refused(401, with_token(server, token).me)
    site.client.revoke_token(listed["id"])  # again changes nothing
    (own,) = site.client.tokens()
    assert own["current"]
    refused(409, site.client.revoke_token, own["id"])


@pytest.mark.parametrize(
    ("label", "scopes", "days"),
    [
        ("", ["segment"], None),
        ("x" * 61, ["segment"], None),
        ("two\nlines", ["segment"], None),
        ("room", [], None),
        ("room", ["operate"], None),
        ("room", ["segment"], 0),
        ("room", ["segment"], 1e9),
    ],
)
def test_a_token_that_cannot_be_is_refused(site, label, scopes, days):
    refused(422, site.client.add_token, label, scopes, days)


def test_a_site_has_a_bounded_number_of_tokens(server, site):
    with server.services.database.writing() as session:
        for _ in range(site_tokens.MOST_TOKENS - 1):
            tokens.make_token(session, site.site_id, ["segment"], "one of many")
    refused(409, site.client.add_token, "one too many", ["segment"], None)


def test_a_workstation_takes_up_a_token_of_its_own_site_only(server, profile, site):
    narrow = profile.client().add_token("reading room", ["segment"], None)
    assert use_token(profile, f" {narrow}\n") == ["segment"]
    assert (profile.folder / "token").read_text() == narrow
    with pytest.raises(SiteError, match="another site's"):
        use_token(profile, site.token)
    with pytest.raises(SiteError, match="does not know this token"):
        use_token(profile, "x" * 43)
    assert profile.client().me()["scopes"] == ["segment"]


def test_a_site_manages_its_tokens_by_commands(profile, tmp_path, capsys):
    def run(*words):
        code = site_main(["site", *words, "--site", str(profile.folder)])
        return code, capsys.readouterr().out

    code, printed = run("token", "add", "reading room 2", "--days", "30")
    token = printed.strip()
    assert (code, len(token)) == (0, 43)
    code, table = run("token", "list")
    assert code == 0
    assert "reading room 2" in table
    assert "this one" in table
    assert token not in table
    assert run("rotate-token")[0] == 0
    narrow, wide = tmp_path / "token.txt", (profile.folder / "token").read_text()
    narrow.write_text(token + "\n")
    code, said = run("token", "use", "--token-file", str(narrow))
    assert code == 0
    assert "it allows: segment." in said
    assert run("token", "list")[0] == ServerRefusedError.exit_code  # a workstation does not manage tokens
    profile.keep_token(wide)
    (listed,) = (entry["id"] for entry in profile.client().tokens() if not entry["current"])
    assert run("token", "revoke", listed)[0] == 0
    assert run("token", "use", "--token-file", str(narrow))[0] == SiteError.exit_code
    assert profile.client().me()["scopes"] == list(tokens.SITE_SCOPES)


def test_a_clock_that_is_off_by_a_minute_ends_nothing_and_one_that_jumps_back_neither(server, site):
    token = site.client.add_token("reading room", ["segment"], 1)
    change(server, token, expires=clock.ago(tokens.LEEWAY_S / 2))
    assert with_token(server, token).me()
    change(server, token, created=clock.in_future(1), last_used=clock.in_future(1), expires=clock.in_future(2))
    assert with_token(server, token).me()
    change(server, token, expires=clock.ago(tokens.LEEWAY_S + 5))
    assert "expired" in str(refused(401, with_token(server, token).me))


def test_whoever_tests_the_connection_with_an_expired_token_is_told_so(server, profile):
    token = profile.client().add_token("reading room", ["segment"], 1)
    change(server, token, expires=clock.ago(2 * tokens.LEEWAY_S))
    profile.keep_token(token)
    check = check_site(profile)
    assert not check.ready
    assert "expired" in check.sentence


def test_a_code_has_the_same_leeway(server):
    def code_that_expired(seconds):
        with server.services.database.writing() as session:
            code = identity.add_site(session, f"Expired {seconds} s ago")
            found = session.scalar(select(EnrolmentCode).where(EnrolmentCode.code_hash == tokens.digest_of(code)))
            found.expires = clock.ago(seconds)
        return code

    body = {
        "code": code_that_expired(tokens.LEEWAY_S / 2),
        "public_key": "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    }
    assert requests.post(server.url + "/v1/enrol", json=body, timeout=30).status_code == 201
    body["code"] = code_that_expired(tokens.LEEWAY_S + 5)
    answer = requests.post(server.url + "/v1/enrol", json=body, timeout=30)
    assert answer.status_code == 403
    assert "ask the server's operator for a new one" in answer.json()["detail"]


def test_the_last_use_is_noted_but_not_at_every_request(server, site):
    site.client.me()
    first = stored(server, site.token).last_used
    assert first is not None
    half_an_hour_ago = clock.ago(HOUR_S / 2)
    change(server, site.token, last_used=half_an_hour_ago)
    site.client.me()
    assert stored(server, site.token).last_used == half_an_hour_ago
    change(server, site.token, last_used=clock.ago(2 * HOUR_S))
    site.client.me()
    deadline = time.monotonic() + 10
    while stored(server, site.token).last_used < first:  # it is noted after the answer
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_neither_token_nor_code_is_stored(server, site):
    with server.services.database.writing() as session:
        code = identity.add_site(session, "Never enrolled")
    operator = _new_operator(server, "Ops")
    server.services.database.erase_traces()
    content = b"".join(file.read_bytes() for file in server.services.config.folder.rglob("*") if file.is_file())
    for secret in (site.token, operator, code):
        assert secret.encode() not in content
        if server.services.database.url.startswith("sqlite"):
            assert tokens.digest_of(secret) in content  # the search finds what is there


def _new_operator(server, label, **options):
    with server.services.database.writing() as session:
        return operators.add_operator(session, label, **options)


def _operator(server, token):
    with server.services.database.reading() as session:
        return operators.authenticate_operator(session, token)


def test_an_operators_token_tells_who_acts_and_ends_at_once(server, site):
    token = _new_operator(server, " Dr. Ops ", scopes=["observe"], days=1)
    operator = _operator(server, token)
    assert (operator.label, operator.scopes, operator.actor) == (
        "Dr. Ops",
        ("observe",),
        f"operator-{operator.token_id}",
    )
    assert _operator(server, site.token) is None
    with server.services.database.writing() as session:
        assert operators.operator_of(session, operator.token_id) == operator
        assert operators.operator_of(session, stored(server, site.token).id) is None
        operators.revoke_operator(session, operator.token_id, actor="operator-99")
    assert _operator(server, token) is None
    with server.services.database.reading() as session:
        assert operators.operator_of(session, operator.token_id) is None
        newest = session.scalars(select(AuditEvent).order_by(AuditEvent.id.desc())).first()
    assert (newest.actor, newest.action) == ("operator-99", "operator.revoke")
    change(server, _new_operator(server, "Brief"), expires=clock.ago(2 * tokens.LEEWAY_S))


def test_an_expired_operators_token_opens_nothing(server):
    token = _new_operator(server, "Brief", days=1)
    assert _operator(server, token) is not None
    change(server, token, expires=clock.ago(2 * tokens.LEEWAY_S))
    assert _operator(server, token) is None


def test_operators_and_sites_are_managed_by_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "server"

    def run(*words):
        code = main([*words, *(() if words[0] == "init" else ("--dir", str(folder)))])
        return code, capsys.readouterr().out

    run("init", str(folder))
    code, printed = run("operator", "add", "Grafana", "--scope", "observe", "--days", "90")
    token = printed.strip()
    assert code == 0
    assert len(token) == 43
    code, table = run("operator", "list")
    assert "Grafana" in table
    assert "valid" in table
    assert token not in table
    assert run("operator", "revoke", "1")[0] == 0
    assert "revoked" in run("operator", "list")[1]
    assert run("operator", "revoke", "77")[0] == 14
    run("site", "add", "Hospital A")
    for words in (("quota", "Hospital A", "1.5G"), ("weight", "Hospital A", "0.5"), ("tokens", "Hospital A")):
        assert run("site", *words)[0] == 0
    for words in (("quota", "Hospital A", "much"), ("weight", "Hospital A", "nan"), ("weight", "Hospital A", "-1")):
        assert run("site", *words)[0] == 2
    assert run("site", "quota", "Hospital B", "1G")[0] == 10
    with _database(folder).reading() as session:
        site = identity.site_named(session, "Hospital A")
    assert (site.quota_bytes, site.weight) == (3 << 29, 0.5)


def _database(folder):
    from ppcmi_server.config import load_config
    from ppcmi_server.database.engine import Database

    return Database(load_config(folder))


def test_every_token_is_another(server):
    with server.services.database.reading() as session:
        hashes = session.scalars(select(Token.token_hash)).all()
    assert len(set(hashes)) == len(hashes) > 10
