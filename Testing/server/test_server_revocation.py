"""What ends when access is revoked: also what is under way in that moment, and what others could do by it."""

import hashlib
import re
import threading

import pytest
import requests
from sqlalchemy import func, select

from ppcmi_server.access import identity, operators
from ppcmi_server.api import bodies
from ppcmi_server.cli.main import main
from ppcmi_server.database.schema import Chunk, Consortium, Frame, Invitation, SharedNetwork
from support.app_server import TASK, app_server
from support.shared_networks import PATH, share_network

pytestmark = pytest.mark.usefixtures("every_storage")

NEXT_CODEC = "c0dec" + "1" * 27


@pytest.fixture
def server(tmp_path):
    with app_server(tmp_path / "server") as server:
        yield server


@pytest.fixture
def members(server):
    """The founder and another member."""
    return server.add_consortium("Hospital A", "Hospital B")


def revoke_site(server, site):
    with server.services.database.writing() as session:
        identity.revoke_site(session, site.name)


def revoke_token(server, site):
    """As the site itself does with a token that was stolen; its access stays."""
    with server.services.database.writing() as session:
        (token,) = identity.tokens_of(session, site.site_id)
        token.revoked = True


def send_codec(site, body, _):
    return site.call("PUT", f"{PATH}/codec", data=body(b"another codec"), headers={"X-PPCMI-Codec": NEXT_CODEC})


def send_network(site, body, _):
    return share_network(site, body(b"network"))


def send_frame(site, body, folder):
    cohort = site.write_cohort(folder / "a.ppcmi", [1])
    cohort_id = site.client.create_cohort(TASK.name, cohort.header_bytes)
    return site.call("PUT", f"/v1/cohorts/{cohort_id}/frames/0", data=body(next(cohort.frames())[1].data))


def send_chunk(site, body, folder):
    cohort = site.write_cohort(folder / "a.ppcmi", [1])
    cohort_id = site.client.create_cohort(TASK.name, cohort.header_bytes)
    frame = next(cohort.frames())[1].data
    digests = {"Frame-Digest": frame, "Digest": frame[:1000]}
    headers = {f"X-PPCMI-{name}": hashlib.sha256(data).hexdigest() for name, data in digests.items()}
    headers["X-PPCMI-Frame-Bytes"] = str(len(frame))
    return site.call("PUT", f"/v1/cohorts/{cohort_id}/frames/0/chunks/0", data=body(frame[:1000]), headers=headers)


def kept(server):
    """What the server has of uploads: rows, and blobs that are whole."""
    services = server.services
    with services.database.reading() as session:
        rows = [session.scalar(select(func.count()).select_from(kind)) for kind in (Frame, Chunk, SharedNetwork)]
        codec = session.execute(select(Consortium.codec, Consortium.codec_blob)).one()
    blobs = [services.blobs.names(folder) for folder in ("codecs", "networks")]
    blobs += [services.blobs.names(f"cohorts/{cohort}") for cohort in services.blobs.names("cohorts")]
    return rows, tuple(codec), sorted(name for names in blobs for name in names if not name.endswith(".part"))


@pytest.mark.parametrize(("revoke", "kind"), [(revoke_site, "revoked"), (revoke_token, "token-ended")])
@pytest.mark.parametrize("send", [send_codec, send_network, send_frame, send_chunk])
def test_an_upload_under_way_ends_without_effect(server, members, tmp_path, monkeypatch, send, revoke, kind):
    """Whoever has a stolen token may begin a body and hold it for half an hour."""
    founder, begun = members[0], threading.Event()
    receive_chunks = bodies.receive_chunks

    def receive(*arguments):
        begun.set()
        return receive_chunks(*arguments)

    def body(content):
        yield content[:3]
        assert begun.wait(30)  # the server has let it in
        revoke(server, founder)
        before.append(kept(server))
        yield content[3:]

    monkeypatch.setattr(bodies, "receive_chunks", receive)
    before = []
    answer = send(founder, body, tmp_path)
    assert (answer.status_code, answer.json()["type"]) == (401, f"urn:ppcmi:problem:{kind}")
    assert [kept(server)] == before


