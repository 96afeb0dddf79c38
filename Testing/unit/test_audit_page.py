"""The audit's page: one file that prints, says what was found, hides no failed control, and claims no more."""

import base64
import math
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from itertools import product
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from ppcmi.audit.attacker import Finding
from ppcmi.audit.attacks.linkage import RESENT
from ppcmi.audit.report_page import best_by_setting, page
from ppcmi.audit.report_plots import Bar, Interval, TradeOff, interval_plot, trade_off_plot
from ppcmi.audit.wording import ATTACKS, CLAIMS_NOT_MADE, YES
from ppcmi.privacy_words import (
    DICE_IN_WORDS,
    QUICK_IN_WORDS,
    unseen_in_words,
)
from support.audit_reports import COLLUDING, KEYED, a_report, without_protection


@pytest.fixture(scope="module")
def text():
    return page(a_report())


class Balanced(HTMLParser):
    """Fails where elements are not closed in order."""

    empty = frozenset({"meta", "br", "img"})

    def __init__(self):
        super().__init__()
        self.open, self.resources = [], []

    def handle_starttag(self, tag, attrs):
        self.resources += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in self.empty:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(text):
    reader = Balanced()
    reader.feed(text)
    assert reader.open == []
    assert reader.resources
    assert all(value.startswith("data:image/png;base64,") for value in reader.resources)
    assert "<script" not in text
    assert "url(" not in text
    assert "default-src 'none'" in text


def test_it_prints_on_paper_with_no_picture_cut_in_two(text):
    assert "@page { size: A4;" in text
    printed = text[text.index("@media print") :]
    assert re.search(r"figure, tr, .pictures[^{]*\{ break-inside: avoid", printed)


def test_pictures_are_those_of_the_report(text, tmp_path):
    data = re.findall(r"data:image/png;base64,([^\"]+)", text)
    report = a_report()
    assert len(data) == sum(3 + len(row.reconstructions) for row in report.pictures)
    (tmp_path / "first.png").write_bytes(base64.b64decode(data[0]))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "first.png")), report.pictures[0].image)


def test_every_number_stands_beside_its_interval_and_what_a_guess_gives(text):
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr>.*?</tr>", text, re.DOTALL)]
    lines = [" ".join(row) for row in rows]
    assert any(
        line.startswith("coarse 1,536 numbers 1.6 kB 0.87 (0.85 to 0.89) server&#x27;s part 0.84 0.52 (0.49 to 0.55)")
        for line in lines
    )
    assert (
        "A3 aligned statistics SSIM&nbsp; 0.44 (0.41 to 0.47) , guess&nbsp;0.36 ; "
        "PSNR&nbsp; 15.2 (14.8 to 15.9) , guess&nbsp;14.1 2"
    ) in lines
    assert any(line.startswith("minimal 512 numbers 552 bytes ") for line in lines)


def listed(text):
    """What the page lists as not measured, as text."""
    after = text[text.index("<h3>Not measured</h3>") :]
    return re.sub(r"<[^>]+>", "", after[: after.index("</ul>")])


def test_what_could_not_be_measured_takes_a_line_an_attack(text):
    assert "top-1 of re-sent, untrained (not measurable here, in two layers, coarse; server with the codec)" in listed(
        text
    )
    report = a_report()
    titles = ("maps", "norms")
    for setting, title in product({finding.setting for finding in report.findings}, titles):
        report.findings.append(
            Finding("A9", title, setting, "TPR at 1% FPR", math.nan, 0.0, 1.0, 0.01, 1.0, "not measurable: 24 pairs")
        )
    many = page(report)
    assert many.count("not measurable: 24 pairs") == 1
    assert "TPR at 1% FPR of maps; norms (not measurable: 24 pairs, in every setting)" in listed(many)
    assert listed(many).count("A9") == 1


def test_every_number_is_folded_on_a_screen_and_not_on_paper(text):
    assert "<details><summary>5 numbers in 2 settings</summary>" in text
    assert "details::details-content" in text[text.index("@media print") :]


def test_what_holds_of_every_profile_is_said_once_and_what_does_not_by_its_name():
    report = a_report()
    for profile, share in (("coarse", 0.61), ("minimal", 0.52)):
        setting = f"two layers, {profile}; server with the codec"
        report.findings.append(Finding("A9", f"{RESENT}, by maps", setting, "top-1", share, 0.0, 1.0, 0.02, 1.0))
    text = page(report)
    assert text.count("What leaves stays personal data about health") == 1
    for profile, share in (("coarse", "0.61"), ("minimal", "0.52")):
        assert (
            f"In profile {profile} the server&#x27;s first guess found images that were sent again in {share} of"
            in text
        )


@pytest.mark.parametrize(("height", "rows"), [(48, ""), (130, "two"), (200, "three")])
def test_other_pictures_stand_beside_what_leaves_where_that_is_high(height, rows):
    report = a_report(size=(48, 48))
    leaving = np.zeros((height, 48), np.uint8)
    text = page(replace(report, pictures=[replace(row, leaving=leaving) for row in report.pictures]))
    assert text.count(f'<figure class="{rows}"><img class="pixels"') == 2


