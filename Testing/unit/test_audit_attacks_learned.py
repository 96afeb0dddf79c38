"""Attacks that learn: they draw what leaves where they can, and the mean picture where they cannot."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks.collusion import adapter_of
from ppcmi.audit.attacker import Knowledge, Seen
from ppcmi.audit.attacks.channel_map import draw as decode_with
from ppcmi.audit.attacks.collusion import Adapter, AlignedAdapters, CommonSpaceDecoder, Member, SharedCodec
from ppcmi.audit.attacks.decoder import DecoderConfig, draw, train_decoder
from ppcmi.audit.attacks.invariant_decoder import Invariant, InvariantDecoder, invariant_decoders
from ppcmi.audit.attacks.leaked_pairs import LeakedPairs
from ppcmi.audit.attacks.plain_latents import PlainLatents
from ppcmi.audit.attacks.readings import components_by_case, norms_and_products
from ppcmi.audit.attacks.rehearsal import sees_plain
from ppcmi.audit.attacks.stolen_masks import TITLES, measure_stolen_masks, usual_mask
from ppcmi.audit.metrics import middle
from ppcmi.audit.setting import Observer, Setting
from ppcmi.audit.settings import knowledge_of
from ppcmi.audit.views import NetworkView, NoisyView, PlainView, PublishedView, ServerView
from ppcmi.klt.inner import InnerLayer
from ppcmi.latents import Latents
from ppcmi.scales import SCALE_CHANNELS, Profile, Stream, scale_shapes
from ppcmi_server.umn.model import TrainedUmn, build_network
from support.audit import QUICK, small_subjects, untrained_codec
from support.descriptions import describe_umn

SUBJECTS = small_subjects()
CODEC, SURROGATE = untrained_codec(1), untrained_codec(2)
TRUTH = middle(SUBJECTS.victims.slices)
GUESS = middle(SUBJECTS.outside.slices).mean(dim=0)
SERVER, NETWORK = ServerView("tiny"), NetworkView("tiny", ServerView("tiny"))


def row(protect, *, known=True) -> Setting:
    return Setting("row", "defense", Observer.SERVER, Profile.FULL, CODEC, known, True, protect)


def knowledge(setting: Setting, seed: int = 1) -> Knowledge:
    return knowledge_of(setting, SUBJECTS, SURROGATE, seed, leaked=3)


def explained(drawn: torch.Tensor) -> float:
    """Share of the pictures' variance about the mean picture that an attacker has drawn: 1 is all, 0 a guess."""
    return 1 - float((drawn - TRUTH).square().mean() / (GUESS - TRUTH).square().mean())


def success(attack, setting: Setting) -> float:
    """What the attack draws of the victims."""
    known = knowledge(setting)
    assert attack.obstacle(known) is None
    seen = setting.look(SUBJECTS.victims.slices, SUBJECTS.victims.case, site_keys=1)
    drawn = attack.learn(known)(seen)
    assert drawn.shape == TRUTH.shape
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1
    return explained(drawn)


def test_who_holds_plain_latents_draws_the_images():
    assert success(PlainLatents(QUICK), row(PlainView())) > 0.4


@pytest.mark.parametrize("invariant", [Invariant.CASE, Invariant.COHORT, Invariant.PRODUCTS])
def test_a_fixed_key_does_not_stop_who_reads_what_no_key_changes(invariant):
    assert success(InvariantDecoder("A6", invariant, QUICK), row(SERVER)) > 0.12


@pytest.mark.parametrize("invariant", [Invariant.COHORT, Invariant.PRODUCTS])
def test_the_link_layer_leaves_them_nothing_but_the_mean_picture(invariant):
    assert success(InvariantDecoder("A6", invariant, QUICK), row(NETWORK)) < 0.1


def test_without_the_codec_an_attacker_draws_less():
    known, unknown = (InvariantDecoder(name, Invariant.PRODUCTS, QUICK) for name in ("A6", "A7"))
    assert success(unknown, row(SERVER, known=False)) < success(known, row(SERVER))


def test_one_leaked_case_breaks_a_fixed_key_and_no_fresh_one():
    assert success(LeakedPairs(1, QUICK), row(SERVER, known=False)) > 0.25
    assert success(LeakedPairs(1, QUICK), row(NETWORK, known=False)) < 0.1


def test_three_leaked_cases_draw_about_as_well_as_one_or_better():
    setting = row(PublishedView("tiny"), known=False)
    assert success(LeakedPairs(3, QUICK), setting) > success(LeakedPairs(1, QUICK), setting) - 0.05


