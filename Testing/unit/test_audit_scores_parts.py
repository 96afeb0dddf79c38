"""What the scores of the audit are made of: invariant maps, and proportions with honest bounds."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_curve, roc_auc_score

from ppcmi.audit.attacker import Seen
from ppcmi.audit.invariants import canonical_maps, norm_maps
from ppcmi.audit.proportions import area_under_curve, best_f1, bootstrap, clopper_pearson, negatives_needed, rate_at
from ppcmi.klt.inner import InnerLayer
from ppcmi.klt.link import LinkLayer
from ppcmi.klt.published import PublishedLayer
from ppcmi.latents import Latents
from ppcmi.scales import Stream

CASE = torch.tensor([0, 0, 1])


@pytest.fixture(scope="module")
def latents():
    generator = torch.Generator().manual_seed(1)
    shapes = {"s3": (64, 8, 8), "b": (256, 2, 2)}
    return Latents({s: torch.rand(3, *shape, generator=generator).pow(3) for s, shape in shapes.items()})


def test_canonical_maps_are_the_same_under_every_key_and_bias(latents):
    plain = canonical_maps(Seen(latents, CASE))
    for key in (1, 2):
        mixed = PublishedLayer(bytes([key]) * 32, "tiny@1").apply(latents, Stream.IMAGE)
        for scale, maps in canonical_maps(Seen(mixed, CASE)).items():
            # Of b's 4 or 8 positions the last component has no variance to speak of.
            torch.testing.assert_close(maps[:, :3], plain[scale][:, :3], atol=2e-3, rtol=0)


def test_canonical_maps_are_of_a_case_and_begin_with_its_strongest_direction(latents):
    maps = canonical_maps(Seen(latents, CASE), components=8)["s3"]
    assert maps.shape == (3, 8, 8, 8)
    strength = maps[:2].square().mean(dim=(0, 2, 3)).sqrt()
    assert strength[0] == pytest.approx(1, abs=1e-3)
    assert (strength.diff() < 0).all()
    assert (maps[:2].pow(3).sum(dim=(0, 2, 3)) >= 0).all()
    alone = canonical_maps(Seen(latents.select(torch.tensor([2])), CASE[2:]))["s3"]
    torch.testing.assert_close(maps[2:], alone)
    assert not canonical_maps(Seen(latents, CASE))["b"][2, 4:].any()  # four positions have no fifth component


def test_norm_maps_survive_the_inner_layer_and_not_the_link_layer(latents):
    plain = norm_maps(Seen(latents, CASE))
    inner = InnerLayer(bytes(32), "tiny@1").apply(latents, Stream.IMAGE)
    linked = LinkLayer(bytes(32), "tiny@1").apply(inner, Stream.IMAGE, bytes(16))
    torch.testing.assert_close(norm_maps(Seen(inner, CASE))["s3"], plain["s3"])
    seen = norm_maps(Seen(linked, CASE))["s3"][0].flatten()
    assert abs(float(torch.corrcoef(torch.stack((seen, plain["s3"][0].flatten())))[0, 1])) < 0.4


def test_bounds_of_a_proportion_are_the_exact_ones():
    assert clopper_pearson(0, 0) == (0, 1)
    assert clopper_pearson(0, 10) == (0, pytest.approx(0.3085, abs=1e-4))  # 1 - 0.025 ** (1 / 10)
    assert clopper_pearson(10, 10) == (pytest.approx(0.6915, abs=1e-4), 1)
    assert clopper_pearson(3, 20) == pytest.approx((0.0321, 0.3789), abs=1e-4)  # Agresti and Coull 1998


@pytest.mark.parametrize(("rate", "needed"), [(0.01, 1000), (0.05, 200), (0.1, 100), (0.001, 10_000)])
def test_a_rate_needs_ten_false_positives_or_is_not_measurable(rate, needed):
    assert negatives_needed(rate) == needed
    positives, negatives = np.ones(50), np.zeros(needed)
    assert rate_at(rate, positives, negatives).value == 1
    few = rate_at(rate, positives, negatives[1:])
    assert not few.measurable
    assert (few.low, few.high) == (0, 1)


def test_a_rate_is_measured_where_so_many_negatives_pass_and_no_more():
    negatives = np.arange(200.0)
    found = rate_at(0.05, np.array([188.0, 189.0, 190.0, 500.0]), negatives)
    assert found.value == 0.5  # above 189, which ten negatives exceed
    assert found.low < 0.5 < found.high
    assert rate_at(0.05, np.zeros(9), np.zeros(200)).value == 0, "what is like everyone is not recognized"
    wide = rate_at(0.05, np.tile([0.0, 500.0], 50), negatives, independent_positives=4)
    assert wide.high - wide.low > 0.8


def test_areas_and_f1_are_scikit_learns_also_with_ties():
    generator = np.random.default_rng(1)
    for levels in (3, 1000):
        truth, scores = generator.random(80) < 0.3, generator.integers(levels, size=80) / levels
        assert area_under_curve(truth, scores) == pytest.approx(roc_auc_score(truth, scores))
        precision, recall, _ = precision_recall_curve(truth, scores)
        expected = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
        assert best_f1(truth, scores) == pytest.approx(expected)
    nobody = np.zeros(5, dtype=bool)
    assert math.isnan(area_under_curve(nobody, np.arange(5.0)))
    assert math.isnan(best_f1(nobody, np.arange(5.0)))


def test_an_interval_by_patient_is_wider_than_one_by_slice():
    generator = torch.Generator().manual_seed(0)
    patient = torch.arange(12).repeat_interleave(20)
    truth = patient % 2
    scores = truth + 2 * torch.randn(12, generator=generator)[patient] + 0.1 * torch.randn(240, generator=generator)

    def auc(index):
        return area_under_curve(truth[index].bool().numpy(), scores[index].double().numpy())

    low, high = bootstrap(auc, patient, seed=1)
    by_slice = bootstrap(auc, torch.arange(240), seed=1)
    assert low < auc(torch.arange(240)) < high
    assert high - low > 2 * (by_slice[1] - by_slice[0])
    assert bootstrap(auc, patient, seed=1) == (low, high)
    assert all(math.isnan(bound) for bound in bootstrap(lambda _: math.nan, patient, seed=1))
