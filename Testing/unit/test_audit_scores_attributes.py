"""A9 trained, and A12: what an attacker learns to read off latents that it cannot decode."""

import math

import pytest
import torch

from ppcmi.audit.attacks.attributes import FEWEST_PATIENTS, measure_attributes
from ppcmi.audit.attacks.linkage import RESENT
from ppcmi.audit.attacks.matcher import MatcherConfig, measure_trained_linkage
from ppcmi.audit.settings import knowledge_of, product_settings, reference_settings
from ppcmi.audit.subjects import split_subjects, thin
from ppcmi.codec.codec import Codec
from ppcmi.codec.slice_set import SliceSet
from ppcmi.fitting import FitConfig
from ppcmi.scales import Profile
from support.codecs import quick_slice_set, tiny_task

CASES = 52


@pytest.fixture(scope="module")
def codec():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Codec(tiny_task(), "autoencoder")


@pytest.fixture(scope="module")
def subjects():
    """Every second patient was scanned on a machine that makes images darker."""
    cases = thin(quick_slice_set(CASES, seed=3), 3)
    gain = torch.where(torch.arange(CASES) % 2 == 0, 1.0, 0.8)[cases.case]
    darker = SliceSet(cases.slices * gain[:, None, None, None], cases.labels, cases.case)
    return split_subjects(darker, [f"p{case:02}" for case in range(CASES)], seed=1)


@pytest.fixture(scope="module")
def settings(codec):
    rows = [*reference_settings(codec, codec), *product_settings(codec, Profile.COARSE, "consortium")]
    return {row.name: row for row in rows}


def probe(settings, subjects, codec, name, attributes):
    setting = settings[name]
    findings = measure_attributes(setting, subjects, knowledge_of(setting, subjects, codec, 1), 1, attributes)
    return {finding.title: finding for finding in findings}


def scanners(subjects):
    """Numbers of patients are in the order of their names."""
    patients = torch.cat((subjects.victim_patient, subjects.collected_patient)).tolist()
    return ["bright" if patient % 2 == 0 else "dark" for patient in patients]


def test_the_scanner_is_read_off_latents_under_a_key_as_well_as_off_pixels(settings, subjects, codec):
    found = probe(
        settings, subjects, codec, "two layers, coarse; server without the codec", {"scanner": scanners(subjects)}
    )
    assert found["scanner, from pixels"].value > 0.95
    assert found["scanner, from latents"].low > 0.7
    assert found["scanner, from latents"].chance == 0.5


def test_an_attribute_that_nothing_depends_on_is_not_found(settings, subjects, codec):
    count = subjects.victims.cases + subjects.collected.cases
    coins = torch.rand(count, generator=torch.Generator().manual_seed(5)) < 0.5
    three = torch.randint(3, (count,), generator=torch.Generator().manual_seed(6))
    found = probe(
        settings,
        subjects,
        codec,
        "no protection",
        {"coin": [str(bool(coin)) for coin in coins], "die": [str(int(side)) for side in three]},
    )
    for finding in found.values():
        assert abs(finding.value - 0.5) < 0.25
        assert finding.low < 0.55


def test_rare_and_unknown_values_are_left_out(settings, subjects, codec):
    values = scanners(subjects)
    few = ["rare"] * (FEWEST_PATIENTS - 1) + ["odd", "even"] * FEWEST_PATIENTS
    few += [""] * (len(values) - len(few))
    unknown = ["", "", *values[2:]]
    names = [f"case {index}" for index in range(len(values))]
    attributes = {"few": few, "unknown": unknown, "name": names, "constant": ["same"] * len(values)}
    found = probe(settings, subjects, codec, "no protection", attributes)
    measured = {title: finding for title, finding in found.items() if not math.isnan(finding.value)}
    assert {title.split(",")[0] for title in measured} == {"few", "unknown"}
    for name in ("name", "constant"):  # the report says that it was not measurable, and why
        assert f"{FEWEST_PATIENTS} attacked or collected patients" in found[f"{name}, from latents"].note
    assert f"{len(values) - 2} cases, 2 classes" in found["unknown, from latents"].note
    with pytest.raises(ValueError, match="every case"):
        probe(settings, subjects, codec, "no protection", {"short": values[1:]})


def trained_linkage(settings, subjects, codec, name):
    config = MatcherConfig(views=3, rehearsals=2, fit=FitConfig(epochs=6, batch_size=16, minimum_steps=60))
    setting = settings[name]
    findings = measure_trained_linkage(setting, subjects, knowledge_of(setting, subjects, codec, 1), 1, config)
    (top,) = [finding for finding in findings if finding.measure == "top-1"]
    assert top.title == f"{RESENT}, by a trained network"
    assert "it looks at" in top.note
    return top


def test_a_trained_network_links_images_sent_again_under_a_key_that_it_never_saw(settings, subjects, codec):
    top = trained_linkage(settings, subjects, codec, "two layers, coarse; server with the codec")
    assert top.value > 8 * top.chance


def test_a_trained_network_gets_little_through_the_link_layer(settings, subjects, codec):
    top = trained_linkage(settings, subjects, codec, "two layers, coarse; network")
    assert top.value < 0.35