def test_every_attack_says_why_it_cannot_be_tried():
    plain, keyed, unknown = knowledge(row(PlainView())), knowledge(row(SERVER)), knowledge(row(SERVER, known=False))
    assert "key" in PlainLatents().obstacle(keyed)
    assert "codec" in SharedCodec().obstacle(unknown)
    assert "leaked cases only" in LeakedPairs(6).obstacle(keyed)
    tried = {
        name: {(a.name, a.invariant) for a in invariant_decoders(QUICK) if a.obstacle(known) is None}
        for name, known in (("plain", plain), ("keyed", keyed), ("unknown", unknown))
    }
    assert tried["keyed"] == {("A6", i) for i in Invariant}
    assert tried["unknown"] == {("A7", i) for i in Invariant}
    assert tried["plain"] == {("A6", i) for i in Invariant if i is not Invariant.MIXINGS}


def test_noise_is_not_taken_for_a_missing_key():
    assert sees_plain(knowledge(row(NoisyView(1.0, PlainView()))))
    assert not sees_plain(knowledge(row(NoisyView(0.1, SERVER))))


def of_few_channels(whole: Knowledge, protect, channels: int, seed: int) -> Knowledge:
    """What an attacker has who sees latents of so few channels that two rotations are alike by chance."""
    generator = torch.Generator().manual_seed(seed)
    # As latents are: neighbours are alike, and a few channels hold most.
    strengths = torch.linspace(3, 0.3, channels)[None, :, None, None]
    plain = Latents({"b": strengths * torch.randn(8, channels, 2, 2, generator=generator) + strengths})
    codec = SimpleNamespace(encode_images=lambda slices: plain)
    case = torch.arange(8)
    seen = Seen(protect(plain, case, generator), case)
    return replace(whole, slices=whole.slices[:8], case=case, codec=codec, protect=protect, collected=seen)


@pytest.mark.parametrize("channels", [4, 8, 16])
def test_no_rotation_of_few_channels_is_taken_for_plain(channels):
    whole = knowledge(row(PlainView()))
    for number in range(100):
        identity = f"task {number}"
        for view in (ServerView(identity), NetworkView(identity, ServerView(identity)), PublishedView(identity)):
            assert not sees_plain(of_few_channels(whole, view, channels, number))
        assert sees_plain(of_few_channels(whole, NoisyView(1.0, PlainView()), channels, number))


@pytest.mark.parametrize("reading", [components_by_case, norms_and_products])
def test_readings_are_the_same_under_every_key(reading):
    case = SUBJECTS.victims.case
    plain = Seen(CODEC.encode_images(SUBJECTS.victims.slices).of(Profile.COARSE), case)
    keyed = Seen(PublishedView("tiny")(plain.latents, case, torch.Generator().manual_seed(5)), case)
    for scale, maps in reading(plain).items():
        strong = maps[:, :4]
        assert torch.allclose(reading(keyed)[scale][:, :4], strong, atol=2e-2 * float(strong.abs().max()))


def test_random_latents_give_the_mean_picture():
    slices, case = SUBJECTS.outside.slices, SUBJECTS.outside.case
    noise = Latents({s: torch.randn(len(slices), *shape) for s, shape in scale_shapes((32, 32), ("s4", "b")).items()})
    decoder = train_decoder(
        lambda index, _: noise.select(index), middle(slices), QUICK.decoder, torch.Generator().manual_seed(1), case=case
    )
    fresh = noise.map(lambda _, v: torch.randn(len(TRUTH), *v.shape[1:]))
    assert explained(draw(decoder, fresh)[:, 0]) < 0.1


def test_every_training_has_the_same_number_of_updates_however_much_an_attacker_knows():
    def updates(slices: int) -> int:
        seen = []

        def latents_of(index: torch.Tensor, _: torch.Generator) -> Latents:
            seen.append(len(index))
            return Latents({"b": torch.zeros(len(index), 4, 1, 1)})

        config = DecoderConfig(steps=12, batch_size=4, checks=3, patience=0)
        train_decoder(latents_of, torch.rand(slices, 32, 32), config, torch.Generator().manual_seed(1))
        return seen.count(4)

    assert updates(40) == updates(400) == 12


def test_an_attack_is_the_same_from_the_same_seed():
    setting = row(SERVER)
    seen = setting.look(SUBJECTS.victims.slices, SUBJECTS.victims.case, site_keys=1)
    brief = replace(QUICK, decoder=replace(QUICK.decoder, steps=8, checks=2))
    attack = InvariantDecoder("A6", Invariant.PRODUCTS, brief)
    first, second = (attack.learn(knowledge(setting))(seen) for _ in range(2))
    assert torch.equal(first, second)


def test_a_member_of_the_consortium_decodes_another_members_latents():
    known = knowledge(row(PlainView()))
    plain = row(PlainView()).look(SUBJECTS.victims.slices, SUBJECTS.victims.case, site_keys=1)
    assert torch.equal(SharedCodec().learn(known)(plain), decode_with(CODEC, plain.latents))