def test_nobody_joins_by_an_invitation_of_a_revoked_site(server, members):
    founder, member = members
    invited = server.add_site("Hospital C")
    member.client.invite(TASK.name, invited.site_id, b"sealed")
    revoke_site(server, member)
    assert invited.call("GET", f"{PATH}/invitation").status_code == 404
    assert invited.call("POST", f"{PATH}/members", json={}).status_code == 403
    founder.client.invite(TASK.name, invited.site_id, b"sealed")
    assert invited.call("POST", f"{PATH}/members", json={}).status_code == 204


def test_the_newest_invitation_is_that_of_a_site_that_was_not_revoked(server, members):
    founder, member = members
    invited = server.add_site("Hospital C")
    for site in members:
        site.client.invite(TASK.name, invited.site_id, f"sealed by {site.name}".encode())
    revoke_site(server, member)
    assert invited.call("GET", f"{PATH}/invitation").json()["from"] == founder.name


def test_an_invitation_left_by_a_server_that_did_not_delete_them_is_worth_nothing(server, members):
    """Sites that an earlier version revoked have theirs in the database still."""
    invited = server.add_site("Hospital C")
    revoke_site(server, members[1])
    with server.services.database.writing() as session:
        task_id = session.scalar(select(Consortium.task_id))
        moment = "2026-01-01T00:00:00Z"
        session.add(
            Invitation(
                task_id=task_id, from_id=members[1].site_id, to_id=invited.site_id, sealed=b"sealed", created=moment
            )
        )  # fmt: skip
    assert invited.call("GET", f"{PATH}/invitation").status_code == 404
    assert invited.call("POST", f"{PATH}/members", json={}).status_code == 403


def test_invitations_to_a_revoked_site_are_deleted(server, members):
    invited = server.add_site("Hospital C")
    members[0].client.invite(TASK.name, invited.site_id, b"sealed")
    revoke_site(server, invited)
    with server.services.database.reading() as session:
        assert session.scalars(select(Invitation)).all() == []


def test_a_revoked_site_is_no_longer_counted_as_a_member(server, members, capsys):
    revoke_site(server, members[1])
    assert members[0].client.task(TASK.name)["consortium"]["members"] == 1
    assert main(["task", "list", "--dir", str(server.services.config.folder)]) == 0
    assert re.search(r"tiny@1 +- +1\n", capsys.readouterr().out)
    page = log_in(server)("GET", f"/tasks/{TASK.name}").text
    assert "Hospital B" in page  # it is shown, as revoked


def log_in(server):
    """Requests of an operator's browser."""
    with server.services.database.writing() as session:
        token = operators.add_operator(session, "Night shift")
    browser, root = requests.Session(), f"{server.url}/dashboard"
    browser.post(f"{root}/login", {"token": token}, timeout=20)
    return lambda method, path, **fields: browser.request(method, root + path, data=fields, timeout=20)


def by_command(server, site):
    assert main(["site", "revoke", site.name, "--dir", str(server.services.config.folder)]) == 0


def in_the_dashboard(server, site):
    send = log_in(server)
    csrf = re.search(r'name="csrf" value="([^"]+)"', send("GET", "/sites").text)[1]
    assert "its tokens no longer work" in send("POST", f"/sites/{site.site_id}/revoke", csrf=csrf).text


@pytest.mark.parametrize("revoke", [by_command, in_the_dashboard])
def test_the_bytes_of_a_revoked_sites_network_go_at_once(server, members, revoke):
    for site in members:
        share_network(site, site.name.encode())
    revoke(server, members[1])
    blobs = server.services.blobs
    assert [blobs.read(f"networks/{name}") for name in blobs.names("networks")] == [b"Hospital A"]
