"""What is kept of a privacy check: numbers in the site profile, for one task and codec, and what is said of it."""

import hashlib
import json
import math
import os
import stat
from dataclasses import asdict, replace
from html import escape

import pytest

from ppcmi.audit.attacker import Finding
from ppcmi.audit.attacks.linkage import REPEATS, RESENT
from ppcmi.audit.check import check_of
from ppcmi.audit.report_page import page
from ppcmi.consent_log import Answer, ConsentLog
from ppcmi.errors import SiteError
from ppcmi.privacy_check import (
    FOLDER,
    BrokenControl,
    codec_digest,
    keep_check,
    read_check,
    write_check,
)
from ppcmi.privacy_words import (
    FEWEST_ATTACKED,
    QUICK_IN_WORDS,
    alone_in_words,
    checked_in_words,
    few_in_words,
    two_sentences,
    unseen_in_words,
)
from ppcmi.scales import Profile
from ppcmi.task import task_to_json
from ppcmi.task_profile import Membership, TaskProfile
from ppcmi.what_leaves import TEXT_VERSION, Sending, consent_text, export_of_slices
from support.audit_reports import COLLUDING, KEYED, a_report, without_protection
from support.codecs import tiny_task

LATER = ("image_again", "patient_again", "matched", "image_again_guess", "patient_again_guess", "matched_guess")
"""What checks of earlier versions did not keep of a profile."""


@pytest.fixture
def a_part(tmp_path):
    """A site's part in a task, with something in place of a codec's file."""
    folder = tmp_path / "tasks" / "tiny"
    folder.mkdir(parents=True)
    (folder / "codec.safetensors").write_bytes(b"codec")
    (folder / "task.json").write_text(task_to_json(tiny_task()))
    return TaskProfile(folder, tiny_task(), Membership("consortium", "two-layer", founder=True))


def a_check(part, **changes):
    return replace(check_of(a_report(), part, "quick", cases=12, patients=10, seed=1), **changes)


def test_what_is_kept_comes_back_and_only_its_owner_can_read_it(tmp_path, a_part):
    assert read_check(tmp_path, a_part) is None
    check = a_check(a_part)
    write_check(tmp_path, "tiny", check)
    assert read_check(tmp_path, a_part) == check
    (path,) = (tmp_path / FOLDER).iterdir()
    assert path.name == "tiny.json"
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


IN_ORDER = (
    {"controls_hold": False},
    {"attacks": "quick, shortened"},
    {"attacks": "full, shortened"},
    {"attacks": "quick"},
    {"attacks": "full"},
)
"""Checks, from the one that says least."""


@pytest.mark.parametrize("last", range(len(IN_ORDER)))
@pytest.mark.parametrize("new", range(len(IN_ORDER)))
def test_a_check_takes_the_place_of_the_last_one_unless_that_says_more(tmp_path, a_part, last, new):
    earlier = a_check(a_part, time="2026-01-01T00:00:00+00:00", **IN_ORDER[last])
    later = a_check(a_part, time="2026-01-02T00:00:00+00:00", **IN_ORDER[new])
    assert keep_check(tmp_path, a_part, earlier) is earlier
    kept = keep_check(tmp_path, a_part, later)
    assert kept == read_check(tmp_path, a_part) == (later if new >= last else earlier)


def test_one_of_an_earlier_codec_or_that_cannot_be_read_is_replaced_by_any(tmp_path, a_part):
    quick = a_check(a_part)
    keep_check(tmp_path, a_part, a_check(a_part, attacks="full", codec="0" * 32))
    assert keep_check(tmp_path, a_part, quick) is quick
    (tmp_path / FOLDER / "tiny.json").write_text("damaged")
    assert keep_check(tmp_path, a_part, quick) is quick
    assert read_check(tmp_path, a_part) == quick


def test_it_holds_numbers_and_no_picture_and_no_case(tmp_path, a_part):
    write_check(tmp_path, "tiny", a_check(a_part))
    document = json.loads((tmp_path / FOLDER / "tiny.json").read_text())
    rows = document.pop("profiles")
    assert set(document) == {
        "format", "time", "task", "codec", "scope", "attacks", "cases", "patients", "attacked", "unseen", "seed",
        "seconds", "controls_hold", "broken_controls", "could_not_see", "dice_alone",
    }  # fmt: skip
    for row in rows:
        words = {name: value for name, value in row.items() if isinstance(value, str)}
        assert words == {"profile": row["profile"], "best_attack": "A2 known slices (5)"}


