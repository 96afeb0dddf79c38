"""A10: a model that remembers its patients is caught, another is not, and the gates tell whether to believe it."""

import math
from dataclasses import replace

import pytest
import torch

from ppcmi.audit.attacker import Finding
from ppcmi.audit.attacks.likelihood_ratio import Evidence, loss_scores, offline_scores, online_scores
from ppcmi.audit.attacks.membership import (
    LIRA,
    LOSS,
    OVERFITTED,
    QUANTILE,
    WITHOUT_MODEL,
    Decisions,
    MembershipConfig,
    Records,
    decision_findings,
    draw_halves,
    measure_membership,
    pooled,
    records_of,
    without_model,
)
from ppcmi.audit.attacks.membership_among_members import measure_codec_membership, measure_network_membership
from ppcmi.audit.training_membership import VOID, TrainingMembershipConfig, check_membership, gates, judged
from ppcmi.audit.wording import MEASURES
from ppcmi.codec.codec import Codec
from ppcmi.codec.training import train_local_network
from ppcmi.errors import CancelledError
from ppcmi.fitting import FitConfig
from ppcmi.latents import Latents
from ppcmi.scales import Profile
from support.codecs import quick_slice_set, tiny_task

PATIENTS, SLICES = 24, 3
CONFIG = MembershipConfig(shadows=8)


def some_records(patients, seed):
    """Mask latents are a fixed map of the image latents plus what only remembering could know."""
    generator = torch.Generator().manual_seed(seed)
    patient = torch.arange(patients).repeat_interleave(SLICES)
    images = Latents({"b": torch.randn(len(patient), 256, 2, 2, generator=generator)})
    secret = torch.randn(len(patient), 256, 2, 2, generator=generator)
    return Records(images, images.map(lambda _, v: 0.5 * v.roll(1, 1) + secret), patient)


@pytest.fixture(scope="module")
def records():
    return some_records(PATIENTS, seed=1)


@pytest.fixture(scope="module")
def reference():
    return some_records(12, seed=2)


def general(images):
    """What there is to learn, and nothing of anyone."""
    return images.map(lambda _, v: 0.5 * v.roll(1, 1))


def remembering(records, strength):
    """Trains models that know a little, or all, of the masks of slices that they were trained on."""

    def train(chosen, model):
        known = torch.isin(records.patient, chosen)

        def mapping(images):
            # By products, the distance of a slice to itself is not 0 on every processor.
            exact = "donot_use_mm_for_euclid_dist"
            distance = torch.cdist(images["b"].flatten(1), records.images["b"].flatten(1), compute_mode=exact)
            nearest = distance.argmin(dim=1)
            share = strength * (known[nearest] & (distance.min(dim=1).values < 1e-3)).float()[:, None, None, None]
            noise = 0.2 * torch.randn(images["b"].shape, generator=torch.Generator().manual_seed(int(chosen.sum())))
            learned = general(images)["b"] + noise
            return Latents({"b": (1 - share) * learned + share * records.masks["b"][nearest]})

        return mapping

    return train


def value(findings, title, measure="AUC"):
    (one,) = [finding for finding in findings if (finding.title, finding.measure) == (title, measure)]
    return one


def test_a_model_that_remembers_a_little_is_caught_by_its_patients(records, reference):
    told = []
    findings = measure_membership(
        remembering(records, 0.05),
        records,
        CONFIG,
        seed=1,
        reference=reference,
        overfit=remembering(records, 0.9),
        trained=lambda done, total: told.append((done, total)),
    )
    assert told == [(done, 9) for done in range(1, 10)]
    assert value(findings, LIRA).low > 0.9
    assert value(findings, LIRA, "max(AUC, 1 - AUC)").value == value(findings, LIRA).value
    assert value(findings, LIRA, "TPR at 10% FPR").value > 0.8
    assert value(findings, LIRA).value >= value(findings, LOSS).value
    assert value(findings, QUANTILE).value > 0.6
    gate = value(findings, WITHOUT_MODEL)
    assert abs(gate.value - 0.5) < 0.12
    assert value(findings, OVERFITTED).value > 0.95


def test_a_model_that_remembers_nothing_is_not_accused(records, reference):
    findings = measure_membership(remembering(records, 0.0), records, CONFIG, seed=1, reference=reference)
    for attack in (LIRA, LOSS, QUANTILE):
        found = value(findings, attack)
        assert found.low < 0.5 < found.high
        assert abs(found.value - 0.5) < 0.15


