"""A1, A2 and A3: attacks that decode with a codec. They win where SECURITY says so, and lose where they must.

The codec here is not trained: what an attack recovers is compared with what the codec's own decoder draws.
"""

from __future__ import annotations

import pytest
import torch

from ppcmi.audit.attacks.alignment import BlindAlignment
from ppcmi.audit.attacks.channel_map import draw, nearest_rotation, orthogonal_map
from ppcmi.audit.attacks.cross_decoder import CrossDecoder
from ppcmi.audit.attacks.procrustes import KnownImages
from ppcmi.audit.settings import knowledge_of, settings_of, two_layers
from ppcmi.audit.subjects import split_subjects
from ppcmi.codec.codec import Codec
from ppcmi.scales import Profile, Stream
from support.codecs import quick_slice_set, tiny_task

COARSE = two_layers(Profile.COARSE)
CASES = 30


def made_codec(seed: int) -> Codec:
    """Random weights, latents standardized as training leaves them."""
    torch.manual_seed(seed)
    codec = Codec(tiny_task(), "autoencoder")
    for scale, values in codec.encode_images(quick_slice_set(4, seed=9).slices).items():
        deviation = values.std(dim=(0, 2, 3)).clamp_min(1e-3)
        codec.standardization(Stream.IMAGE).set(scale, values.mean(dim=(0, 2, 3)), deviation)
    return codec


@pytest.fixture(scope="module")
def world():
    codec, surrogate = made_codec(1), made_codec(2)
    cases = quick_slice_set(CASES, seed=1)
    return codec, surrogate, split_subjects(cases, [str(index) for index in range(CASES)], seed=1)


def error(world, attack, name: str) -> float:
    """Of the attack's pictures against the codec's own, relative to how much these vary."""
    codec, surrogate, subjects = world
    rows = settings_of(codec, scope="consortium", profiles=[Profile.COARSE])
    setting = next(row for row in rows if row.name == name)
    knowledge = knowledge_of(setting, subjects, surrogate, seed=5)
    assert attack.obstacle(knowledge) is None
    victims = subjects.victims
    drawn = attack.learn(knowledge)(setting.look(victims.slices, victims.case, 5))
    own = draw(codec, codec.encode_images(victims.slices).of(setting.profile))
    assert drawn.shape == own.shape
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1
    return float((drawn - own).square().mean() / (own - own.mean(dim=0)).square().mean())


@pytest.mark.parametrize("row", ["no protection", "KLT as published; network", f"{COARSE}; server with the codec"])
def test_known_images_undo_a_fixed_key_to_what_the_site_itself_sees(world, row):
    assert error(world, KnownImages(4), row) < 0.01


def test_more_known_cases_give_more_of_it(world):
    one, four = (error(world, KnownImages(n), f"{COARSE}; server with the codec") for n in (1, 4))
    assert four < one


def test_statistics_alone_undo_the_published_key(world):
    assert error(world, BlindAlignment(), "KLT as published; network") < 0.4


@pytest.mark.parametrize("attack", [CrossDecoder(), KnownImages(4), BlindAlignment()], ids=lambda attack: attack.name)
def test_under_a_fresh_link_layer_none_of_them_sees_anything(world, attack):
    assert error(world, attack, f"{COARSE}; network") > 0.9


def test_another_sites_decoder_does_not_fit_even_without_any_key(world):
    assert error(world, CrossDecoder(), "no protection") > 0.5


def test_without_enough_known_cases_the_attack_says_so(world):
    codec, surrogate, subjects = world
    setting = settings_of(codec, scope="site", profiles=[Profile.COARSE])[0]
    sentence = KnownImages(10).obstacle(knowledge_of(setting, subjects, surrogate, seed=5, leaked=3))
    assert sentence == "Only 3 cases with known images, of 10."


def test_a_rotation_and_shift_is_found_exactly_and_directions_never_seen_are_left_out():
    generator = torch.Generator().manual_seed(1)
    plain = torch.randn(40, 8, generator=generator).double()
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator).double())[0]
    found = orthogonal_map(plain @ turn + 3, plain)
    assert torch.allclose((plain @ turn + 3 - found.seen_mean) @ found.matrix + found.own_mean, plain)
    flat = torch.diag(torch.tensor([1.0, 1.0, 0.0])).double()
    assert torch.allclose(nearest_rotation(flat), flat)