def test_a_check_of_another_codec_task_or_scope_is_none(tmp_path, a_part):
    write_check(tmp_path, "tiny", a_check(a_part))
    a_part.codec_path.write_bytes(b"another codec")
    assert read_check(tmp_path, a_part) is None
    a_part.codec_path.write_bytes(b"codec")
    assert read_check(tmp_path, a_part) is not None
    newer = replace(a_part, task=replace(a_part.task, version="2"))
    assert read_check(tmp_path, newer) is None
    alone = replace(a_part, membership=Membership("site", "two-layer", founder=True))
    assert read_check(tmp_path, alone) is None


def test_without_a_codec_there_is_no_check(tmp_path, a_part):
    a_part.codec_path.unlink()
    assert codec_digest(a_part) == ""
    assert read_check(tmp_path, a_part) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"format": "ppcmi-privacy-check/4", "profiles": [7]}',
        b'{"format": "ppcmi-privacy-check/4"}',
        b'{"format": "other"}',
        b"\xff",
        b"{" * 5000,
    ],
)
def test_a_damaged_file_is_said_in_one_sentence(tmp_path, a_part, content):
    write_check(tmp_path, "tiny", a_check(a_part))
    (tmp_path / FOLDER / "tiny.json").write_bytes(content)
    with pytest.raises(SiteError, match="make it again"):
        read_check(tmp_path, a_part)


def test_a_check_of_the_first_version_is_none(tmp_path, a_part):
    """It does not say how many patients were attacked, and a failed gate of A10 voided all of it."""
    write_check(tmp_path, "tiny", a_check(a_part))
    path = tmp_path / FOLDER / "tiny.json"
    path.write_text(path.read_text().replace("ppcmi-privacy-check/5", "ppcmi-privacy-check/1"))
    assert read_check(tmp_path, a_part) is None


@pytest.mark.parametrize("holds", [True, False])
def test_a_check_of_the_second_version_is_read_and_says_what_it_does_not_know(tmp_path, a_part, holds):
    check = a_check(a_part, controls_hold=holds)
    write_check(tmp_path, "tiny", check)
    path = tmp_path / FOLDER / "tiny.json"
    document = {**json.loads(path.read_text()), "format": "ppcmi-privacy-check/2"}
    del document["broken_controls"], document["could_not_see"], document["dice_alone"]
    path.write_text(json.dumps(document))
    kept = read_check(tmp_path, a_part)
    assert kept.profiles == check.profiles
    titles = [notice.title for notice in kept.notices]
    assert ("A control did not hold." in titles) == (not holds)
    assert "An earlier version made this check." in titles


def test_a_check_of_the_second_version_keeps_the_name_that_the_log_has(a_part):
    check = a_check(a_part, could_not_see=None)
    document = asdict(check)
    del document["broken_controls"], document["could_not_see"], document["dice_alone"]
    for row in document["profiles"]:
        for later in LATER:
            del row[later]
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    assert check.name == f"{check.time} {digest[:8]}"


def test_a_dice_that_was_not_measured_stays_so(tmp_path, a_part):
    check = check_of(a_report(dice=math.nan), a_part, "quick", cases=12, patients=10, seed=1)
    write_check(tmp_path, "tiny", check)
    kept = read_check(tmp_path, a_part)
    assert math.isnan(kept.of_profile("coarse").dice)
    assert kept.name == check.name


def test_a_check_of_the_third_version_does_not_know_what_is_recognized(tmp_path, a_part):
    write_check(tmp_path, "tiny", a_check(a_part))
    path = tmp_path / FOLDER / "tiny.json"
    document = {**json.loads(path.read_text()), "format": "ppcmi-privacy-check/3"}
    for row in document["profiles"]:
        for later in LATER:
            del row[later]
    path.write_text(json.dumps(document))
    found = read_check(tmp_path, a_part).of_profile("coarse")
    assert found.image_again is None
    assert "first guess" not in two_sentences(found, "full", 3)[1]


def test_how_often_the_server_recognizes_what_comes_again_is_the_best_of_its_guesses(tmp_path, a_part):
    report = a_report()
    for setting, kind, share in (
        (KEYED, RESENT, 0.56),
        (KEYED, RESENT, 0.31),
        ("two layers, coarse; server without the codec", RESENT, 0.48),
        (COLLUDING, RESENT, 0.99),  # a member helped: not the server by itself
        ("two layers, coarse; network", RESENT, 0.98),
        (KEYED, REPEATS, 0.16),
    ):
        report.findings.append(Finding("A9", f"{kind}, by maps", setting, "top-1", share, 0.0, 1.0, 0.02, 1.0))
    for setting, share in ((KEYED, 0.9), ("two layers, coarse; network", 1.0)):
        finding = Finding("A11", "matching game", setting, "matched rightly", share, 0.0, 1.0, 0.05, 1.0)
        report.findings.append(finding)
    check = check_of(report, a_part, "quick", cases=12, patients=10, seed=1)
    write_check(tmp_path, "tiny", check)
    found = read_check(tmp_path, a_part).of_profile("coarse")
    assert (found.image_again, found.patient_again) == (0.56, 0.16)
    _, second = two_sentences(found, "quick", 3)
    for share, what, guess in (
        (0.56, "images that were sent again", 0.02),
        (0.16, "another case of a patient", 0.02),
        (0.90, "the upload that an image belongs to", 0.05),
    ):
        assert f"{what} in {share:.2f} of the tries (drawing lots: {guess:.2f})" in second
    assert "first guess" not in two_sentences(check.of_profile("minimal"), "quick", 3)[1]


