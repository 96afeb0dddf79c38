"""Networks that members share: one a member, for members alone, of the present codec, gone when taken back."""

import re

import pytest
import requests
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from ppcmi_server import shared_networks
from ppcmi_server.access import identity, operators
from ppcmi_server.cli.main import main
from ppcmi_server.config import load_config
from ppcmi_server.database.schema import AuditEvent, SharedNetwork
from ppcmi_server.errors import RefusalError
from ppcmi_server.operation import backup, restore
from ppcmi_server.services import open_services
from support.app_server import CODEC, TASK, app_server
from support.shared_networks import (
    PATH,
    get_network,
    list_networks,
    networks,
    share_network,
    withdraw_network,
)

pytestmark = pytest.mark.usefixtures("every_storage")

NEXT_CODEC = "c0dec" + "1" * 27


@pytest.fixture
def server(tmp_path):
    with app_server(tmp_path / "server", network_bytes=1 << 20) as server:
        yield server


@pytest.fixture
def members(server):
    """The founder and another member."""
    return server.add_consortium("Hospital A", "Hospital B")


def expect_problem(answer, status, kind):
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:ppcmi:problem:{kind}"), answer.text


def stored(server):
    """What the blob store has of networks."""
    blobs = server.services.blobs
    return sorted(blobs.read(f"networks/{name}") for name in blobs.names("networks"))


def events(server, *actions):
    with server.services.database.reading() as session:
        found = select(AuditEvent).where(AuditEvent.action.in_(actions)).order_by(AuditEvent.id)
        return [(event.action, event.actor, event.objects) for event in session.scalars(found)]


def test_members_list_and_get_what_members_share(server, members):
    first, second = members
    assert list_networks(first) == []
    expect_problem(get_network(first, second), 404, "not-found")
    content = bytes(range(256)) * 4000  # several pieces
    assert share_network(second, content).status_code == 204
    (entry,) = list_networks(first)
    assert set(entry) == {"site_id", "site_name", "shared", "version", "bytes"}
    assert (entry["site_id"], entry["site_name"], entry["bytes"]) == (second.site_id, "Hospital B", len(content))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry["shared"])
    for member in members:  # its own too
        answer = get_network(member, second)
        assert (answer.status_code, answer.content) == (200, content)
        assert answer.headers["X-PPCMI-Codec"] == CODEC
    assert events(server, "network.share") == [
        ("network.share", second.site_id, {"task": TASK.name, "codec": CODEC})
    ]  # nothing of what is in it


def test_they_are_listed_the_oldest_first(server, members):
    first, second = members
    for site, moment in ((first, "2026-02-02T00:00:00Z"), (second, "2026-01-01T00:00:00Z")):
        share_network(site, b"network")
        with server.services.database.writing() as session:
            session.scalars(select(SharedNetwork).where(SharedNetwork.site_id == site.site_id)).one().shared = moment
    assert [entry["site_name"] for entry in list_networks(first)] == ["Hospital B", "Hospital A"]


def test_the_newest_replaces_the_members_earlier_one_and_no_bytes_of_it_stay(server, members):
    first, second = members
    share_network(first, b"another member's")
    versions = set()
    for content in (b"earlier", b"newest", b"newest"):
        share_network(second, content)
        versions |= {entry["version"] for entry in list_networks(first) if entry["site_id"] == second.site_id}
    assert len(versions) == 3  # so that nobody gets again what has not changed, and everybody what has
    assert networks(first) == {first.site_id: b"another member's", second.site_id: b"newest"}
    assert stored(server) == [b"another member's", b"newest"]


def test_a_member_takes_its_own_back_and_nobody_elses(server, members):
    first, second = members
    share_network(first, b"first")
    share_network(second, b"second")
    for _ in range(2):  # again changes nothing
        withdraw_network(second)
    assert networks(second) == {first.site_id: b"first"}
    assert stored(server) == [b"first"]
    assert events(server, "network.withdraw") == [("network.withdraw", second.site_id, {"task": TASK.name})]


def test_only_networks_of_the_present_codec_are_taken(server, members):
    answer = share_network(members[1], b"network", NEXT_CODEC)
    expect_problem(answer, 409, "another-codec")
    assert answer.json()["detail"] == "The consortium has another codec by now; get it and refine again."
    assert (list_networks(members[0]), stored(server)) == ([], [])


def test_another_codec_takes_all_networks_away_and_the_same_one_none(server, members):
    founder, other = members
    for member in members:
        share_network(member, member.name.encode())
    founder.client.put_codec(TASK.name, b"the same codec, encrypted anew", CODEC)
    assert len(list_networks(founder)) == 2
    founder.client.put_codec(TASK.name, b"another encrypted codec", NEXT_CODEC)
    assert (list_networks(founder), stored(server)) == ([], [])
    expect_problem(get_network(founder, other), 404, "not-found")
    assert share_network(other, b"refined again", NEXT_CODEC).status_code == 204
    assert networks(founder) == {other.site_id: b"refined again"}


def test_where_every_site_has_a_codec_of_its_own_no_network_is_shared(server):
    (site,) = server.add_consortium("Hospital A", scope="site")
    expect_problem(share_network(site, b"network"), 409, "networks-not-shared")
    assert list_networks(site) == []


