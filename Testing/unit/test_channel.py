"""The two ends of a channel understand each other, and nobody else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcmi.bundle import unpack
from ppcmi.bundle_header import BundleLimits, read_header
from ppcmi.channel import Channel
from ppcmi.errors import BundleError, KeyMismatchError
from ppcmi.klt.link import LinkLayer
from ppcmi.quantization import Quantization
from ppcmi.scales import PRIVACY_PROFILES, Profile, Stream
from support.bundles import CASE, CODEC, LINK_KEY, make_channel, make_latents, seal_latents

OTHER_KEY = bytes(range(1, 33))
every_mode = pytest.mark.parametrize("mode", ["two-layer", "paper"])


@every_mode
@given(
    profile=st.sampled_from(PRIVACY_PROFILES),
    quantization=st.sampled_from(Quantization),
    slices=st.integers(1, 4),
    seed=st.integers(0, 99),
)
@settings(max_examples=20, deadline=None)
def test_what_one_end_seals_the_other_opens(mode, profile, quantization, slices, seed):
    latents = make_latents(slices, profile, seed)
    data = seal_latents(make_channel(mode=mode), latents, profile=profile, quantization=quantization)
    header, streams = make_channel(mode=mode).open(data)
    assert (header.case, header.codec, header.mode, header.profile) == (CASE, CODEC, mode, profile)
    assert header.slice_indices == tuple(range(slices))
    tolerance = {Quantization.F32: 1e-4, Quantization.F16: 1e-2, Quantization.I8: 0.1, Quantization.I4: 2.5}[
        quantization
    ]
    for scale, values in latents.items():
        torch.testing.assert_close(streams[Stream.IMAGE][scale], values, atol=tolerance, rtol=0)


@every_mode
def test_a_wrong_link_key_is_an_error_and_not_noise(mode):
    with pytest.raises(KeyMismatchError, match="another link key"):
        make_channel(OTHER_KEY, mode=mode).open(seal_latents(make_channel(mode=mode)))


def test_the_key_is_checked_before_the_latents_are_looked_at():
    data = bytearray(seal_latents())
    data[-4:] = b"\xff\xff\xff\xff"  # not a number
    with pytest.raises(KeyMismatchError):
        make_channel(OTHER_KEY).open(bytes(data))
    with pytest.raises(BundleError, match="not finite"):
        make_channel().open(bytes(data))


def test_another_task_or_mode_is_refused():
    with pytest.raises(BundleError, match="another task"):
        make_channel(task="phantom@2").open(seal_latents())
    with pytest.raises(BundleError, match="another task"):
        make_channel(mode="paper").open(seal_latents())


@every_mode
@pytest.mark.parametrize("other", [{"seed": 1}, {"slices": 2}, {"quantization": Quantization.I8}, {"variant": 1}])
def test_other_content_has_another_nonce(mode, other):
    changes = {key: value for key, value in other.items() if key in ("quantization", "variant")}
    content = {key: value for key, value in other.items() if key in ("seed", "slices")}
    channel = make_channel(mode=mode)
    first = seal_latents(channel, make_latents(slices=3))
    second = seal_latents(channel, make_latents(**{"slices": 3, **content}), **changes)
    assert read_header(first).nonce != read_header(second).nonce


def test_nearly_the_same_slices_leave_as_unrelated_numbers():
    latents, channel = make_latents(), make_channel()
    nearly = latents.map(lambda _, values: values * 1.0001)
    first, second = (unpack(seal_latents(channel, each))[1][Stream.IMAGE]["s4"] for each in (latents, nearly))
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.1


@every_mode
def test_the_same_content_leaves_as_the_same_numbers_under_whatever_pseudonym(mode):
    bundles = [seal_latents(make_channel(mode=mode), make_latents(), case=case) for case in ("0" * 32, "f" * 32)]
    (one, first), (other, second) = (unpack(data) for data in bundles)
    assert one.nonce == other.nonce
    assert torch.equal(first[Stream.IMAGE]["s4"], second[Stream.IMAGE]["s4"])


def test_whoever_lacks_the_key_cannot_tell_the_nonce_of_what_was_sent():
    assert read_header(seal_latents()).nonce != read_header(seal_latents(make_channel(OTHER_KEY))).nonce


def test_only_the_scales_of_the_profile_leave():
    data = seal_latents(latents=make_latents(profile=Profile.FULL), profile=Profile.MINIMAL)
    assert tuple(unpack(data)[1][Stream.IMAGE]) == ("b",)


def test_image_and_mask_of_a_case_travel_together():
    streams = {Stream.IMAGE: make_latents(seed=1), Stream.MASK: make_latents(seed=2)}
    fields = {"codec": CODEC, "profile": Profile.COARSE, "quantization": Quantization.F32, "case": CASE}
    data = make_channel().seal(streams, **fields, slice_indices=(0, 1), variant=2, inner_check="0" * 16)
    header, opened = make_channel().open(data)
    assert (header.variant, header.inner_check) == (2, "0" * 16)
    for stream, latents in streams.items():
        torch.testing.assert_close(opened[stream]["s4"], latents["s4"], atol=1e-4, rtol=0)


def test_a_channel_holds_its_own_limits():
    channel = Channel(
        LinkLayer(LINK_KEY, "phantom@1"), task="phantom@1", mode="two-layer", limits=BundleLimits(slices=1)
    )
    with pytest.raises(BundleError, match="more slices"):
        channel.open(seal_latents())


def reply_to(request, **changes):
    fields = {
        "codec": request.codec,
        "profile": request.profile,
        "quantization": request.quantization,
        "case": request.case,
        "slice_indices": request.slice_indices,
        "in_reply_to": request.nonce.hex(),
        "model": 1,
    }
    return make_channel().seal({Stream.MASK: make_latents(seed=9)}, **(fields | changes))


def test_a_reply_opens_with_its_request():
    request = read_header(seal_latents())
    header, latents = make_channel().open_reply(reply_to(request), request)
    assert header.model == 1
    torch.testing.assert_close(latents["b"], make_latents(seed=9)["b"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"in_reply_to": "0" * 32},
        {"in_reply_to": None},
        {"case": "0" * 32},
        {"slice_indices": (1, 0)},
        {"codec": "0" * 32},
    ],
    ids=["another request", "no request", "another case", "slices in another order", "another codec"],
)
def test_a_reply_to_another_request_never_comes_through(changes):
    request = read_header(seal_latents())
    with pytest.raises(BundleError, match="another request"):
        make_channel().open_reply(reply_to(request, **changes), request)


def test_a_request_is_no_reply():
    data = seal_latents()
    with pytest.raises(BundleError, match="another request"):
        make_channel().open_reply(data, read_header(data))