def test_checks_with_other_numbers_have_other_names(a_part):
    check = a_check(a_part)
    assert check.name == a_check(a_part, time=check.time).name
    assert check.name != a_check(a_part, time=check.time, seed=2).name


def test_the_two_sentences_have_the_numbers_and_call_nothing_anonymous(a_part):
    first, second = two_sentences(a_check(a_part).of_profile("coarse"), "full", 3)
    for number in ("0.52", "0.49 to 0.55, of 3 attacked patients", "0.36"):
        assert number in first
    assert max(len(sentence.split()) for sentence in (first, second)) < 60
    assert "the best attack without the inner key" in first
    assert "quick" not in first
    assert "nobody here calls it anonymous" in second
    assert "personal data about health" in second


@pytest.mark.parametrize("attacks", ["quick", "quick, shortened"])
def test_a_quick_check_says_that_it_trains_no_decoder(a_part, attacks):
    check = a_check(a_part, attacks=attacks)
    first, _ = two_sentences(check.of_profile("coarse"), attacks, 3)
    assert "the best quick attack" in first
    assert "a full check trains decoders and usually finds more" in first
    assert QUICK_IN_WORDS in checked_in_words(check, Profile.COARSE)
    assert "decoder" not in checked_in_words(replace(check, attacks="full"), Profile.COARSE)


def test_what_is_reached_with_nothing_leaving_is_kept_and_said(tmp_path, a_part):
    report = a_report()
    report = replace(report, config={**report.config, "dice_alone": 0.83})
    write_check(tmp_path, "tiny", check_of(report, a_part, "quick", cases=12, patients=10, seed=1))
    kept = read_check(tmp_path, a_part)
    said = "With nothing leaving, the network that comes with the codec reaches a Dice of 0.83"
    assert said in alone_in_words(kept.dice_alone)
    assert said in page(report)
    assert a_check(a_part).dice_alone is None
    assert alone_in_words(None) == ""


def test_where_every_case_is_a_patient_of_its_own_that_is_said(a_part):
    titles = [notice.title for notice in a_check(a_part, cases=10, patients=10).notices]
    assert "Every case counts as a patient of its own." in titles
    assert "Every case counts as a patient of its own." not in [n.title for n in a_check(a_part).notices]


def test_few_attacked_patients_are_said_beside_the_interval(a_part):
    check = a_check(a_part)
    assert "(quick attacks, 3 of 10 patients attacked)" in checked_in_words(check, Profile.COARSE)
    assert "Only 3 patients were attacked" in checked_in_words(check, Profile.COARSE)
    assert "Only 1 patient was attacked" in few_in_words(1)
    assert few_in_words(FEWEST_ATTACKED) == ""
    assert "Only" not in checked_in_words(replace(check, attacked=FEWEST_ATTACKED), Profile.COARSE)


def test_whether_the_codec_knows_the_attacked_cases_is_kept(a_part):
    assert not a_check(a_part).unseen
    assert "may have been trained on the attacked cases" in unseen_in_words(False)
    known = check_of(a_report(unseen="yes"), a_part, "quick", cases=12, patients=10, seed=1)
    assert known.unseen
    assert "was not trained on the attacked cases" in unseen_in_words(True)


def test_a_gate_of_membership_voids_no_number_of_pictures(a_part):
    def kept(**controls):
        return check_of(a_report(**controls), a_part, "full", cases=12, patients=10, seed=1)

    assert kept(members_alike=False).controls_hold
    assert not kept(holds=False).controls_hold


@pytest.mark.parametrize(("found", "blind"), [(0.21, True), (0.44, False)])
def test_a_check_keeps_whether_its_attacks_could_see(tmp_path, a_part, found, blind):
    write_check(tmp_path, "tiny", check_of(without_protection(found), a_part, "quick", cases=12, patients=10, seed=1))
    kept = read_check(tmp_path, a_part)
    assert kept.could_not_see == blind
    assert ("These attacks could not see." in [notice.title for notice in kept.notices]) == blind
    assert ("These attacks could not see." in checked_in_words(kept, Profile.COARSE)) == blind