def test_the_attackers_that_were_run_are_explained_and_no_other(text):
    for name, words in ATTACKS.items():
        assert (escape(words.does) in text) == (name in ("A2", "A3", "A8", "A9")), name


def test_claims_that_are_not_made_are_printed(text):
    for claim in CLAIMS_NOT_MADE:
        assert escape(claim) in text
    assert "stays personal data about health" in text
    assert "This page stays at the site." in text


def test_a_control_that_does_not_hold_is_said_before_any_number(text):
    assert "A control did not hold" not in text
    broken = page(a_report(holds=False))
    assert broken.index("A control did not hold") < broken.index("What each profile costs")
    assert "wrong key" in broken[broken.index("A control did not hold") : broken.index("What each profile costs")]


def test_a_gate_of_membership_voids_its_numbers_alone():
    broken = page(a_report(members_alike=False))
    assert "The numbers of A10 in the report say nothing about privacy until it does: members alike." in broken
    assert "The numbers of this check say nothing" not in broken
    assert "<td>A10 alone</td>" in broken


def test_a_quick_check_says_on_top_that_a_full_one_finds_more():
    quick, full = page(a_report()), page(a_report(attacks="full"))
    assert quick.index(QUICK_IN_WORDS) < quick.index("What each profile costs")
    assert "best quick attack: SSIM" in quick
    assert QUICK_IN_WORDS not in full
    assert "quick attack" not in full.replace("quick check", "")


@pytest.mark.parametrize(("found", "said"), [(0.21, True), (0.44, False)])
def test_attacks_that_see_nothing_without_protection_either_are_no_comfort(found, said):
    assert ("These attacks could not see." in page(without_protection(found))) == said
    assert "could not see" not in page(a_report())  # where it was not tried


def test_how_many_were_attacked_stands_by_the_intervals():
    few, enough = page(a_report()), page(a_report(attacked=5))
    assert "10 patients · 12 cases · 3 patients attacked" in few
    assert "of 3 attacked patients" in few
    assert few.index("Only 3 patients were attacked") < few.index("What each profile costs")
    assert "Few patients." not in enough


def test_beside_dice_stand_what_it_is_of_and_whether_the_codec_knew_the_cases(text):
    for words in (DICE_IN_WORDS, unseen_in_words(False)):
        assert words in text
    assert unseen_in_words(True) in page(a_report(unseen=YES))


def test_what_was_run_is_said_in_words(text):
    facts = text[text.index("What was run") :]
    assert "<dt>cases attacked</dt><dd>4</dd>" in facts
    assert "victims" not in facts


def test_without_labels_there_is_no_dice_and_no_plot():
    text = page(a_report(dice=math.nan))
    assert "not measured" in text
    assert "Dice against" not in text
    assert "nan" not in re.sub(r"base64,[^\"]+", "", text).lower().replace("nand", "")


def test_what_comes_from_outside_is_text():
    report = a_report()
    evil = "<b onmouseover=alert(1)>x</b>"
    findings = [Finding("A1", evil, evil, "SSIM", 0.5, 0.4, 0.6, 0.3, 1.0, evil)]
    text = page(type(report)(**{**vars(report), "findings": findings, "config": {"task": evil, "title": evil}}))
    assert "<b onmouseover" not in text


def test_of_each_setting_the_best_picture_is_shown():
    bars = best_by_setting(a_report().findings)
    assert [(bar.name, bar.found.value) for bar in bars] == [(f"{KEYED}: A2", 0.52), (f"{COLLUDING}: A8", 0.71)]


def circles(svg):
    return [
        (float(c.get("cx")), float(c.get("cy"))) for c in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}circle")
    ]


def test_better_is_up_and_to_the_left():
    good = TradeOff("good", Interval(0.4, 0.38, 0.42), Interval(0.9, 0.89, 0.91))
    bad = TradeOff("bad", Interval(0.8, 0.78, 0.82), Interval(0.8, 0.79, 0.81))
    svg = trade_off_plot([good, bad], guess=0.35)
    (x, y), (other_x, other_y) = circles(svg)
    assert x < other_x
    assert y < other_y  # SVG counts downwards
    assert "good: Dice 0.90, SSIM 0.40" in svg


def test_equal_points_are_drawn_and_their_names_apart():
    point = Interval(0.5, 0.5, 0.5)
    svg = trade_off_plot([TradeOff("one", point, point), TradeOff("two", point, point)], guess=0.5)
    places = [
        float(t.get("y"))
        for t in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
        if t.text in ("one", "two")
    ]
    assert abs(places[0] - places[1]) >= 12


def test_a_scale_from_nothing_to_the_slice_itself():
    svg = interval_plot([Bar("none", Interval(0, 0, 0), 0.0), Bar("all", Interval(1, 1, 1), 0.5)], "SSIM")
    (first, _), (last, _) = circles(svg)
    assert first < last
    assert interval_plot([], "SSIM") == ""
