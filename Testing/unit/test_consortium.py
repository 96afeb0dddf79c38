"""Founding, inviting, joining and sharing a codec, also with a server that is not honest."""

import dataclasses
from pathlib import Path

import pytest

from ppcmi import consortium, sealing
from ppcmi.client import ServerClient
from ppcmi.codec.codec import Codec
from ppcmi.errors import CodecError, ConnectionFailedError, KeyMismatchError, PpcmiError, ServerRefusedError, SiteError
from ppcmi.task import load_task
from support.relay import relay_for

TASK_FILE = Path(__file__).parents[2] / "Resources" / "Tasks" / "phantom.json"
TASK = "phantom"


@pytest.fixture
def a_relay():
    with relay_for(TASK_FILE.read_text()) as relay:
        yield relay


@pytest.fixture
def site_a(a_relay, tmp_path):
    return a_relay.enrol(tmp_path, "A")


@pytest.fixture
def site_b(a_relay, tmp_path):
    return a_relay.enrol(tmp_path, "B")


@pytest.fixture(scope="module")
def a_codec():
    return Codec(load_task(TASK_FILE), "autoencoder", {"quality": {}})


def found(site, scope="consortium", mode="two-layer"):
    return consortium.create(site, site.client(), TASK, scope, mode)


def invite(site, name):
    client = site.client()
    consortium.invite(site, client, site.task(TASK), consortium.find_peer(client, name))


def test_a_member_that_is_invited_has_the_founder_s_inner_key(site_a, site_b):
    founded = found(site_a)
    invite(site_a, "B")
    joined, inviter = consortium.join(site_b, site_b.client(), TASK)
    assert joined.inner_key == founded.inner_key
    assert consortium.inner_check_of(joined) == consortium.inner_check_of(founded)
    assert inviter.fingerprint == sealing.fingerprint(site_a.public_key)
    assert (founded.membership.founder, joined.membership.founder) == (True, False)


def test_a_lost_answer_to_founding_does_not_lose_the_inner_key(site_a, a_relay, monkeypatch):
    founding = ServerClient.create_consortium

    def lose_the_answer(*arguments):
        founding(*arguments)
        raise ConnectionFailedError("The server does not answer in time; try again later.")

    with monkeypatch.context() as network:
        network.setattr(ServerClient, "create_consortium", lose_the_answer)
        with pytest.raises(ConnectionFailedError):
            found(site_a)
    assert consortium.inner_check_of(site_a.task(TASK)) == a_relay.consortium["inner_check"]
    with pytest.raises(SiteError, match="already"):
        found(site_a)


def test_founding_that_never_arrived_goes_on_with_the_same_key(site_a, a_relay):
    key = found(site_a).inner_key
    a_relay.consortium = None
    assert found(site_a).inner_key == key
    assert a_relay.consortium is not None


def test_the_server_sees_neither_the_inner_key_nor_a_way_to_it(site_a, site_b, a_relay):
    key = found(site_a).inner_key
    invite(site_a, "B")
    sealed, _ = a_relay.invitations["B"]
    assert key not in sealed
    context = consortium._invitation_context(load_task(TASK_FILE), site_a.identity.site_id, site_b.identity.site_id)
    with pytest.raises(PpcmiError):
        sealing.open_sealed(a_relay.private_key, sealed, context)
    assert key.hex() not in str(a_relay.consortium)


def test_with_scope_site_every_member_makes_an_inner_key_of_its_own(site_a, site_b):
    founded = found(site_a, scope="site")
    invite(site_a, "B")
    joined, _ = consortium.join(site_b, site_b.client(), TASK)
    assert joined.membership.scope == "site"
    assert joined.inner_key != founded.inner_key


def test_paper_mode_has_no_inner_layer_to_check(site_a):
    assert consortium.inner_check_of(found(site_a, mode="paper")) is None


def test_a_consortium_is_founded_once_and_the_second_try_leaves_nothing_behind(site_a, site_b):
    found(site_a)
    with pytest.raises(ServerRefusedError) as caught:
        found(site_b)
    assert caught.value.status == 409
    assert not site_b.takes_part_in(TASK)


def test_nobody_joins_without_an_invitation(site_a, site_b):
    found(site_a)
    with pytest.raises(SiteError, match="ask a member"):
        consortium.join(site_b, site_b.client(), TASK)
    assert not site_b.takes_part_in(TASK)


