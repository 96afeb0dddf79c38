"""The mapping network: trained in the inner key's space, resumed after a kill, priced as the paper says."""

from dataclasses import replace

import pytest
import torch

from ppcmi.errors import BundleError, TrainingError
from ppcmi.klt.inner import InnerLayer
from ppcmi.latents import Latents
from ppcmi.scales import MINIMIZED_CHANNELS as FEW
from ppcmi.scales import Profile, Stream, scale_shapes
from ppcmi_server.umn.config import UmnConfig
from ppcmi_server.umn.dataset import LatentDataset, join_datasets
from ppcmi_server.umn.model import TrainedUmn, build_network
from ppcmi_server.umn.training import average_share, train_umn
from support.descriptions import describe_umn

CONFIG = UmnConfig(epochs=3, batch_size=16, minimum_steps=0, validation_share=0.25)


def related_latents(cases: int, seed: int, codec: str = "c") -> LatentDataset:
    """Image and mask latents that show the same six hidden numbers at each position, as a picture and its mask do."""
    generator, fixed = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(0)
    images, masks = {}, {}
    for scale, (channels, rows, columns) in scale_shapes((64, 64), Profile.COARSE.scales).items():
        hidden = torch.randn(4 * cases, 6, rows, columns, generator=generator)
        seen, wanted = torch.randn(2, channels, 6, generator=fixed)
        images[scale] = torch.einsum("ch,nhxy->ncxy", seen, hidden) / 2
        masks[scale] = torch.einsum("ch,nhxy->ncxy", wanted, torch.tanh(hidden)) / 2
    case = torch.arange(cases).repeat_interleave(4)
    return LatentDataset(
        Latents(images), Latents(masks), (codec,), torch.zeros(4 * cases).long(), case, torch.zeros(4 * cases).long()
    )


def error(umn: TrainedUmn, dataset: LatentDataset) -> float:
    answers = umn.map(dataset.images, dataset.codecs[0])
    return sum(float((answers[s] - dataset.masks[s]).square().mean()) for s in answers) / len(answers.scales)


def mean_square(latents: Latents) -> float:
    return sum(float(values.square().mean()) for _, values in latents.items()) / len(latents.scales)


def test_it_learns_a_mapping_and_predicts_cases_it_has_not_seen():
    config = replace(CONFIG, epochs=4, minimum_steps=60, mixup=0.0)
    umn = train_umn(related_latents(30, seed=1), config)
    fresh = related_latents(5, seed=2)
    assert error(umn, fresh) < 0.3 * mean_square(fresh.masks)


@pytest.mark.parametrize(("steps", "longest_lag"), [(10, 1), (100, 10), (400, 40), (20_000, 200)])
def test_the_averaged_weights_are_those_of_the_last_tenth_of_a_training_and_of_at_most_200_steps(steps, longest_lag):
    averaged = 0.0
    for step in range(1, steps + 1):  # a weight that grows by one a step
        share = average_share(UmnConfig().average, step)
        averaged += share * (step - averaged)
    assert 0 < steps - averaged < longest_lag


def test_the_inner_key_does_not_keep_it_from_learning():
    inner = InnerLayer(b"k" * 32, "tiny@1")

    def keyed(dataset):
        return replace(
            dataset, images=inner.apply(dataset.images, Stream.IMAGE), masks=inner.apply(dataset.masks, Stream.MASK)
        )

    config = replace(CONFIG, epochs=4, minimum_steps=60, mixup=0.0)
    train, fresh = related_latents(30, seed=1), related_latents(5, seed=2)
    plain = error(train_umn(train, config), fresh)
    under_key = error(train_umn(keyed(train), config), keyed(fresh))
    assert under_key < 1.3 * plain + 0.01


def test_sites_with_codecs_of_their_own_share_a_trunk_and_have_adapters():
    both = join_datasets([related_latents(6, seed=6, codec="a"), related_latents(6, seed=7, codec="b")])
    assert both.codecs == ("a", "b")
    assert len(torch.unique(both.case)) == 12
    umn = train_umn(both, CONFIG)
    images = related_latents(1, seed=8).images
    assert not torch.allclose(umn.map(images, "a")["b"], umn.map(images, "b")["b"])
    with pytest.raises(TrainingError, match="not trained for this codec"):
        umn.map(images, "another")


def test_a_model_survives_its_file(tmp_path):
    umn = train_umn(related_latents(6, seed=9), CONFIG)
    umn.save(tmp_path / "model.safetensors")
    again = TrainedUmn.load(tmp_path / "model.safetensors")
    images = related_latents(1, seed=10).images
    assert again.description == umn.description
    assert torch.equal(again.map(images, "c")["s4"], umn.map(images, "c")["s4"])
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(TrainingError, match="missing or damaged"):
        TrainedUmn.load(tmp_path / "model.safetensors")


def test_latents_of_few_channels_are_mapped_to_mask_latents_of_the_usual_ones():
    description = describe_umn("default", Profile.COARSE, (64, 64), ("few", "many"))
    few = Latents({s: torch.randn(2, *shape) for s, shape in scale_shapes((64, 64), ("s4", "b"), FEW).items()})
    narrow = replace(description, images=few.shapes)
    for found in (narrow, description):  # one for few channels, and one that serves codecs of few and of many
        umn = TrainedUmn(found, build_network(found))
        assert umn.map(few, "few").shapes == description.masks
    wide = few.widened(description.images)
    assert torch.equal(umn.map(few, "few")["b"], umn.map(wide, "few")["b"])
    with pytest.raises(BundleError, match="wider"):
        TrainedUmn(narrow, build_network(narrow)).map(wide, "few")


@pytest.mark.parametrize("count", [1, 3, 8, 9])
def test_any_number_of_slices_is_mapped_each_by_itself_and_the_latents_that_came_stay_as_they_were(count):
    umn, images = untrained("default", Profile.COARSE), related_latents(3, seed=11).images.select(slice(0, count))
    before = images.map(lambda _, values: values.clone())
    masks = umn.map(images, "c")
    assert len(masks) == count
    for scale, values in images.items():
        assert torch.equal(values, before[scale])
        alone = torch.cat([umn.map(images.select(slice(i, i + 1)), "c")[scale] for i in range(count)])
        torch.testing.assert_close(masks[scale], alone, rtol=1e-4, atol=1e-5)


def test_the_published_network_costs_what_the_paper_says():
    umn = untrained("paper", Profile.PAPER)
    assert umn.parameters_count == pytest.approx(58.8e6, rel=0.005)
    assert umn.flops() == pytest.approx(43.6e9, rel=0.005)


@pytest.mark.parametrize("profile", [Profile.FULL, Profile.COARSE, Profile.MINIMAL])
def test_the_default_network_costs_at_most_a_tenth_of_it(profile):
    assert untrained("default", profile).flops() <= 43.6e9 / 10


def test_the_published_network_says_that_small_slices_are_too_small():
    with pytest.raises(TrainingError, match="256"):
        build_network(describe_umn("paper", Profile.PAPER, (64, 64)))


def untrained(preset, profile) -> TrainedUmn:
    description = describe_umn(preset, profile, (256, 256), ("c",))
    return TrainedUmn(description, build_network(description))
