"""The audit as a whole, on made-up cases: events, a report with a row for each profile, controls that hold."""

from __future__ import annotations

import math
import os
import stat
from dataclasses import replace

import numpy as np
import pytest
import torch

from ppcmi.audit.attack_list import Lengths, picture_attacks
from ppcmi.audit.attacker import Finding
from ppcmi.audit.attacks.decoder import DecoderConfig
from ppcmi.audit.attacks.rehearsal import RehearsalConfig
from ppcmi.audit.controls import check_learning
from ppcmi.audit.document import AuditReport
from ppcmi.audit.kept_settings import FOLDER, KeptSettings, identity_of
from ppcmi.audit.mapping import MappingConfig, fit_stand_in, measure_usefulness, train_mapper
from ppcmi.audit.reconstruction import Bench
from ppcmi.audit.report_page import page
from ppcmi.audit.settings import settings_of
from ppcmi.audit.subjects import split_subjects, thin
from ppcmi.audit.suite import AuditConfig, attacked, audit
from ppcmi.audit.wording import MEASURES, NOT_KNOWN
from ppcmi.codec.codec import Codec
from ppcmi.codec.training import train_codec
from ppcmi.errors import AuditError, CancelledError
from ppcmi.fitting import FitConfig, FitReport, ignore_report
from ppcmi.latents import Latents
from ppcmi.scales import Profile, scale_shapes
from support.audit import QUICK, untrained_codec
from support.codecs import quick_config, quick_slice_set, tiny_task

CASES = 14
PROFILES = (Profile.FULL, Profile.MINIMAL)
CONFIG = AuditConfig(
    profiles=PROFILES,
    lengths=Lengths(victims=12, others=24),
    surrogate=FitConfig(epochs=2, batch_size=8),
    mapping=MappingConfig(FitConfig(epochs=2, batch_size=16), copies=0),
)


@pytest.fixture(scope="module")
def subjects():
    return split_subjects(quick_slice_set(CASES, seed=1), [str(index) for index in range(CASES)], seed=1)


@pytest.fixture(scope="module")
def codec() -> Codec:
    """Trained to reconstruct, until it shows clearly more than the mean image; that is what attackers use."""
    config = replace(quick_config(epochs=1), images=FitConfig(epochs=20, batch_size=8))
    return train_codec(quick_slice_set(12, seed=7), tiny_task(), config)


@pytest.fixture(scope="module")
def events(subjects, codec):
    return list(audit(subjects, codec, CONFIG))


@pytest.fixture(scope="module")
def report(events) -> AuditReport:
    return events[-1].report


def test_every_step_is_told_before_it_is_done_and_the_report_comes_last(events):
    assert [event.done for event in events] == list(range(len(events)))
    assert {event.total for event in events} == {len(events) - 1}
    assert all(event.report is None for event in events[:-1])
    assert all(event.text for event in events)


def test_all_controls_hold(report):
    assert [control.name for control in report.controls if not control.holds] == []
    assert {"key off", "random latents", "wrong key", "mean image"} <= {control.name for control in report.controls}


def test_there_is_a_row_for_each_profile_with_dice_beside_the_best_attack(report):
    assert [row.profile for row in report.profiles] == ["full", "minimal"]
    for row in report.profiles:
        assert 0 <= row.dice_low <= row.dice <= row.dice_high <= 1
        assert row.best_low <= row.best_ssim <= row.best_high
        assert row.unaided_ssim <= row.best_ssim
        assert row.best_setting.startswith(f"two layers, {row.profile}; ")
    full, minimal = report.profiles
    assert full.numbers_a_slice == 7 * minimal.numbers_a_slice


def test_a_published_key_is_as_good_as_none(report):
    def best(setting: str) -> float:
        return max(f.value for f in report.findings if f.setting == setting and f.measure == "SSIM")

    assert best("KLT as published; network") == pytest.approx(best("no protection"), abs=0.02)


def test_the_row_of_a_member_who_has_the_inner_key_does_not_count_against_the_profile(report):
    assert any(finding.setting == "two layers, full; server with a member" for finding in report.findings)
    assert all("member" not in row.best_setting for row in report.profiles)


def test_a_member_with_both_keys_decodes_in_a_quick_check_too(report):
    by_members = [found for found in report.findings if found.attack == "A8"]
    assert {found.setting for found in by_members} == {
        f"two layers, {profile}; server with a member" for profile in PROFILES
    }