def colluding(own_key: bytes, victims_key: bytes, victims_view: InnerLayer) -> tuple[Member, Adapter]:
    """Adapters that bring two keyed spaces of one codec into one, as a well trained network's would."""
    generator = torch.Generator().manual_seed(3)
    common = {s: torch.randn(c + 16, c, generator=generator) / c**0.5 for s, c in SCALE_CHANNELS.items()}
    shift = {s: torch.randn(c + 16, generator=generator) for s, c in SCALE_CHANNELS.items()}

    def adapter(layer: InnerLayer) -> Adapter:
        unit = {s: torch.eye(c)[:, :, None, None] for s, c in SCALE_CHANNELS.items()}
        back = {s: layer.invert(Latents({s: v}), Stream.IMAGE)[s][:, :, 0, 0].T for s, v in unit.items()}
        return Adapter({s: common[s] @ back[s] for s in common}, shift)

    own = InnerLayer(own_key, "tiny")
    member = Member(CODEC, adapter(own), lambda z: own.apply(z, Stream.IMAGE), lambda z: own.invert(z, Stream.IMAGE))
    return member, adapter(victims_view)


def test_adapters_that_align_two_sites_give_the_victim_away_to_the_other():
    victims = InnerLayer(b"v" * 32, "tiny")
    member, adapter = colluding(b"m" * 32, b"v" * 32, victims)
    plain = row(PlainView()).look(SUBJECTS.victims.slices, SUBJECTS.victims.case, site_keys=1)
    seen = Seen(victims.apply(plain.latents, Stream.IMAGE), plain.case)
    known = knowledge(row(SERVER, known=False))
    drawn = AlignedAdapters(adapter, member).learn(known)(seen)
    assert torch.allclose(drawn, decode_with(CODEC, plain.latents), atol=1e-2)
    own = Seen(member.key(plain.latents), plain.case)
    control = AlignedAdapters(member.adapter, member).learn(known)(own)
    assert torch.allclose(control, decode_with(CODEC, plain.latents), atol=1e-2)
    learned = CommonSpaceDecoder(adapter, member, QUICK).learn(known)(seen)
    assert explained(learned) > 0.4


@torch.inference_mode()
def test_a_trained_networks_entries_are_the_adapters():
    description = describe_umn("default", Profile.COARSE, (32, 32), ("first", "second"))
    umn = TrainedUmn(description, build_network(description))
    latents = CODEC.encode_images(SUBJECTS.victims.slices[:2]).of(Profile.COARSE)
    for number, codec in enumerate(description.codecs):
        entered = adapter_of(umn, codec).enter(latents)
        for scale, values in entered.items():
            assert torch.allclose(values, umn.network.entries[scale][number](latents[scale]), atol=1e-4)
        again = adapter_of(umn, codec).leave(entered)
        assert all(torch.allclose(again[s], latents[s], atol=1e-2) for s in latents)


def test_masks_are_stolen_from_plain_latents():
    setting = row(PlainView())
    drawn, read = measure_stolen_masks(setting, SUBJECTS, knowledge(setting), 1, QUICK)
    assert drawn.value > drawn.chance + 0.03
    assert read.value > read.chance + 0.1
    assert drawn.low <= drawn.value <= drawn.high


def test_a_fixed_key_does_not_hide_masks_from_who_knows_some_cases():
    setting = row(SERVER)
    by_title = {f.title: f for f in measure_stolen_masks(setting, SUBJECTS, knowledge(setting), 1, QUICK)}
    assert len(by_title) == 4
    for title in TITLES.values():
        undone = by_title[f"{title}, key undone by known cases"]
        assert undone.value > undone.chance + 0.03
    assert undone.value > by_title[title].value + 0.05  # of the mask's own latents, without the key


def test_where_no_case_leaked_or_keys_are_fresh_masks_are_read_in_one_way():
    fixed, fresh = row(SERVER), replace(row(NETWORK), key_is_fixed=False)
    without = knowledge_of(fixed, SUBJECTS, SURROGATE, 1, leaked=0)
    for setting, known in ((fixed, without), (fresh, knowledge(fresh))):
        assert [f.title for f in measure_stolen_masks(setting, SUBJECTS, known, 1, QUICK)] == list(TITLES.values())


def test_who_saw_nothing_draws_the_mask_that_fits_most_cases():
    labels = torch.zeros(10, 8, 8, dtype=torch.uint8)
    labels[:, 2:4, 2:4] = 1
    labels[:4, 4:6, 2:4] = 1
    guess = usual_mask(labels, 2)
    assert (guess[2:4, 2:4] == 1).all()
    assert int((guess != 0).sum()) in (4, 8)
