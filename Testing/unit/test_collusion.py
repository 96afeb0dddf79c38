"""The server with a member at scope ``site``: masks that enter by the victim's entry and leave by the member's exit."""

from dataclasses import asdict

import pytest
import torch

from benchmarks import collusion
from benchmarks.collusion import (
    CONTROL,
    CONTROL_WITH_SLICES,
    MEMBERS_EXIT,
    as_the_server_sees,
    decode_blocks,
    masks_by_exit,
    measure_masks_by_exit,
    victim_and_colluder,
    with_exit,
    with_moments,
)
from benchmarks.privacy_report import best_scores
from ppcmi.latents import Latents
from ppcmi.scales import Profile, Stream
from ppcmi_server.umn.model import TrainedUmn, build_network
from support.audit import small_subjects, untrained_codec
from support.descriptions import describe_umn

PROFILE = Profile.COARSE
SUBJECTS = small_subjects()
SITES = VICTIM, MEMBER = victim_and_colluder(untrained_codec(1), untrained_codec(2), PROFILE)
SETTING = as_the_server_sees(VICTIM, PROFILE, "")


@pytest.fixture(scope="module")
def umn():
    description = describe_umn("default", PROFILE, (32, 32), tuple(site.fingerprint for site in SITES))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return TrainedUmn(description, build_network(description))


@pytest.fixture(scope="module")
def seen():
    return SETTING.look(SUBJECTS.victims.slices[:4], SUBJECTS.victims.case[:4], site_keys=1).latents


def near(one, other, atol=1e-5):
    return all(torch.allclose(one[s], other[s], atol=atol) for s in one)


def test_by_its_own_exit_a_codec_is_mapped_as_ever(umn, seen):
    for site in SITES:
        own = umn.map(seen, site.fingerprint)
        assert near(with_exit(umn, site.fingerprint, site.fingerprint).map(seen, site.fingerprint), own, atol=0)
        masks = masks_by_exit(umn, seen, entry=site, leave=site)
        assert near(masks, site.inner.invert(own, Stream.MASK), atol=0)


def test_what_comes_in_by_one_codecs_entry_leaves_by_the_others_exit(umn, seen):
    (entry, leave), network = (site.fingerprint for site in SITES), umn.network
    before = umn.map(seen, entry)
    arriving = {}
    hooks = [
        network.exits[s][0].register_forward_pre_hook(lambda _, args, s=s: arriving.update({s: args[0]})) for s in seen
    ]
    umn.map(seen, entry)
    for hook in hooks:
        hook.remove()
    with torch.inference_mode():
        expected = Latents({s: network.exits[s][1](arriving[s].float())[: len(seen)] for s in seen})
    crossed = with_exit(umn, entry, leave).map(seen, entry)
    assert near(crossed, expected, atol=2e-2)  # the network computes in bfloat16 where the machine can
    assert not near(crossed, before, atol=0.1)
    assert near(umn.map(seen, entry), before, atol=0)  # the server's own network stays as it is
    assert near(masks_by_exit(umn, seen, entry=VICTIM, leave=MEMBER), MEMBER.inner.invert(crossed, Stream.MASK), atol=0)


def test_moments_are_those_of_the_latents_to_be_like():
    generator = torch.Generator().manual_seed(1)
    latents, like = (
        Latents({"b": scale * torch.randn(50, 3, 2, 2, generator=generator) + shift})
        for scale, shift in ((1, 0), (3, 5))
    )
    for over in ((0,), (0, 2, 3)):
        moved = with_moments(latents, like, over)
        assert torch.allclose(moved["b"].mean(over), like["b"].mean(over), atol=1e-4)
        assert torch.allclose(moved["b"].std(over), like["b"].std(over), atol=1e-4)
        assert near(with_moments(moved, latents, over), latents, atol=1e-4)


def test_blocks_alone_are_the_masks():
    labels = SUBJECTS.victims.known_labels
    for codec in (VICTIM.codec, MEMBER.codec):
        drawn = decode_blocks(codec, codec.encode_masks(labels).of(PROFILE)).argmax(dim=1)
        assert float((drawn == labels).float().mean()) > 0.95


def well_trained(umn, seen, *, entry, leave):
    """As of a network that knows the masks and brings all sites' cases to one place."""
    left = [SUBJECTS.victims, SUBJECTS.collected]
    cases = left[:1] if leave is VICTIM else left if entry is VICTIM else [SUBJECTS.outside]
    labels = torch.cat([part.known_labels for part in cases])
    assert len(labels) == len(seen)
    return leave.codec.encode_masks(labels).of(PROFILE)


def trained_apart(umn, seen, *, entry, leave):
    """As of one that knows them and brings the victims' elsewhere, which costs nothing in its training."""
    found = well_trained(umn, seen, entry=entry, leave=leave)
    return found if entry is leave else found.map(lambda _, v: 0.2 * v - 3)


@pytest.mark.parametrize("network", [well_trained, trained_apart])
def test_masks_that_a_network_gives_the_member_are_found(monkeypatch, umn, network):
    monkeypatch.setattr(collusion, "masks_by_exit", network)
    found = measure_masks_by_exit(umn, VICTIM, MEMBER, SETTING, SUBJECTS, 1)
    assert all(f.low <= f.value <= f.high for f in found)
    for title in (MEMBERS_EXIT, CONTROL, CONTROL_WITH_SLICES):
        assert max(f.value for f in found if f.title.startswith(title)) > found[0].chance + 0.1


def test_an_untrained_network_gives_no_masks_and_columns_name_attack_guess_and_controls(umn):
    found = measure_masks_by_exit(umn, VICTIM, MEMBER, SETTING, SUBJECTS, 1)
    assert max(f.value for f in found) < found[0].chance
    assert {f.setting for f in found} == {SETTING.name}
    columns = dict(best_scores([asdict(f) for f in found]))
    assert set(columns) == {
        "A8 masks by the member's exit: Dice",
        "A8 the mask that fits most cases: Dice",
        "A8 control, masks by the victim's own exit: Dice",
        "A8 control, the victim's own exit and slices: Dice",
    }