def test_pictures_are_of_victims_with_the_strongest_attacks_and_the_guess(report):
    assert {row.profile for row in report.pictures} == {"full", "minimal"}
    for row in report.pictures:
        assert row.image.shape == row.guess.shape == (64, 64)
        assert row.image.dtype == row.leaving.dtype == np.uint8
        assert {name.partition(":")[0] for name in row.reconstructions} == {"A1", "A2", "A3"}
        assert len(row.reconstructions) == 3
        assert all(picture.shape == (64, 64) for picture in row.reconstructions.values())


def test_the_document_has_every_number_and_no_picture(report):
    report = replace(report, findings=[*report.findings, replace(report.findings[0], value=math.nan)])
    text = report.to_json()
    again = AuditReport.from_json(text)
    assert "NaN" not in text
    assert math.isnan(again.findings[-1].value)
    assert again.findings[:-1] == report.findings[:-1]
    assert again.profiles == report.profiles
    assert again.controls == report.controls
    assert again.pictures == []
    assert again.config == report.config
    for damaged in ("", "{}", text.replace("ppcmi-audit/1", "ppcmi-audit/9"), text.replace("chance", "luck")):
        with pytest.raises(AuditError):
            AuditReport.from_json(damaged)


def test_every_measure_is_explained(report):
    measured = {finding.measure for finding in report.findings}
    assert {"matched rightly", "correlation with the image", "TPR at 1% FPR"} <= measured
    assert [name for name in measured if not name.startswith(tuple(MEASURES))] == []


def test_the_report_says_how_many_were_attacked_and_whether_the_codec_knew_them(report):
    assert (report.config["attacked"], report.config["patients"]) == (4, CASES)
    assert report.config["unseen"] == NOT_KNOWN


def test_attributes_of_the_subjects_are_attacked_in_a_full_check(subjects, codec):
    full = replace(CONFIG, attacks="full")
    count = subjects.victims.cases + subjects.collected.cases

    def steps(chosen):
        return next(audit(chosen, codec, full)).total

    settings = 4 + 4 * len(PROFILES)
    told = replace(subjects, attributes={"scanner": ["x"] * count})
    assert steps(told) == steps(subjects) + settings


@pytest.mark.parametrize(
    ("known", "tried", "leaked"),
    [
        (1, [1], [1]),
        (4, [1, 2, 3, 4], [1, 4]),
        (20, [1, 2, 3, 5, 10], [1, 5, 20]),
        (None, [1, 2, 3, 5, 10], [1, 5, 20]),
    ],
)
def test_where_few_cases_leaked_all_of_them_are_used(codec, known, tried, leaked):
    rows = {one.name: one for one in settings_of(codec, scope="consortium", profiles=[Profile.COARSE])}

    def numbers(name, row):
        made = picture_attacks("full", rows[row], CONFIG.lengths, ignore_report, known)
        return [attack.cases for attack in made if attack.name == name]

    fixed, fresh = "two layers, coarse; server without the codec", "two layers, coarse; network"
    assert (numbers("A2", fixed), numbers("A4", fixed)) == (tried, leaked)
    assert numbers("A2", fresh) == numbers("A4", fresh) == [min(5, known or 5)]


def test_a_full_check_of_the_fewest_patients_runs_to_its_end(codec):
    few = split_subjects(quick_slice_set(6, seed=1), [str(index) for index in range(6)], seed=1)
    decoder = DecoderConfig(steps=4, batch_size=8, checks=2)
    rehearsal = RehearsalConfig(copies=2, slices=1, most=40)
    config = replace(CONFIG, attacks="full", profiles=(Profile.MINIMAL,), lengths=Lengths(8, 16, decoder, rehearsal))
    report = list(audit(few, codec, config))[-1].report
    assert report.config["leaked"] == 1
    told = {found.attack: found.note for found in report.findings if found.note.startswith("not measurable")}
    assert told["A10"] == "not measurable: 4 patients, 8 are needed"
    (trained,) = {found.note for found in report.findings if found.title.endswith("by a trained network")}
    assert trained == "not measurable: 2 cases of the attacker's own, 4 are needed"
    assert AuditReport.from_json(report.to_json()).profiles == report.profiles
    assert report.broken_controls("A4 to A7") == ["trained decoder"]  # four updates teach nothing
    assert "The numbers of A4 to A7 in the report say nothing" in page(report)


