"""The work of ``ppcmi audit``: cases in, attacks, report out."""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ppcmi.audit.attack_list import Lengths
from ppcmi.audit.check import check_of
from ppcmi.audit.document import AuditReport, PictureRow
from ppcmi.audit.kept_settings import KeptSettings, identity_of
from ppcmi.audit.report_page import page
from ppcmi.audit.sentences import sentences_of_profiles
from ppcmi.audit.subjects import HELD_OUT_FOLDS, Subjects, read_subjects
from ppcmi.audit.suite import AuditConfig, AuditEvent, audit, full_config
from ppcmi.cli.audit import CHECKED, JSON, PAGE
from ppcmi.cli.audit_progress import CheckProgress
from ppcmi.cli.cases import chosen_cases
from ppcmi.cli.console import Console
from ppcmi.cli.options import Command
from ppcmi.codec.codec import Codec
from ppcmi.codec.learned_cases import learned_from, not_learned
from ppcmi.consortium import ensure_codec
from ppcmi.data_folders import CaseFiles
from ppcmi.errors import AuditError, UsageError, WriteError
from ppcmi.files import cause_of, write_atomically
from ppcmi.png import encode_png
from ppcmi.privacy_check import PrivacyCheck, keep_check
from ppcmi.privacy_words import DICE_IN_WORDS, alone_in_words, is_quick, unseen_in_words
from ppcmi.scales import Profile
from ppcmi.task_profile import TaskProfile
from ppcmi.wording import counted


def run_audit(command: Command, part: TaskProfile) -> int:
    """Read the cases, attack, and write the report and what is kept of it; the exit code.

    :raises AuditError: if there are too few patients, or, after everything is written, if a control of all numbers did
        not hold.
    """
    site, options, console = command.site(), command.options, command.console
    codec = ensure_codec(site.client(), part).to(command.device())
    config = _config(options, _profiles(options, codec), part)
    labelled = [case for case in chosen_cases(options) if case.label is not None]
    subjects = _subjects(command, part, labelled)
    folder = _private_folder(options.output)
    # A consortium's codec is its founder's: nobody else's cases were in its training.
    of_others = part.membership.scope == "consortium" and not part.membership.founder
    config = replace(config, unseen=of_others or (subjects.held_out and _none_taught(part, labelled)))
    progress = CheckProgress(console)
    kept = KeptSettings(folder, identity_of(subjects, codec, config))
    report = _run(audit(subjects, codec, config, report=progress.training, kept=kept), progress)
    about: dict[str, str | int | float] = {
        "title": part.task.title,
        "task": part.task.identity,
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="minutes"),
        "cases": subjects.cases,
        "patients": subjects.patients,
        "device": str(codec.device),
    }
    attacks = options.attacks if options.effort == 1 else f"{options.attacks}, shortened"
    report = replace(report, config={**report.config, **about, "attacks": attacks})
    check = check_of(report, part, attacks, subjects.cases, subjects.patients, options.seed)
    write_atomically(folder / JSON, report.to_json().encode(), mode=0o600)
    write_atomically(folder / PAGE, page(report).encode(), mode=0o600)
    last = keep_check(site.folder, part, check)
    kept.clear()
    if options.picture_events:
        for row in report.pictures:
            console.figures("pictures", _pictures(row))
    _show(check, console)
    console.remark(
        f"Nothing was sent. {PAGE} shows slices of patients, so it stays here; {JSON} has the numbers alone."
    )
    if last is not check:
        console.remark(
            f"The check of {last.time[:10]} ({last.attacks} attacks) says more, and stays the one that is shown at the "
            "site and quoted before an export."
        )
    for guarded in dict.fromkeys(control.guards for control in report.controls if control.guards):
        if names := "; ".join(report.broken_controls(guarded)):
            console.remark(f"A control of {guarded} did not hold, so numbers of {guarded} say nothing: {names}.")
    broken = report.broken_controls()
    if broken:
        raise AuditError(f"A control did not hold, so the numbers say nothing about privacy: {'; '.join(broken)}.")
    return 0


def _private_folder(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"The folder for the report cannot be made: {cause_of(error)}.") from error
    return folder


