"""Opening a link to a model: which model, which codec, which decoder, and what is refused."""

from pathlib import Path

import pytest

from ppcmi import consortium
from ppcmi.codec.codec import Codec
from ppcmi.codec.refinement import USUAL_WEIGHT, SiteDecoder
from ppcmi.errors import CodecError, ConnectionFailedError, SiteError
from ppcmi.scales import Profile
from ppcmi.session import LinkOptions, open_link
from ppcmi.task import load_task
from support.relay import relay_for

TASK_FILE = Path(__file__).parents[2] / "Resources" / "Tasks" / "phantom.json"
TASK = "phantom"


@pytest.fixture(scope="module")
def a_codec():
    return Codec(load_task(TASK_FILE), "autoencoder")


@pytest.fixture
def a_relay():
    with relay_for(TASK_FILE.read_text()) as relay:
        yield relay


@pytest.fixture
def founder(a_relay, a_codec, tmp_path):
    site = a_relay.enrol(tmp_path, "A")
    part = consortium.create(site, site.client(), TASK, "consortium", "two-layer")
    consortium.publish_codec(site.client(), part, a_codec)
    a_codec.save(part.codec_path)
    return site


def offer(relay, codec, *models):
    """Let the relay have models of these (number, state, profile)."""
    relay.models = [{"number": n, "state": s, "profile": p, "codec": codec.fingerprint} for n, s, p in models]


def link(site, **options):
    return open_link(site, site.task(TASK), site.client(), LinkOptions(**options))


def test_the_active_model_decides_the_profile(founder, a_relay, a_codec):
    offer(a_relay, a_codec, (1, "retired", "full"), (2, "active", "minimal"))
    opened = link(founder)
    assert (opened.model, opened.profile) == (2, Profile.MINIMAL)
    assert (link(founder, model=1).model, link(founder, model=1).profile) == (1, Profile.FULL)


def test_without_a_model_there_is_no_link(founder, a_relay, a_codec):
    with pytest.raises(SiteError, match="operator"):
        link(founder)
    offer(a_relay, a_codec, (1, "ready", "coarse"))
    with pytest.raises(SiteError, match="active"):
        link(founder)
    with pytest.raises(SiteError, match="no model 5"):
        link(founder, model=5)


def test_a_model_of_another_codec_is_refused(founder, a_relay, a_codec):
    offer(a_relay, Codec(load_task(TASK_FILE), "autoencoder"), (1, "active", "coarse"))
    with pytest.raises(CodecError, match="another codec"):
        link(founder)


def test_an_answer_that_is_off_the_protocol_is_an_error_not_a_crash(founder, a_relay, a_codec):
    offer(a_relay, a_codec, (1, "active", "everything"))
    with pytest.raises(ConnectionFailedError):
        link(founder)


def test_a_member_without_a_decoder_uses_the_consortium_s_network_and_the_usual_weight(
    founder, a_relay, a_codec, tmp_path
):
    offer(a_relay, a_codec, (1, "active", "coarse"))
    member = a_relay.enrol(tmp_path, "B")
    consortium.invite(founder, founder.client(), founder.task(TASK), consortium.find_peer(founder.client(), "B"))
    consortium.join(member, member.client(), TASK)
    opened = link(member)
    assert opened.codec.fingerprint == a_codec.fingerprint
    assert opened.decoder.weight(Profile.COARSE) == USUAL_WEIGHT
    assert all(
        (own == shared).all()
        for own, shared in zip(opened.decoder.local.parameters(), a_codec.local.parameters(), strict=True)
    )


def test_a_site_s_own_decoder_is_used_until_the_codec_changes(founder, a_relay, a_codec):
    offer(a_relay, a_codec, (1, "active", "coarse"))
    part = founder.task(TASK)
    SiteDecoder(a_codec, {"coarse": 0.15}).save(part.decoder_path)
    assert link(founder).decoder.weight(Profile.COARSE) == 0.15
    assert link(founder, use_local_network=False).decoder is None
    other = Codec(load_task(TASK_FILE), "autoencoder")
    other.save(part.codec_path)
    offer(a_relay, other, (2, "active", "coarse"))
    with pytest.raises(CodecError, match="refine it again"):
        link(founder)
    assert link(founder, use_local_network=False).codec.fingerprint == other.fingerprint


def test_the_site_s_keys_and_wishes_are_in_the_link(founder, a_relay, a_codec):
    offer(a_relay, a_codec, (1, "active", "coarse"))
    opened = link(founder, slices_per_bundle=5, in_flight=2)
    assert (opened.slices_per_bundle, opened.in_flight) == (5, 2)
    assert opened.protection.inner.check() == consortium.inner_check_of(founder.task(TASK))


@pytest.mark.parametrize(
    ("weights", "asks"), [({"coarse": 0.0}, False), ({"coarse": 0.15}, True), ({"full": 0.0}, True)]
)
def test_whether_the_server_is_asked_is_known_before_the_link_is_open(founder, a_relay, a_codec, weights, asks):
    offer(a_relay, a_codec, (1, "active", "coarse"))
    part = founder.task(TASK)
    assert part.asks_server(Profile.COARSE)  # with the consortium's decoder
    SiteDecoder(a_codec, weights).save(part.decoder_path)
    assert (part.asks_server(Profile.COARSE), link(founder).asks_server) == (asks, asks)
    assert link(founder, use_local_network=False).asks_server
    part.decoder_path.write_bytes(b"damaged")
    assert part.asks_server(Profile.COARSE)