def test_rates_of_few_patients_are_not_measurable_and_bounds_count_patients_once(records):
    findings = measure_membership(remembering(records, 0.9), records, CONFIG, seed=1)
    assert math.isnan(value(findings, LIRA, "TPR at 1% FPR").value)
    assert "not measurable" in value(findings, LIRA, "TPR at 1% FPR").note
    rate = value(findings, LIRA, "TPR at 10% FPR")
    assert rate.value == 1
    assert rate.low == pytest.approx(0.025 ** (1 / PATIENTS), abs=0.01), (
        "the bound of 24 patients, not of 108 decisions"
    )


def test_the_gate_without_a_model_sees_groups_that_differ_by_themselves(records):
    member = draw_halves(PATIENTS, CONFIG, seed=1)
    member[:] = member[0]
    shift = member[0][records.patient].float()[:, None, None, None]
    shifted = Records(records.images.map(lambda _, v: v + shift), records.masks, records.patient)
    evidence = Evidence(torch.zeros(len(member), len(records.patient), 1), member, records.patient)
    found = without_model(evidence, shifted, "two scanners", seed=1)
    assert found.low > 0.9
    assert [control.holds for control in gates([found])] == [False]


@pytest.mark.parametrize("patients", [20, 21, 23, 27])
def test_the_gate_without_a_model_does_not_break_by_itself_where_folds_are_uneven(patients):
    records = some_records(patients, seed=patients)
    member = draw_halves(patients, CONFIG, seed=2)
    evidence = Evidence(torch.zeros(len(member), len(records.patient), 1), member, records.patient)
    (control,) = gates([without_model(evidence, records, "alike", seed=1)])
    assert control.holds


def gate(title, value, low, high):
    return Finding("A10", title, "x", "AUC", value, low, high, 0.5, 1.0, "4 patients")


@pytest.mark.parametrize(
    ("low", "high", "holds"), [(0.4, 0.6, True), (0.55, 0.8, False), (0.2, 0.45, True), (math.nan, math.nan, False)]
)
def test_the_gate_without_a_model_holds_unless_its_interval_is_above_one_half(low, high, holds):
    (control,) = gates([gate(WITHOUT_MODEL, 0.5, low, high)])
    assert control.holds is holds
    assert control.guards == "A10"


def test_where_a_gate_does_not_hold_every_number_of_membership_says_so():
    broken, _ = judged([gate(LIRA, 0.9, 0.8, 1.0), gate(OVERFITTED, 0.6, 0.5, 0.7)])
    assert [finding.note for finding in broken] == [f"{VOID}; 4 patients"] * 2
    sound = [gate(LIRA, 0.9, 0.8, 1.0), gate(OVERFITTED, 0.9, 0.8, 1.0)]
    assert judged(sound)[0] == sound


def test_the_measures_of_membership_are_explained(records):
    findings = measure_membership(remembering(records, 0.0), records, CONFIG, seed=1)
    assert all(finding.measure.startswith(tuple(MEASURES)) for finding in findings)