def test_who_is_no_member_neither_sees_nor_shares_networks(server, members):
    share_network(members[0], b"network")
    outsider = server.add_site("Hospital C")
    expect_problem(share_network(outsider, b"network"), 403, "forbidden")
    expect_problem(get_network(outsider, members[0]), 403, "forbidden")
    for method, path in (("GET", "networks"), ("DELETE", "network")):
        expect_problem(outsider.call(method, f"{PATH}/{path}"), 403, "forbidden")
    assert networks(members[1]) == {members[0].site_id: b"network"}


@pytest.mark.parametrize("prepare", [bytes, lambda body: iter([body])], ids=["declared", "chunked"])
def test_a_network_that_is_too_large_or_empty_is_refused_and_the_earlier_one_stays(server, members, prepare):
    site = members[0]
    share_network(site, b"earlier")
    expect_problem(share_network(site, prepare(bytes((1 << 20) + 1))), 413, "content-too-large")
    expect_problem(share_network(site, prepare(b"")), 422, "invalid")
    assert networks(site) == {site.site_id: b"earlier"}
    assert stored(server) == [b"earlier"]


def test_a_network_overtaken_by_another_codec_while_it_came_leaves_no_bytes(server, members):
    founder, other = members

    def slowly():
        yield b"network "
        founder.client.put_codec(TASK.name, b"another encrypted codec", NEXT_CODEC)
        yield b"of the codec before"

    expect_problem(share_network(other, slowly()), 409, "another-codec")
    assert stored(server) == []


def test_bytes_that_a_failure_left_without_a_row_are_swept_and_others_are_not(server, members, monkeypatch):
    def lose_the_database(*_):
        raise OperationalError("statement", {}, Exception())

    share_network(members[0], b"kept")
    with monkeypatch.context() as failing:
        failing.setattr(shared_networks, "share", lose_the_database)
        assert share_network(members[1], b"nobody knows whether its row was kept").status_code == 500
    assert len(stored(server)) == 2
    server.services.cohorts.sweep()  # it may be one that is under way
    assert len(stored(server)) == 2
    server.services.cohorts.sweep(older_than_s=-1)
    assert stored(server) == [b"kept"]


def test_one_replaced_in_the_very_moment_it_is_asked_for_is_not_found(server, members):
    share_network(members[0], b"network")
    server.services.blobs.delete("networks")
    expect_problem(get_network(members[1], members[0]), 404, "not-found")


def test_the_network_of_a_revoked_site_is_offered_to_nobody_and_its_bytes_go(server, members):
    founder, leaving = members
    share_network(founder, b"founder's")
    share_network(leaving, b"leaving's")
    with server.services.database.writing() as session:
        identity.revoke_site(session, leaving.name)
    assert networks(founder) == {founder.site_id: b"founder's"}
    expect_problem(get_network(founder, leaving), 404, "not-found")
    server.services.cohorts.sweep(older_than_s=-1)
    assert stored(server) == [b"founder's"]
    founder.client.put_codec(TASK.name, b"another encrypted codec", NEXT_CODEC)
    assert stored(server) == []


def test_a_restored_server_offers_the_same_networks(server, members, tmp_path):
    for member in members:
        share_network(member, member.name.encode())
    backup.create_backup(server.services, tmp_path / "backup.tar", "four random words here")
    restore.restore(tmp_path / "backup.tar", tmp_path / "restored", {}, "four random words here")
    services = open_services(load_config(tmp_path / "restored"))
    try:
        with services.database.reading() as session:
            caller = identity.authenticate(session, members[0].token)
            found = shared_networks.list_networks(session, TASK.name, caller)
            assert {site.name: services.blobs.read(network.blob) for network, site in found} == {
                "Hospital A": b"Hospital A", "Hospital B": b"Hospital B",
            }  # fmt: skip
            with pytest.raises(RefusalError):
                shared_networks.find_network(session, TASK.name, caller, "0" * 16)
    finally:
        services.database.close()


def test_the_page_of_a_task_says_how_many_members_share_theirs(server, members):
    with server.services.database.writing() as session:
        token = operators.add_operator(session, "Night shift")
    browser, root = requests.Session(), f"{server.url}/dashboard"
    browser.post(f"{root}/login", data={"token": token}, timeout=30)
    assert "no member shares its own" in browser.get(f"{root}/tasks/{TASK.name}", timeout=30).text
    share_network(members[1], b"network")
    assert "shared by 1 of 2 members" in browser.get(f"{root}/tasks/{TASK.name}", timeout=30).text
    assert "network.share" in browser.get(f"{root}/audit", timeout=30).text


def test_the_operator_takes_a_network_back_for_its_site(server, members, capsys):
    first, second = members
    for site, content in ((first, b"one"), (second, b"another")):
        share_network(site, content)
    folder = ("--dir", str(server.services.config.folder))
    assert main(["network", "list", TASK.name, *folder]) == 0
    listed = capsys.readouterr().out
    assert "Hospital A" in listed
    assert "Hospital B" in listed
    assert main(["network", "withdraw", TASK.name, "Hospital B", *folder]) == 0
    assert "gone" in capsys.readouterr().out
    assert networks(first) == {first.site_id: b"one"}
    assert stored(server) == [b"one"]
    assert ("network.withdraw", "operator", {"task": TASK.name, "site": second.site_id}) in events(
        server, "network.withdraw"
    )
    assert main(["network", "withdraw", TASK.name, "Hospital B", *folder]) == 0
    assert "has no network" in capsys.readouterr().out