def test_decoders_that_learned_enough_hold_the_control_of_learned_attacks(subjects, codec):
    bench = Bench(attacked(subjects, CONFIG.lengths), codec, (1,), leaked=3)
    control = check_learning(bench, codec, QUICK)
    assert control.holds
    assert control.guards == "A4 to A7"


def test_another_codec_for_the_published_protocol_is_another_check(subjects, codec):
    other = untrained_codec(3)
    assert identity_of(subjects, codec, CONFIG) == identity_of(subjects, codec, CONFIG, codec)
    assert identity_of(subjects, codec, CONFIG) != identity_of(subjects, codec, CONFIG, other)


def test_it_can_be_ended_between_steps_and_within_a_training(subjects, codec):
    running = audit(subjects, codec, CONFIG)
    next(running)
    running.close()
    assert list(running) == []

    def cancel(report: FitReport) -> None:
        raise CancelledError("cancelled")

    with pytest.raises(CancelledError):
        list(audit(subjects, codec, CONFIG, report=cancel))


def found_in(report: AuditReport) -> list[Finding]:
    """Everything but the times."""
    return [replace(finding, seconds=0.0) for finding in report.findings]


def test_a_check_that_was_cut_off_goes_on_and_finds_what_it_would_have_found(subjects, codec, report, tmp_path):
    kept = KeptSettings(tmp_path, identity_of(subjects, codec, CONFIG))
    first = audit(subjects, codec, CONFIG, kept=kept)
    whole = next(first).total
    for event in first:
        if event.text.startswith("two layers, full; server with the codec"):
            break
    first.close()
    if os.name == "posix":
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")} == {0o700, 0o600}

    events = list(audit(subjects, codec, CONFIG, kept=kept))
    through = sum(event.text.endswith("keeping what was found") for event in events)
    assert "6 settings of an earlier check" in events[0].text
    assert (events[0].total < whole, through) == (True, 6)
    assert found_in(events[-1].report) == found_in(report)
    assert events[-1].report.profiles == report.profiles
    assert [list(row.reconstructions) for row in events[-1].report.pictures] == [
        list(row.reconstructions) for row in report.pictures
    ]
    kept.clear()
    assert list(tmp_path.iterdir()) == []


def test_a_check_does_not_go_on_from_another(subjects, codec, tmp_path):
    one = KeptSettings(tmp_path, identity_of(subjects, codec, CONFIG))
    for event in audit(subjects, codec, CONFIG, kept=one):
        if event.text.startswith("KLT as published; network"):
            break
    others = [
        (subjects, replace(CONFIG, seed=2)),
        (replace(subjects, collected=thin(subjects.collected, 1)), CONFIG),
    ]
    for cases, config in [(subjects, CONFIG), *others]:
        kept = KeptSettings(tmp_path, identity_of(cases, codec, config))
        text = next(audit(cases, codec, config, kept=kept)).text
        assert ("earlier" in text) == (cases is subjects and config is CONFIG)
    for path in (tmp_path / FOLDER).iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    assert "earlier" not in next(audit(subjects, codec, CONFIG, kept=one)).text


@pytest.mark.parametrize("profile", [Profile.FULL, Profile.COARSE, Profile.MINIMAL], ids=str)
def test_the_stand_in_learns_from_the_smallest_slices_whatever_the_order_of_memory(profile):
    """Maps of one value, with channels side by side as encoders leave them: some libraries crash on these."""
    generator = torch.Generator().manual_seed(1)
    images, masks = (
        Latents(
            {
                scale: torch.randn(20, *shape, generator=generator).to(memory_format=torch.channels_last)
                for scale, shape in scale_shapes((32, 32), profile.scales).items()
            }
        )
        for _ in range(2)
    )
    mapped = fit_stand_in(images, masks, FitConfig(epochs=1, batch_size=8), seed=1)(images)
    assert mapped.shapes == masks.shapes
    assert all(values.isfinite().all() for _, values in mapped.items())


def test_noise_costs_dice(subjects, codec):
    config = MappingConfig(FitConfig(epochs=4, batch_size=16), copies=0)

    def server_dice(noise: float) -> float:
        mapper = train_mapper(codec, subjects.collected, Profile.FULL, 1, noise=noise, config=config)
        return float(measure_usefulness(codec, mapper, subjects.victims, Profile.FULL, noise=noise).server.nanmean())

    torch.manual_seed(1)
    assert server_dice(0.0) > server_dice(20.0)