def _profiles(options: argparse.Namespace, codec: Codec) -> tuple[Profile, ...]:
    """The profiles that were asked for, largest first.

    :raises UsageError: if the codec has none of them.
    :raises AuditError: if it has not all scales, which what leaves is compared with.
    """
    if Profile.FULL not in codec.profiles:
        raise AuditError(
            "This codec is of a method that is there to compare with. A privacy check is for codecs of the presets "
            "minimized and autoencoder."
        )
    wanted = [Profile(name) for name in options.profiles] if options.profiles else CHECKED
    chosen = tuple(profile for profile in CHECKED if profile in wanted and profile in codec.profiles)
    if not chosen:
        raise UsageError(f"This codec has none of these profiles; it has {', '.join(codec.profiles)}.")
    return chosen


def _config(options: argparse.Namespace, profiles: tuple[Profile, ...], part: TaskProfile) -> AuditConfig:
    usual = AuditConfig(profiles=profiles, seed=options.seed, scope=part.membership.scope)
    config = usual if options.attacks == "quick" else full_config(usual)
    effort = options.effort
    if effort == 1:
        return config
    lengths = Lengths.of(config.attacks)
    shortened = replace(
        lengths,
        victims=max(1, round(effort * lengths.victims)),
        others=max(1, round(effort * lengths.others)),
        decoder=replace(lengths.decoder, steps=max(1, round(effort * lengths.decoder.steps))),
    )
    mapping = replace(config.mapping, fit=config.mapping.fit.scaled(effort))
    return replace(config, lengths=shortened, surrogate=config.surrogate.scaled(effort), mapping=mapping)


def _none_taught(part: TaskProfile, cases: Sequence[CaseFiles]) -> bool:
    """Whether the site's codec learned from no case of the folds that are attacked first, as its file says."""
    held_out = [case for case in cases if case.fold in HELD_OUT_FOLDS]
    return len(not_learned(held_out, learned_from(part.codec_path))) == len(held_out)


def _subjects(command: Command, part: TaskProfile, labelled: Sequence[CaseFiles]) -> Subjects:
    """The labelled cases that can be used."""
    options, console = command.options, command.console
    if not labelled:
        raise AuditError("A privacy check needs labelled cases: it sets what attackers see beside the Dice.")

    def show(done: int) -> None:
        console.progress(f"read {done}/{len(labelled)} cases", last=done == len(labelled))

    def tell(text: str) -> None:
        console.remark(f"ppcmi: {text}")

    return read_subjects(labelled, part.task, options.patients, options.seed, show, left_out=tell)


def _run(events: Iterator[AuditEvent], progress: CheckProgress) -> AuditReport:
    report = None
    for event in events:
        progress.step(event)
        report = event.report
    if report is None:
        raise AuditError("The privacy check ended without a report; make it again.")
    return report


def _show(check: PrivacyCheck, console: Console) -> None:
    console.figures("privacy", {**asdict(check), "name": check.name})
    rows = [
        [
            row.profile,
            f"{row.numbers_a_slice:,}",
            _value(row.dice),
            _value(row.best_ssim),
            f"{_value(row.best_low)} to {_value(row.best_high)}",
            _value(row.unaided_ssim),
            _value(row.chance_ssim),
        ]
        for row in check.profiles
    ]
    console.result(
        f"What {check.attacks} attacks without the inner key make of {counted(check.attacked, 'attacked patient')}, of "
        f"{counted(check.cases, 'case')} of {counted(check.patients, 'patient')}; SSIM 1 is the slice itself:"
    )
    best = "best quick attack" if is_quick(check.attacks) else "best attack"
    header = ["profile", "numbers a slice", "Dice of a stand-in", best, "95 %", "no known slice", "guess"]
    console.table(header, rows)
    of_each, of_all = sentences_of_profiles(check.profiles, check.attacks, check.attacked, check.notices)
    # Controls that did not hold come last, where they decide on the exit code.
    about = list(map(str, replace(check, controls_hold=True, broken_controls=()).notices))
    about += filter(None, (DICE_IN_WORDS, alone_in_words(check.dice_alone), unseen_in_words(check.unseen)))
    for text in [*about, *of_each.values(), *of_all]:
        console.result(text)


def _value(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def _pictures(row: PictureRow) -> dict[str, object]:
    named = [("slice", row.image), ("leaving", row.leaving), *row.reconstructions.items(), ("guess", row.guess)]
    return {
        "profile": row.profile,
        "pictures": [[name, base64.b64encode(encode_png(picture)).decode()] for name, picture in named],
    }
