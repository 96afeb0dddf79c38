"""The audit's report as one HTML file: prints on A4, no script, nothing loaded from elsewhere, pictures inside.

It shows slices of patients, so it stays at the site, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from string import Template

from ppcmi.audit import report_parts as parts
from ppcmi.audit.attacker import Finding
from ppcmi.audit.check import broken_controls, checked_profile, could_not_see, dice_alone
from ppcmi.audit.document import AuditReport
from ppcmi.audit.report_plots import Bar, Interval, TradeOff, interval_plot, trade_off_plot
from ppcmi.audit.sentences import sentences_of_profiles
from ppcmi.audit.wording import METHOD, YES
from ppcmi.privacy_words import DICE_IN_WORDS, Notice, alone_in_words, is_quick, notices, unseen_in_words
from ppcmi.wording import counted

_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #16202a; --paper: #ffffff; --quiet: #55626e; --line: #d3dbe2; --band: #f1f4f7;
        --mark: #1f5fa8; --bad: #a8321c; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ee; --paper: #14181d; --quiet: #9aa7b3; --line: #2f3842; --band: #1b2128;
          --mark: #7db4f0; --bad: #ff9b85; }
}
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; color: var(--ink);
       background: var(--paper); max-width: 60rem; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .4rem; } p { margin: .5rem 0; max-width: 56em; }
.quiet { color: var(--quiet); } .small { font-size: .85rem; } .bad { color: var(--bad); }
.notice { background: var(--band); border-left: 4px solid var(--quiet); padding: .6rem 1rem; margin: 1rem 0;
          max-width: none; }
.warning { border-left-color: var(--bad); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; margin: .4rem 0; }
th { text-align: left; font-size: .82rem; font-weight: 600; color: var(--quiet); }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
table.findings, table.words { font-size: .88rem; } table.small { width: auto; font-size: .88rem; }
table.findings td:nth-child(2) { min-width: 9rem; } table.findings .small { font-size: .95em; }
.profile { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: .8rem 2rem; }
.pictures { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .8rem; align-content: start;
            margin: .5rem 0 1rem; }
figure { margin: 0; } figure.two { grid-row: span 2; } figure.three { grid-row: span 3; }
figcaption { font-size: .8rem; line-height: 1.3; margin-top: .25rem; }
figure img { display: block; width: 100%; height: auto; background: #000; } img.pixels { image-rendering: pixelated; }
dl.facts { display: grid; grid-template-columns: max-content auto; gap: .1rem 1rem; font-size: .88rem; }
dl.facts dt { color: var(--quiet); } dl.facts dd { margin: 0; overflow-wrap: anywhere; }
.interval { white-space: nowrap; } ul { padding-left: 1.2rem; } li { margin: .25rem 0; max-width: 56em; }
.wide { overflow-x: auto; } summary { cursor: pointer; color: var(--mark); }
svg { display: block; width: 100%; max-width: 44rem; height: auto; }
svg .grid { stroke: var(--line); } svg .whisker { stroke: var(--mark); stroke-width: 2; }
svg .leader { stroke: var(--quiet); stroke-width: .7; } svg .dot { fill: var(--mark); }
svg .guess { stroke: var(--ink); stroke-width: 1.4; stroke-dasharray: 4 3; }
svg text { font: 12px system-ui, Arial, sans-serif; fill: var(--ink); }
svg .tick { fill: var(--quiet); font-size: 11px; }
svg .name { font-weight: 600; }
@media screen and (max-width: 40rem) {
  .wide > svg, .wide > table:not(.small) { min-width: 34rem; } dl.facts { grid-template-columns: auto; }
}
@page { size: A4; margin: 14mm; }
@media print {
  :root { color-scheme: light; --ink: #000; --paper: #fff; --quiet: #444; --line: #bbb; --band: #f1f4f7;
          --mark: #1f5fa8; --bad: #a8321c; }
  body { font-size: 10.5pt; margin: 0; padding: 0; max-width: none; } h2, h3 { break-after: avoid; }
  figure, tr, .pictures, svg, .notice, dl.facts { break-inside: avoid; } thead { display: table-header-group; }
  table.findings { font-size: 8pt; } table.findings td { padding: .15rem .5rem .15rem 0; }
  .wide { overflow: visible; } .profile { grid-template-columns: 1fr 1fr; } summary { display: none; }
  details::details-content { display: block; content-visibility: visible; block-size: auto; }
  .notice, svg { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
</style>
</head>
<body>
<h1>$title</h1>
<p class="quiet">$about</p>
<p class="notice"><b>This page stays at the site.</b> It shows slices of patients. All attacks ran on this machine;
nothing was sent. Research use only, not a medical device.</p>
$warning
<h2>What each profile costs, and what it shows</h2>
<p class="small">SSIM: how much like their slices the best pictures are that an attacker without the inner key made of
what leaves, also one who got hold of known slices of this site; "no known slice" is the best without. A guess is the
mean slice, for which nothing has to be seen. 95 % intervals by patient, of $attacked. $dice</p>
$profiles
$trade_off
<h2>For a data protection officer</h2>
$sentences
<h2>Pictures</h2>
<p class="small">Slices of attacked patients, whom no attacker has trained on, and the best picture of every attack, the
strongest attack first.</p>
$pictures
<h2>The $best in each setting</h2>
<p class="small">A setting is a protection, a profile and who looks. The tick is what guessing gives.</p>
$settings
<h2>Who attacks</h2>
$attackers
<h2>Controls</h2>
<p class="small">An audit that finds nothing may have looked badly. These had to come out as expected.</p>
$controls
<h2>Method</h2>
$method
<h2>Every number</h2>
<details><summary>$numbers</summary>
$findings
</details>
<h2>Compute spent</h2>
$compute
<h2>Claims we do not make</h2>
$claims
<h2>What was run</h2>
$config
</body>
</html>
""")