@pytest.mark.parametrize("attacks", ["quick", "full", "quick, shortened"])
@pytest.mark.parametrize("attacked", [3, 9])
@pytest.mark.parametrize("found", [0.21, 0.44])
@pytest.mark.parametrize("broken", [{}, {"holds": False}, {"members_alike": False}])
def test_what_is_kept_says_before_its_numbers_what_the_page_says(tmp_path, a_part, attacks, attacked, found, broken):
    report = without_protection(found, attacks=attacks, attacked=attacked, **broken)
    write_check(tmp_path, "tiny", check_of(report, a_part, attacks, cases=12, patients=10, seed=1))
    of_page = page(report)
    on_top = of_page[of_page.index("This page stays at the site.") : of_page.index("What each profile costs")]
    kept = [f"{escape(notice.title)}</b> {escape(notice.text)}</p>" for notice in read_check(tmp_path, a_part).notices]
    assert on_top.count("</b>") == 1 + len(kept)
    for said in kept:
        assert said in on_top
    assert ("wrong key" in on_top, "members alike" in on_top) == ("holds" in broken, "members_alike" in broken)


def test_only_a_quick_check_promises_that_a_full_one_finds_more(a_part):
    def said(attacks):
        return " ".join(map(str, a_check(a_part, attacks=attacks, could_not_see=True).notices))

    assert "a full check finds more" in said("quick")
    assert "full check" not in said("full")


def test_the_question_says_what_was_checked_or_that_nothing_was(a_part):
    check = a_check(a_part)
    assert checked_in_words(None, Profile.COARSE).startswith("No privacy check was made")
    text = checked_in_words(check, Profile.COARSE)
    assert "SSIM 0.52, a guess 0.36" in text
    assert text.index("Only 3 patients") < text.index("SSIM")
    assert "similarity; 1 is the slice itself" in text
    assert "did not look at profile full" in checked_in_words(check, Profile.FULL)
    broken = replace(check, controls_hold=False, broken_controls=(BrokenControl("wrong key"),))
    assert "say nothing about privacy until it does: wrong key" in checked_in_words(broken, Profile.COARSE)
    for voided in (broken, replace(check, could_not_see=True)):
        assert "0.52" not in checked_in_words(voided, Profile.COARSE)


@pytest.mark.parametrize(
    "voided", [{"controls_hold": False}, {"could_not_see": True}, {"attacks": "full, shortened"}], ids=str
)
def test_a_check_whose_numbers_say_nothing_counts_as_none_before_an_export(tmp_path, a_part, voided):
    leaving = export_of_slices([3, 4], a_part.task, Sending(Profile.COARSE), variants=0)
    check = a_check(a_part, could_not_see=False)
    assert check.measured("coarse")
    assert not replace(check, **voided).measured("coarse")
    log = ConsentLog(tmp_path)
    assert log.record("export", leaving, Answer.YES, check).privacy_check == check.name
    assert log.record("export", leaving, Answer.YES, replace(check, **voided)).privacy_check == ""


def test_the_consent_and_its_log_name_the_check_that_was_seen(tmp_path, a_part):
    leaving = export_of_slices([3, 4], a_part.task, Sending(Profile.COARSE), variants=0)
    check = a_check(a_part)
    assert "No privacy check was made" in consent_text(leaving, None)
    assert "SSIM 0.52" in consent_text(leaving, check)
    log = ConsentLog(tmp_path)
    log.record("export", leaving, Answer.YES, None)
    log.record("export", leaving, Answer.YES, check)
    (tmp_path / "consents.jsonl").open("a").write(
        '{"time":"t","action":"export","task":"x","what":{},"text_version":1,"answer":"yes"}\n'
    )
    entries = log.entries()
    assert [entry.privacy_check for entry in entries] == ["", check.name, None]
    assert entries[0].text_version == TEXT_VERSION == 6


def test_the_log_names_no_check_that_says_nothing_of_what_leaves(tmp_path, a_part):
    check, log = a_check(a_part), ConsentLog(tmp_path)
    coarse, full = (export_of_slices([3], a_part.task, Sending(p), variants=0) for p in (Profile.COARSE, Profile.FULL))
    log.record("export", full, Answer.YES, check)  # it did not look at that profile
    log.record("export", coarse, Answer.YES, replace(check, controls_hold=False))
    log.record("export", coarse, Answer.YES, check)
    assert [entry.privacy_check for entry in log.entries()] == ["", "", check.name]
