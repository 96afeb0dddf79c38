"""Which site's data would spoil a model: named before the training, with a reason, and no honest site beside it."""

import json
import math
from dataclasses import replace

import pytest
import torch

from ppcmi_server.training.contributions import _skill_reason, examine
from ppcmi_server.training.predictability import Skills
from ppcmi_server.training.training_data import SliceFacts, fit_for_training, slice_weights
from ppcmi_server.umn.dataset import join_datasets
from unit.test_umn import related_latents

CASES = 10


def honest_site(number, gain=1.0):
    """Cases whose masks follow from their images; ``gain`` stretches what its scanner makes of the images."""
    dataset = related_latents(CASES, seed=number)
    images = dataset.images.map(lambda _, v: gain * v)
    return replace(dataset, images=images, sites=(f"{number:016x}",))


def with_masks(dataset, change):
    return replace(dataset, masks=change(dataset.masks))


def shuffled(dataset):
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(1))
    return with_masks(dataset, lambda masks: masks.select(order))


def of_the_next_case(dataset):
    return with_masks(dataset, lambda masks: masks.map(lambda _, v: v.roll(4, 0)))


def made_up(dataset):
    generator = torch.Generator().manual_seed(2)
    return with_masks(
        dataset, lambda masks: masks.map(lambda _, v: torch.randn(v.shape, generator=generator) * v.std())
    )


def displaced(dataset):
    return with_masks(dataset, lambda masks: masks.map(lambda _, v: v.roll(1, 2)))


def swapped(dataset):
    return with_masks(dataset, lambda masks: masks.map(lambda _, v: -v))


def blown_up(dataset):
    return with_masks(dataset, lambda masks: masks.map(lambda _, v: 100 * v))


def copied(dataset):
    """One of its cases over and over."""
    first = torch.arange(4).repeat(CASES)
    return replace(dataset, images=dataset.images.select(first), masks=dataset.masks.select(first))


def report_on(*sites):
    joined = join_datasets(sites)
    facts = SliceFacts.of(joined.images, joined.masks)
    joined = replace(joined, weight=slice_weights(joined, facts, [1.0] * len(sites)))
    return joined, examine(joined, facts, {sites[0].sites[0]: 0.5})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (shuffled, "do not follow from its images"),
        (of_the_next_case, "follow"),
        (made_up, "do not follow from its images"),
        (displaced, "follow"),
        (swapped, "something else"),
        (blown_up, "times as large as usual"),
        (copied, "10 of its 10 cases have the same content"),
    ],
)
@pytest.mark.parametrize("place", [0, 2])
def test_the_one_of_three_sites_that_spoils_the_model_is_named_and_no_other(spoil, reason, place):
    sites = [honest_site(number) for number in (1, 2, 3)]
    sites[place] = spoil(sites[place])
    _, report = report_on(*sites)
    assert [site.site for site in report.suspects] == [f"{place + 1:016x}"]
    assert reason in report.suspects[0].reason
    assert "1 of 3 sites are suspect" in report.text[0]


def test_honest_sites_are_fine_also_one_whose_scanner_differs():
    _, report = report_on(honest_site(1), honest_site(2, gain=1.6), honest_site(3))
    assert report.suspects == []
    assert [site.weight for site in report.sites] == [0.5, 1.0, 1.0]
    assert [site.slices for site in report.sites] == [4 * CASES] * 3
    assert all(site.without < 1 for site in report.sites)


def test_a_site_alone_is_told_when_its_masks_are_not_of_its_images():
    _, fine = report_on(honest_site(1))
    _, wrong = report_on(shuffled(honest_site(1)))
    assert (len(fine.suspects), len(wrong.suspects)) == (0, 1)


def test_what_is_out_of_proportion_or_copied_cannot_outweigh_the_rest():
    joined, _ = report_on(honest_site(1), blown_up(honest_site(2)), copied(honest_site(3)))
    power = SliceFacts.of(joined.images, joined.masks).mask_power
    assert float(joined.weight[joined.site == 0].min()) > 0.5
    influence = joined.weight * power
    assert float(influence[joined.site == 1].max()) < 10 * float(influence[joined.site == 0].max())
    assert float(joined.weight[joined.site == 2].sum()) == pytest.approx(4, rel=0.3)  # one case, once


def test_the_report_survives_json_and_takes_up_the_losses():
    _, report = report_on(honest_site(1), honest_site(2))
    told = report.with_losses({f"{1:016x}": 0.25}).saying("Something happened.").to_json()
    assert told["sites"][0]["validation_loss"] == 0.25
    assert told["sites"][1]["validation_loss"] is None
    assert told["text"][-1] == "Something happened."
    assert set(told["sites"][0]) == {"site", "slices", "weight", "validation_loss", "without", "verdict", "reason"}


@pytest.mark.parametrize("slices", [1, 4 * CASES])
def test_a_site_whose_latents_are_no_numbers_is_named_and_the_others_are_judged_as_without_it(slices):
    def broken(dataset):
        return replace(
            dataset, images=dataset.images.map(lambda _, v: v.index_fill(0, torch.arange(slices), torch.nan))
        )

    _, report = report_on(honest_site(1), broken(honest_site(2)), shuffled(honest_site(3)), honest_site(4))
    assert [site.site for site in report.suspects] == [f"{number:016x}" for number in (2, 3)]
    assert report.suspects[0].reason == f"{slices} of its slices hold values that are not numbers"
    assert "do not follow from its images" in report.suspects[1].reason
    assert "NaN" not in json.dumps(report.with_losses({f"{1:016x}": math.nan}).to_json())


def test_values_whose_squares_exceed_every_number_are_out_of_proportion():
    def huge(dataset):
        return with_masks(dataset, lambda masks: masks.map(lambda _, v: 1e37 * v))

    joined = join_datasets([honest_site(1), huge(honest_site(2)), honest_site(3)])
    facts = SliceFacts.of(joined.images, joined.masks)
    joined = replace(joined, masks=fit_for_training(joined.masks), weight=slice_weights(joined, facts, [1.0] * 3))
    report = examine(joined, facts, {})
    assert [(site.site, "times as large" in site.reason) for site in report.suspects] == [(f"{2:016x}", True)]
    assert bool(torch.isfinite(joined.weight).all())


def test_a_skill_that_is_no_number_is_suspect():
    skills = {0: Skills(torch.tensor([torch.nan, 0.9]), None, None, None, {}), 1: Skills(None, None, None, None, {})}
    assert not skills[0].finite
    assert _skill_reason(skills, 0, [1]) == "how its masks follow from its images cannot be reckoned"