def test_who_invited_can_be_seen_before_joining_and_nobody_else_is_joined_then(site_a, site_b, a_relay, tmp_path):
    with pytest.raises(consortium.NotInvitedError):
        consortium.find_inviter(site_b.client(), TASK)
    found(site_a)
    invite(site_a, "B")
    inviter = consortium.find_inviter(site_b.client(), TASK)
    assert (inviter.site_name, inviter.fingerprint) == ("A", sealing.fingerprint(site_a.public_key))
    a_relay.enrol(tmp_path, "C")
    a_relay.invitations["B"] = (a_relay.invitations["B"][0], "C")
    with pytest.raises(SiteError, match="Another invitation"):
        consortium.join(site_b, site_b.client(), TASK, inviter)
    assert not site_b.takes_part_in(TASK)
    a_relay.invitations["B"] = (a_relay.invitations["B"][0], "A")
    assert consortium.join(site_b, site_b.client(), TASK, inviter)[1] == inviter


def test_an_invitation_for_one_site_is_useless_to_another(site_a, site_b, a_relay, tmp_path):
    found(site_a)
    invite(site_a, "B")
    site_c = a_relay.enrol(tmp_path, "C")
    a_relay.invitations["C"] = a_relay.invitations["B"]
    with pytest.raises(KeyMismatchError):
        consortium.join(site_c, site_c.client(), TASK)
    assert not site_c.takes_part_in(TASK)


def test_an_invitation_that_the_server_made_up_is_refused(site_a, site_b, a_relay, tmp_path):
    # The server knows every public key, so it can seal; it cannot prove that A did.
    impostor = a_relay.enrol(tmp_path, "Impostor")
    found(site_a)
    task = load_task(TASK_FILE)
    as_if_from_a = dataclasses.replace(impostor.identity, site_id=site_a.identity.site_id)
    impostor.identity = as_if_from_a
    part = impostor.add_task(task, site_a.task(TASK).membership, bytes(32))
    consortium.invite(impostor, impostor.client(), part, consortium.find_peer(impostor.client(), "B"))
    sealed, _ = a_relay.invitations["B"]
    a_relay.invitations["B"] = (sealed, "A")
    with pytest.raises(SiteError, match="not made by the site"):
        consortium.join(site_b, site_b.client(), TASK)
    assert not site_b.takes_part_in(TASK)


def test_another_key_for_the_invited_site_shows_in_the_fingerprint(site_a, site_b, a_relay):
    found(site_a)
    told_on_the_telephone = sealing.fingerprint(site_b.public_key)
    consortium.find_peer(site_a.client(), "B").require_fingerprint(told_on_the_telephone.upper() + " ")
    a_relay.public_keys["B"] = sealing.public_key_of(sealing.new_private_key())
    with pytest.raises(KeyMismatchError, match="do not go on"):
        consortium.find_peer(site_a.client(), "B").require_fingerprint(told_on_the_telephone)


def test_a_member_gets_the_codec_that_the_founder_published(site_a, site_b, a_codec, a_relay):
    part = found(site_a)
    invite(site_a, "B")
    joined, _ = consortium.join(site_b, site_b.client(), TASK)
    with pytest.raises(CodecError, match="not published"):
        consortium.ensure_codec(site_b.client(), joined)
    consortium.publish_codec(site_a.client(), part, a_codec)
    assert consortium.ensure_codec(site_b.client(), joined).fingerprint == a_codec.fingerprint
    assert consortium.own_codec(joined).fingerprint == a_codec.fingerprint
    assert a_codec.to_bytes()[:4096] not in a_relay.codec[0]


def test_another_codec_takes_away_what_belonged_to_the_one_before(site_a, site_b, a_codec):
    """Else a member without labels, which cannot refine, could not segment any longer."""
    founded = found(site_a)
    invite(site_a, "B")
    joined, _ = consortium.join(site_b, site_b.client(), TASK)
    consortium.publish_codec(site_a.client(), founded, a_codec)
    consortium.ensure_codec(site_b.client(), joined)
    for file in (joined.decoder_path, joined.network_path):
        file.write_bytes(b"of this codec")
    consortium.ensure_codec(site_b.client(), joined)
    assert joined.decoder_path.exists()
    consortium.publish_codec(site_a.client(), founded, Codec(load_task(TASK_FILE), "autoencoder", {"quality": {}}))
    consortium.ensure_codec(site_b.client(), joined)
    assert not joined.decoder_path.exists()
    assert not joined.network_path.exists()


def test_a_codec_that_the_server_altered_or_swapped_is_refused(site_a, a_codec, a_relay):
    part = found(site_a)
    consortium.publish_codec(site_a.client(), part, a_codec)
    encrypted, fingerprint = a_relay.codec
    altered = encrypted[:-1] + bytes([encrypted[-1] ^ 1])
    for body, name in [
        (altered, fingerprint),
        (encrypted, "0" * 32),
        (encrypted[:10], fingerprint),
        (b"", fingerprint),
    ]:
        a_relay.codec = (body, name)
        with pytest.raises(PpcmiError):
            consortium.fetch_codec(site_a.client(), part)
        assert not part.codec_path.exists()
