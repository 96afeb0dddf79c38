"""Sections of the report as HTML: each a function of the report's parts, every text from outside escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from ppcmi.audit.attacker import Finding
from ppcmi.audit.document import Control, PictureRow, ProfileRow
from ppcmi.audit.wording import ATTACKS, FACTS, MEASURES
from ppcmi.png import encode_png
from ppcmi.wording import counted, size_in_words

SSIM = "SSIM"

CAPTION = 0.35
"""Height of a picture's caption as a share of the picture's width, about."""

FEW = 3
"""So many settings are named, more are counted."""


def profile_table(rows: Sequence[ProfileRow], best: str) -> str:
    """What each profile costs and shows: the page's main table.

    :param best: what the best attack is called.
    """
    body = [
        [
            f"<b>{escape(row.profile)}</b>",
            f"{row.numbers_a_slice:,} numbers<br>{size_in_words(row.bytes_a_slice)}",
            _with_interval(row.dice, row.dice_low, row.dice_high) + _by(f"server's part {_number(row.server_dice)}"),
            _with_interval(row.best_ssim, row.best_low, row.best_high) + _by(row.best_attack),
            f"<b>{_number(row.unaided_ssim)}</b>" + _by(row.unaided_attack),
            f"{row.chance_ssim:.2f}",
        ]
        for row in rows
    ]
    header = ["profile", "a slice leaves as", "Dice of a stand-in", f"{best}: SSIM", "no known slice", "guess"]
    return _table(header, body, "main")


def picture_rows(rows: Sequence[PictureRow]) -> str:
    """For each profile its slices: the slice, what leaves, what the attackers made of it, what a guess is."""
    parts = []
    for profile, of_profile in groupby(rows, key=lambda row: row.profile):
        parts.append(f'<h3>Profile {escape(profile)}</h3><div class="profile">')
        for row in of_profile:
            attacks = [_figure(picture, title) for title, picture in row.reconstructions.items()]
            figures = [
                _figure(row.image, "the slice", "stays here"),
                _figure(row.leaving, "what leaves", "as a picture of its numbers", "pixels", _rows_beside(row)),
                *attacks,
                _figure(row.guess, "guess", "the mean slice"),
            ]
            parts.append(f'<div class="pictures">{"".join(figures)}</div>')
        parts.append("</div>")
    return "\n".join(parts)


def findings_tables(findings: Sequence[Finding]) -> str:
    """Every number, a table for each setting in the report's order; then what could not be measured."""
    parts = []
    measured = [finding for finding in findings if math.isfinite(finding.value)]
    for setting in dict.fromkeys(finding.setting for finding in measured):
        parts.append(f"<h3>{escape(setting)}</h3>")
        parts.append(_findings_table([finding for finding in measured if finding.setting == setting]))
    parts.append(_not_measured(findings))
    measures = [name for name in MEASURES if any(finding.measure.startswith(name) for finding in findings)]
    meanings = "; ".join(f"<b>{escape(name)}</b>: {escape(MEASURES[name])}" for name in measures)
    return "\n".join([*parts, f'<p class="quiet small">{meanings}.</p>' if meanings else ""])


def attackers_table(findings: Iterable[Finding]) -> str:
    """Who attacks, for the attacks that were run."""
    run = {finding.attack for finding in findings}
    rows = [
        [f"<b>{name}</b>", escape(words.does), escape(words.knows)] for name, words in ATTACKS.items() if name in run
    ]
    return _table(["", "what it does", "what it knows"], rows, "words")


def controls_table(controls: Sequence[Control]) -> str:
    """What had to hold for the numbers to mean something."""
    rows = [
        [
            escape(control.name),
            escape(control.expected),
            _number(control.value),
            escape(f"{control.guards} alone" if control.guards else "all numbers"),
            "holds" if control.holds else '<b class="bad">does not hold</b>',
        ]
        for control in controls
    ]
    return _table(["control", "expected", "measured", "guards", ""], rows, "words")


def seconds_table(findings: Sequence[Finding]) -> str:
    """Time of each attack over all settings; findings of one run of an attack share it."""
    runs = {(finding.setting, finding.attack, finding.title): finding.seconds for finding in findings}
    spent: dict[str, float] = {}
    for (_setting, attack, _title), seconds in runs.items():
        spent[attack] = spent.get(attack, 0.0) + seconds
    order = sorted(spent, key=lambda attack: (len(attack), attack))
    return _table(["attack", "seconds"], [[escape(attack), f"{spent[attack]:.0f}"] for attack in order], "small")