_NOTICE = '<p class="notice{kind}"><b{mark}>{title}</b> {text}</p>'
_WARNS = {True: {"kind": " warning", "mark": ' class="bad"'}, False: {"kind": "", "mark": ""}}


def page(report: AuditReport) -> str:
    """The report as the text of an HTML file."""
    best = "best quick attack" if is_quick(_attacks(report)) else "best attack"
    return _PAGE.substitute(
        title=escape(_title(report)),
        about=escape(_about(report)),
        warning=_warning(report),
        best=best,
        attacked=counted(_attacked(report), "attacked patient"),
        dice=" ".join((DICE_IN_WORDS, alone_in_words(dice_alone(report)), unseen_in_words(_unseen(report)))),
        profiles=parts.profile_table(report.profiles, best),
        trade_off=_trade_off(report),
        sentences=_sentences(report),
        pictures=parts.picture_rows(report.pictures) or "<p>No pictures were kept.</p>",
        settings=parts.wide(interval_plot(best_by_setting(report.findings), f"{best}: SSIM")),
        attackers=parts.attackers_table(report.findings),
        controls=parts.controls_table(report.controls),
        method=parts.paragraphs(METHOD),
        numbers=escape(_numbers(report.findings)),
        findings=parts.findings_tables(report.findings),
        compute=f"<p>{report.seconds / 60:.1f} minutes in all.</p>" + parts.seconds_table(report.findings),
        claims=parts.paragraphs(report.claims_not_made),
        config=parts.facts({**report.config, **report.versions}),
    )


def best_by_setting(findings: Sequence[Finding]) -> list[Bar]:
    """Of each setting the attack whose pictures have the highest SSIM."""
    best: dict[str, Finding] = {}
    for finding in findings:
        if finding.measure == parts.SSIM and (
            finding.setting not in best or finding.value > best[finding.setting].value
        ):
            best[finding.setting] = finding
    return [
        Bar(f"{setting}: {found.attack}", Interval(found.value, found.low, found.high), found.chance)
        for setting, found in best.items()
    ]


def _title(report: AuditReport) -> str:
    return f"Privacy check: {report.config.get('title', report.config.get('task', 'a task'))}"


def _about(report: AuditReport) -> str:
    config = report.config
    said = [str(config[name]) for name in ("time", "task") if name in config]
    said += [counted(int(config[name]), name[:-1]) for name in ("patients", "cases") if name in config]
    said.append(f"{counted(_attacked(report), 'patient')} attacked")
    return " · ".join([*said, f"{config['attacks']} attacks"] if "attacks" in config else said)


def _attacks(report: AuditReport) -> str:
    return str(report.config.get("attacks", ""))


def _unseen(report: AuditReport) -> bool:
    return report.config.get("unseen") == YES


def _attacked(report: AuditReport) -> int:
    return int(report.config.get("attacked", 0))


def _notices(report: AuditReport) -> list[Notice]:
    one_each = report.config.get("cases") == report.config.get("patients")
    return notices(
        _attacks(report), _attacked(report), broken_controls(report), could_not_see(report), one_each=one_each
    )


def _warning(report: AuditReport) -> str:
    found = _notices(report)
    return "".join(
        _NOTICE.format(title=escape(notice.title), text=escape(notice.text), **_WARNS[notice.warns]) for notice in found
    )


def _trade_off(report: AuditReport) -> str:
    points = [
        TradeOff(
            row.profile,
            Interval(row.best_ssim, row.best_low, row.best_high),
            Interval(row.dice, row.dice_low, row.dice_high),
        )
        for row in report.profiles
    ]
    guess = sum(row.chance_ssim for row in report.profiles) / max(1, len(report.profiles))
    return parts.wide(trade_off_plot(points, guess))


def _sentences(report: AuditReport) -> str:
    found = [checked_profile(row, report) for row in report.profiles]
    of_each, of_all = sentences_of_profiles(found, _attacks(report), _attacked(report), _notices(report))
    each = [f"<p><b>{escape(profile).capitalize()}.</b> {escape(text)}</p>" for profile, text in of_each.items()]
    return "".join([*each, *(f"<p>{escape(text)}</p>" for text in of_all)])


def _numbers(findings: Sequence[Finding]) -> str:
    settings = len({finding.setting for finding in findings})
    return f"{counted(len(findings), 'number')} in {counted(settings, 'setting')}"