def test_halves_are_halves_and_differ(records):
    halves = draw_halves(PATIENTS, CONFIG, seed=1)
    assert halves.shape == (9, PATIENTS)
    assert (halves.sum(dim=1) == PATIENTS // 2).all()
    assert len({tuple(row.tolist()) for row in halves}) == 9


@pytest.mark.parametrize(("patients", "distinct"), [(3, 3), (4, 6), (5, 9), (6, 9), (9, 9)])
def test_halves_of_few_patients_differ_where_there_are_enough_of_them(patients, distinct):
    for seed in range(20):
        halves = draw_halves(patients, CONFIG, seed)
        assert (halves.sum(dim=1) == round(patients / 2)).all()
        assert len({tuple(row.tolist()) for row in halves}) == distinct or math.comb(patients, patients // 2) < 9


def test_models_are_told_apart_by_their_numbers(records):
    numbers = []

    def train(chosen, model):
        numbers.append(model)
        return general

    measure_membership(train, records, CONFIG, seed=1, overfit=train)
    assert numbers == list(range(10))


def a_check_of_membership(patients, monkeypatch):
    """Of so many patients; the seeds that stand-ins were trained with come with it."""
    seeds = []

    def stand_in(images, masks, fit, seed, *_, **__):
        seeds.append(seed)
        return lambda latents: masks.map(
            lambda _, values: torch.randn(
                len(latents), *values.shape[1:], generator=torch.Generator().manual_seed(seed)
            )
        )

    monkeypatch.setattr("ppcmi.audit.training_membership.fit_stand_in", stand_in)
    cases = quick_slice_set(patients, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        codec = Codec(tiny_task(), "autoencoder")
    found = check_membership(codec, cases, torch.arange(patients), Profile.MINIMAL, 7, TrainingMembershipConfig())
    return *found, seeds


def test_stand_ins_of_a_check_have_seeds_of_their_own(monkeypatch):
    findings, controls, seeds = a_check_of_membership(8, monkeypatch)
    assert len(set(seeds)) == len(seeds) == 10
    assert len(controls) == 2
    assert value(findings, LIRA).note


def test_membership_of_too_few_patients_is_not_measurable(monkeypatch):
    (only,), controls, seeds = a_check_of_membership(7, monkeypatch)
    assert math.isnan(only.value)
    assert (only.low, only.high) == (0, 1)
    assert only.note == "not measurable: 7 patients, 8 are needed"
    assert (controls, seeds) == ([], [])


def test_training_can_be_cancelled_between_models(records):
    def cancel(done, total):
        raise CancelledError("enough")

    with pytest.raises(CancelledError):
        measure_membership(lambda chosen, model: general, records, CONFIG, seed=1, trained=cancel)


def gaussian_evidence(effect, models=17, patients=200, slices=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    member = draw_halves(patients, MembershipConfig(models - 1), seed)
    patient = torch.arange(patients).repeat_interleave(slices)
    hardness = 3 * torch.randn(1, len(patient), 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(models, len(patient), 2, generator=generator, dtype=torch.float64)
    return Evidence(hardness + noise - effect * member[:, patient, None].double(), member, patient)


def area(evidence, scores_of):
    decisions = pooled(evidence, [scores_of(evidence, target) for target in range(evidence.models)])
    return value(decision_findings("x", "x", decisions, 0, 0.0), "x").value


def test_shadows_see_through_how_hard_a_record_is_and_the_loss_alone_does_not():
    evidence = gaussian_evidence(effect=0.5)
    best = float(torch.special.ndtr(torch.tensor(0.5 * math.sqrt(8) / math.sqrt(2))))  # of 8 values, all known
    assert best - 0.05 < area(evidence, online_scores) <= best + 0.03
    assert area(evidence, offline_scores) > 0.75
    assert area(evidence, loss_scores) < 0.6


def test_without_an_effect_the_number_of_shadows_on_either_side_gives_nothing_away():
    assert area(gaussian_evidence(effect=0.0), online_scores) == pytest.approx(0.5, abs=0.02)
    assert area(gaussian_evidence(effect=0.0, models=5), online_scores) == pytest.approx(0.5, abs=0.04)


def test_a_record_that_no_shadow_has_on_one_side_still_has_a_score():
    evidence = gaussian_evidence(effect=1.0, models=3, patients=30)
    for target in range(3):
        assert torch.isfinite(online_scores(evidence, target)).all()


def test_one_group_alone_has_no_area():
    alone = Decisions(torch.rand(5), torch.ones(5, dtype=torch.bool), torch.arange(5))
    assert math.isnan(decision_findings("x", "x", alone, 0, 0.0)[0].value)


def test_a_codec_is_asked_by_how_well_it_rebuilds_a_patients_images():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        codec, other = Codec(tiny_task(), "autoencoder"), Codec(tiny_task(), "autoencoder")
    inside, outside = quick_slice_set(6, seed=1), quick_slice_set(6, seed=2)
    findings = measure_codec_membership(
        codec, (inside, torch.arange(6)), (outside, torch.arange(6, 12)), seed=1, surrogate=other
    )
    titles = {finding.title for finding in findings}
    assert titles == {"reconstruction error", "reconstruction error, compared with another codec's"}
    for title in titles:
        assert 0 <= value(findings, title).value <= 1
        assert "12 patients" in value(findings, title).note
    records = records_of(codec, inside, torch.tensor([7, 7, 3, 3, 5, 5]), Profile.COARSE)
    assert records.patients == 3
    assert tuple(records.images) == tuple(records.masks) == ("s4", "b")


def test_a_shared_network_gives_away_the_cases_that_it_segments_better_than_another_network_does():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        codec, other = Codec(tiny_task(), "autoencoder"), Codec(tiny_task(), "autoencoder")
    inside, outside = quick_slice_set(6, seed=1), quick_slice_set(6, seed=2)
    fit = FitConfig(epochs=6, batch_size=8)
    train_local_network(codec.local, inside, fit, torch.Generator().manual_seed(1))
    strange = replace(outside, labels=(outside.known_labels + 1) % 3)  # as little like what it learned as can be
    findings = measure_network_membership(
        codec.local, [other.local.eval()], (inside, torch.arange(6)), (strange, torch.arange(6, 12)), seed=1
    )
    for title in ("loss alone", "loss, compared with other members' networks"):
        assert value(findings, title).value > 0.95
