"""A9 and A11: who belongs to whom, and what shows, without a training and mostly without a key."""

import pytest
import torch
from sklearn.metrics import average_precision_score

from ppcmi.audit.attacks.comparison import Comparison, average_precision, chances_of, scores_of
from ppcmi.audit.attacks.linkage import REPEATS, RESENT, measure_linkage
from ppcmi.audit.attacks.structure import measure_structure
from ppcmi.audit.settings import knowledge_of, product_settings, reference_settings
from ppcmi.audit.subjects import split_subjects
from ppcmi.codec.codec import Codec
from ppcmi.codec.slice_set import SliceSet, join
from ppcmi.scales import Profile
from support.codecs import quick_slice_set, tiny_task

RAW, CANONICAL, NORMS, WHOLE = "latents as they are", "canonical maps", "maps of norms", "norms of slices"


def a_codec(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Codec(tiny_task(), "autoencoder")


@pytest.fixture(scope="module")
def codec():
    return a_codec(1)


@pytest.fixture(scope="module")
def subjects():
    """Fourteen patients, each scanned twice; the second time a little noisier."""
    first = quick_slice_set(14, seed=3)
    generator = torch.Generator().manual_seed(4)
    again = (first.slices + 0.03 * torch.randn(first.slices.shape, generator=generator)).clamp(0, 1)
    cases = join(first, SliceSet(again, first.labels, first.case))
    return split_subjects(cases, [f"p{case % 14}" for case in range(28)], seed=1)


@pytest.fixture(scope="module")
def settings(codec):
    rows = [*reference_settings(codec, codec), *product_settings(codec, Profile.COARSE, "consortium")]
    return {row.name: row for row in rows}


@pytest.fixture(scope="module")
def linked(settings, subjects):
    names = ("no protection", "KLT as published; network", "link layer alone; network")
    found = {}
    for name in names:
        knowledge = knowledge_of(settings[name], subjects, settings[name].codec, seed=1)
        found[name] = measure_linkage(settings[name], subjects, knowledge, seed=1)
    return found


def value(findings, title, measure):
    (one,) = [finding for finding in findings if finding.title == title and finding.measure == measure]
    return one


@pytest.mark.parametrize("kind", [REPEATS, RESENT])
@pytest.mark.parametrize("measure", ["top-1", "mAP", "F1", "AUC"])
def test_a_fixed_key_hides_no_link_at_all(linked, kind, measure):
    plain = value(linked["no protection"], f"{kind}, by {RAW}", measure)
    published = value(linked["KLT as published; network"], f"{kind}, by {RAW}", measure)
    assert published.value == pytest.approx(plain.value, abs=0.02)
    assert plain.value > plain.chance + 0.3
    assert plain.low <= plain.value <= plain.high


@pytest.mark.parametrize("maps", [RAW, CANONICAL, NORMS])
def test_under_a_fresh_link_layer_no_map_links_cases(linked, maps):
    found = value(linked["link layer alone; network"], f"{RESENT}, by {maps}", "top-1")
    assert found.value <= found.chance + 0.25


def test_the_link_layer_leaves_the_norm_of_each_slice_which_links_repeats(linked):
    found = value(linked["link layer alone; network"], f"{REPEATS}, by {WHOLE}", "AUC")
    assert found.value > 0.8


def test_what_too_few_pairs_cannot_show_is_said_to_be_not_measurable(linked):
    found = value(linked["no protection"], f"{RESENT}, by {RAW}", "TPR at 1% FPR")
    assert found.value != found.value
    assert (found.low, found.high) == (0, 1)
    assert "not measurable" in found.note


def test_without_repeats_only_images_sent_again_are_looked_for(settings, codec):
    singles = split_subjects(quick_slice_set(8, seed=5), [f"p{case}" for case in range(8)], seed=1)
    setting = settings["no protection"]
    findings = measure_linkage(setting, singles, knowledge_of(setting, singles, codec, seed=1), seed=1)
    assert {finding.title.split(",")[0] for finding in findings} == {RESENT}


def test_scores_that_are_right_reach_one_and_random_ones_reach_chance():
    patient = torch.arange(40) // 2
    itself = torch.eye(40, dtype=torch.bool)
    relevant = patient[:, None] == patient[None]
    right = Comparison(relevant.float(), relevant, ~itself, patient)
    chances = chances_of(right, seed=1)
    assert {score.measure: score.value for score in scores_of(right, chances, seed=1)} == {
        "top-1": 1, "mAP": 1, "F1": 1, "AUC": 1, "TPR at 1% FPR": 1,
    }  # fmt: skip
    for score in scores_of(right.by_chance(seed=2), chances, seed=1):
        assert score.value == pytest.approx(score.chance, abs=0.12)
        assert score.low <= score.chance + 0.05


def test_the_average_precision_is_scikit_learns():
    generator = torch.Generator().manual_seed(3)
    scores, relevant = torch.rand(6, 30, generator=generator), torch.rand(6, 30, generator=generator) < 0.2
    counted = torch.rand(6, 30, generator=generator) < 0.9
    found = average_precision(Comparison(scores, relevant, counted, torch.arange(6)))
    expected = [
        average_precision_score(relevant[row][counted[row]].numpy(), scores[row][counted[row]].numpy())
        for row in range(6)
    ]
    assert found.tolist() == pytest.approx(expected)


def structure(settings, subjects, codec, name, surrogate=None):
    setting = settings[name]
    findings = measure_structure(setting, subjects, knowledge_of(setting, subjects, surrogate or codec, seed=1), seed=1)
    return {finding.title: finding for finding in findings}


def test_anatomy_shows_to_the_server_and_not_to_the_network(settings, subjects, codec):
    server = structure(settings, subjects, codec, "two layers, coarse; server with the codec")
    network = structure(settings, subjects, codec, "two layers, coarse; network")
    maps = "maps, best of all maps"
    assert server[maps].low > server[maps].chance + 0.15
    assert network[maps].value < network[maps].chance + 0.1
    clusters = "clusters of positions"
    assert server[clusters].value > server[clusters].chance + 0.05
    assert network[clusters].value == pytest.approx(network[clusters].chance, abs=0.08)


def test_the_matching_game_is_won_under_a_fixed_key_and_with_another_codec_too(settings, subjects, codec):
    known = structure(settings, subjects, codec, "two layers, coarse; server with the codec")["matching game"]
    assert known.value == 1
    assert known.chance == pytest.approx(1 / 8)
    unknown = structure(settings, subjects, codec, "two layers, coarse; server without the codec", a_codec(2))
    assert unknown["matching game"].value > 3 * known.chance


def test_a_case_without_a_structure_is_left_out_of_the_clusters(settings, codec):
    cases = quick_slice_set(8, seed=6)
    labels = cases.labels.clone()
    labels[cases.case < 7] = 0
    empty = SliceSet(cases.slices, labels, cases.case)
    subjects = split_subjects(empty, [f"p{case}" for case in range(8)], seed=1)
    found = structure(settings, subjects, codec, "no protection")["clusters of positions"]
    assert found.value != found.value or 0 <= found.value <= 1