def facts(values: Mapping[str, object]) -> str:
    """Names and values side by side."""
    rows = "".join(
        f"<dt>{escape(FACTS.get(name, name))}</dt><dd>{escape(str(value))}</dd>" for name, value in values.items()
    )
    return f'<dl class="facts">{rows}</dl>'


def paragraphs(sentences: Iterable[str]) -> str:
    """A list of sentences."""
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def wide(content: str) -> str:
    """A table or a plot in a box of its own, which scrolls where the window is narrower; nothing for nothing."""
    return f'<div class="wide">{content}</div>' if content else ""


def _findings_table(findings: Sequence[Finding]) -> str:
    rows = []
    for (attack, title), group in groupby(findings, key=lambda finding: (finding.attack, finding.title)):
        of_attack = list(group)
        notes = dict.fromkeys(finding.note for finding in of_attack if finding.note)
        note = "".join(f'<br><span class="quiet small">{escape(text)}</span>' for text in notes)
        values = "; ".join(
            f"{escape(finding.measure)}&nbsp;{_with_interval(finding.value, finding.low, finding.high)}"
            f'<span class="quiet">, guess&nbsp;{_number(finding.chance)}</span>'
            for finding in of_attack
        )
        rows.append([f"<b>{escape(attack)}</b>", escape(title) + note, values, f"{of_attack[0].seconds:.0f}"])
    return _table(["", "attack", "found (95 %), and what a guess gives", "s"], rows, "findings")


def _not_measured(findings: Sequence[Finding]) -> str:
    """A line for each attack, as what one lacks is mostly lacking in every setting."""
    settings = {finding.setting for finding in findings}
    lacking: dict[str, dict[tuple[str, str], list[Finding]]] = {}
    for finding in findings:
        if not math.isfinite(finding.value):
            lacking.setdefault(finding.attack, {}).setdefault((finding.measure, finding.note), []).append(finding)
    lines = []
    for attack, reasons in lacking.items():
        said = [
            f"{escape(measure)} of {escape('; '.join(dict.fromkeys(finding.title for finding in found)))}"
            f' <span class="quiet">({escape(", ".join(filter(None, (note, _where(found, settings)))))})</span>'
            for (measure, note), found in reasons.items()
        ]
        lines.append(f"<li><b>{escape(attack)}</b>: {'. '.join(said)}.</li>")
    return f'<h3>Not measured</h3><ul class="small">{"".join(lines)}</ul>' if lines else ""


def _where(found: Sequence[Finding], settings: Collection[str]) -> str:
    """In which settings something is so."""
    these = dict.fromkeys(finding.setting for finding in found)
    if len(these) == len(settings):
        return "in every setting"
    return f"in {'; '.join(these)}" if len(these) <= FEW else f"in {counted(len(these), 'setting')}"


def _with_interval(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return '<span class="quiet">not measured</span>'
    text = f"<b>{_number(value)}</b>"
    if math.isfinite(low) and math.isfinite(high):
        text += f' <span class="quiet interval">({_number(low)} to {_number(high)})</span>'
    return text


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "\N{EN DASH}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _by(attack: str) -> str:
    return f'<br><span class="quiet small">{escape(attack)}</span>'


def _rows_beside(row: PictureRow) -> str:
    """How many rows of other pictures stand beside what leaves, which is high where there are many scales."""
    (height, width), (slice_height, slice_width) = row.leaving.shape, row.image.shape
    rows = round((height / width + CAPTION) / (slice_height / slice_width + CAPTION))
    return {2: "two", 3: "three"}.get(rows, "")


def _figure(picture: NDArray[np.uint8], title: str, detail: str = "", kind: str = "", place: str = "") -> str:
    data = base64.b64encode(encode_png(np.ascontiguousarray(picture))).decode()
    alt = escape(f"{title}, {detail}" if detail else title)
    text = escape(title) + (f'<br><span class="quiet">{escape(detail)}</span>' if detail else "")
    image = f'<img class="{kind}" alt="{alt}" src="data:image/png;base64,{data}">'
    return f'<figure class="{place}">{image}<figcaption>{text}</figcaption></figure>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], kind: str) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return wide(f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>')
