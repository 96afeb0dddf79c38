"""``ppcmi cohort``: check, export, upload, list, withdraw."""

from __future__ import annotations

from pathlib import Path

from ppcmi import cohort, cohort_export
from ppcmi.case_checks import check_case
from ppcmi.cli.cases import chosen_cases
from ppcmi.cli.console import Console
from ppcmi.cli.options import Command, add_cases, add_command, add_task
from ppcmi.cli.parsers import Groups, add_group
from ppcmi.client import NOT_FOUND
from ppcmi.cohort_file import CohortReader
from ppcmi.consent_log import Answer, ConsentLog
from ppcmi.consortium import ensure_codec
from ppcmi.data_folders import CaseFiles, unmatched
from ppcmi.errors import CasesFailedError, ServerRefusedError, SiteError, UsageError
from ppcmi.export_settings import ExportSettings, usual_variants
from ppcmi.pipeline import run
from ppcmi.privacy_check import read_check
from ppcmi.protection import protection_of
from ppcmi.quantization import FOR_TRAINING, Quantization
from ppcmi.scales import PRIVACY_PROFILES, Profile
from ppcmi.site import SiteProfile
from ppcmi.task_profile import TaskProfile
from ppcmi.what_leaves import (
    Sending,
    can_be_checked,
    export_of_slices,
    what_stays,
    what_was_measured,
    who_could_learn_what,
)
from ppcmi.wording import counted, megabytes, printable

MOST_VARIANTS = 100


def add_parsers(groups: Groups, summary: str) -> None:
    """The group's commands."""
    group = add_group(groups, "cohort", summary)
    parser = add_command(
        group,
        "export",
        _export,
        "Write labelled cases as protected latents into one file for the server. Images and masks stay here.",
        "ppcmi cohort export --task hippocampus-mr --cases FOLDER -o a.ppcmi",
    )
    add_task(parser)
    add_cases(parser, fold="train")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="file to write, NAME.ppcmi")
    parser.add_argument(
        "--profile",
        choices=[str(p) for p in PRIVACY_PROFILES],
        help="privacy profile, which scales leave: fewer show less of the image (default: coarse; paper in mode paper)",
    )
    parser.add_argument(
        "--quantization",
        choices=[str(q) for q in Quantization],
        default=str(FOR_TRAINING),
        help="bits a value (default: i8, eight)",
    )
    parser.add_argument(
        "--variants",
        type=int,
        metavar="N",
        help="augmented encodings of each case besides itself; the file grows as much "
        "(default: 2, or 4 with at most 20 cases)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the augmentation (default: 0)")
    parser.add_argument("--upload", action="store_true", help="and send it to the server, as 'ppcmi cohort upload'")
    parser = add_command(
        group,
        "check",
        _check,
        "Look at labelled cases before they are exported: geometry, labels that are missing, slices without any.",
        "ppcmi cohort check --task hippocampus-mr --cases FOLDER",
    )
    add_task(parser)
    add_cases(parser, fold="train")
    parser = add_command(
        group,
        "upload",
        _upload,
        "Send a cohort file to the server; after an interruption it goes on where it was.",
        "ppcmi cohort upload a.ppcmi",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="cohort file from 'ppcmi cohort export'")
    add_command(group, "list", _list, "The cohorts that this site has uploaded, and their state.", "ppcmi cohort list")
    parser = add_command(
        group,
        "withdraw",
        _withdraw,
        "Take back a cohort or one case: its bytes are gone from the server, and models trained on it are marked.",
        "ppcmi cohort withdraw 0123456789abcdef0123456789abcdef --case hippocampus_001",
    )
    parser.add_argument("cohort", metavar="ID", help="cohort id from 'ppcmi cohort list'")
    parser.add_argument("--case", metavar="NAME", help="only this case, by its file name without extension")


def _export(command: Command) -> int:
    site, options, console = command.site(), command.options, command.console
    if options.variants is not None and not 0 <= options.variants <= MOST_VARIANTS:
        raise UsageError(f"--variants is a number from 0 to {MOST_VARIANTS}.")
    part = site.task(options.task)
    labelled = _labelled(command)
    console.progress("fetching the codec if there is a newer one")
    codec = ensure_codec(site.client(), part).to(command.device())
    check = read_check(site.folder, part)
    profile = Profile(options.profile) if options.profile else cohort_export.usual_profile(part.membership, codec)
    quantization = Quantization(options.quantization)
    protection = protection_of(site, part, codec.fingerprint, profile, quantization=quantization)
    variants = usual_variants(len(labelled)) if options.variants is None else options.variants
    settings = ExportSettings(variants, options.seed)
    steps = cohort_export.export_cohort(
        labelled, site, part, codec=codec, protection=protection, path=options.output, settings=settings
    )

    slices: list[int] = []

    def show(progress: cohort_export.ExportProgress) -> None:
        if progress.skipped is not None:
            console.remark(f"ppcmi: left out {progress.case}: {progress.skipped}")
        else:
            slices.append(progress.slices - sum(slices))
        size = megabytes(progress.bytes_written)
        console.progress(
            f"exported {len(slices)}/{progress.total} cases, {progress.slices} slices, {size}",
            last=progress.done == progress.total,
        )

    summary = run(steps, show)
    size = megabytes(summary.bytes_written)
    cases, times = counted(summary.cases, "case"), counted(1 + variants, "time")
    console.result(
        f"Wrote {cases} ({summary.slices} slices, each {times}, profile {profile}, {size}) to {options.output}."
    )
    sending = Sending.of(part, profile, quantization, settings.slices_per_bundle)
    leaving = export_of_slices(slices, part.task, sending, variants)
    ConsentLog(site.folder).record("export", leaving, Answer.COMMAND, check)
    for sentence in (what_was_measured(leaving, check), what_stays(leaving), *who_could_learn_what(leaving)):
        console.remark(sentence)
    if options.upload:
        _send(options.output, site, part, console)
    elif can_be_checked(part.membership.mode) and (check is None or not check.measured(profile)):
        console.remark(
            f"Next: 'ppcmi audit --task {part.task.name} --cases FOLDER -o DIR', which sends nothing; then "
            f"'ppcmi cohort upload {options.output}'."
        )
    else:
        console.remark(f"Next: 'ppcmi cohort upload {options.output}'.")
    if summary.skipped:
        raise CasesFailedError(f"{counted(len(summary.skipped), 'case')} could not be read and stayed out of the file.")
    return 0


def _check(command: Command) -> int:
    console, task = command.console, command.site().task(command.options.task).task
    labelled = _labelled(command)
    for names, what in zip(unmatched(command.options.cases), ("has no image", "is not in the table"), strict=True):
        for name in names:
            console.remark(f"split.csv: {printable(name)} {what}.")
    if not labelled:
        raise SiteError("None of the chosen cases has labels, so there is nothing to check.")
    unusable = 0
    for done, case in enumerate(labelled, start=1):
        console.progress(f"checked {done}/{len(labelled)} cases", last=done == len(labelled))
        findings = check_case(case, task)
        unusable += any(finding.prevents for finding in findings)
        for finding in findings:
            console.result(f"{case.name}: {'cannot be exported: ' if finding.prevents else ''}{finding.sentence}")
    console.result(f"{len(labelled) - unusable} of {counted(len(labelled), 'labelled case')} can be exported.")
    return CasesFailedError.exit_code if unusable else 0


def _upload(command: Command) -> int:
    site, options = command.site(), command.options
    _send(options.file, site, _task_of(site, CohortReader(options.file).header.task), command.console)
    return 0


def _send(file: Path, site: SiteProfile, part: TaskProfile, console: Console) -> None:
    def show(progress: cohort.UploadProgress) -> None:
        console.progress(
            f"uploaded {progress.done}/{progress.total} frames, {megabytes(progress.bytes_sent)} sent",
            last=progress.done == progress.total,
        )

    summary = run(cohort.upload_cohort(file, site, part, site.client()), show)
    console.result(
        f"The server has cohort {summary.cohort_id}: {counted(summary.cases, 'case')}, {summary.slices} slices."
    )
    for other in cohort.beside(site, summary.cohort_id):
        if other.cases_again:
            console.remark(
                f"{counted(other.cases_again, 'case')} of it {'is' if other.cases_again == 1 else 'are'} in cohort "
                f"{other.cohort_id}, too, and a training of both learns from them twice; if this one takes its place: "
                f"'ppcmi cohort withdraw {other.cohort_id}'."
            )
        if other.profile != other.own_profile:
            console.remark(
                f"Cohort {other.cohort_id} of this site is in profile {other.profile}, this one in "
                f"{other.own_profile}: a training takes cohorts of one profile, the same at all sites."
            )
    console.remark(f"Next: once the server has trained a model, 'ppcmi codec refine --task {part.task.name} ...'.")


def _list(command: Command) -> int:
    site, console = command.site(), command.console
    client = site.client()
    rows: list[list[str]] = []
    for cohort_id, facts in site.cohorts().items():
        try:
            state = str(client.cohort(cohort_id).get("state"))
        except ServerRefusedError as error:
            if error.status != NOT_FOUND:
                raise
            state = "unknown to the server"
        rows.append([cohort_id, str(facts.get("task")), str(facts.get("profile")), str(facts.get("cases", "-")), state])
    if not rows:
        console.remark("This site has uploaded no cohort yet.")
        return 0
    console.table(["cohort", "task", "profile", "cases", "state"], rows)
    return 0


def _withdraw(command: Command) -> int:
    site, options, console = command.site(), command.options, command.console
    cohort.withdraw(site, site.client(), options.cohort, options.case)
    console.result("Withdrawn: the server has deleted it and marked every model that was trained on it.")
    return 0


def _labelled(command: Command) -> list[CaseFiles]:
    """The chosen cases that have a label; the user is told how many have none."""
    chosen = chosen_cases(command.options)
    labelled = [case for case in chosen if case.label is not None]
    unlabelled = len(chosen) - len(labelled)
    if unlabelled:
        command.console.remark(
            f"{counted(unlabelled, 'case')} without a label {'is' if unlabelled == 1 else 'are'} left out."
        )
    return labelled


def _task_of(site: SiteProfile, identity: str) -> TaskProfile:
    part = next((part for part in site.tasks() if part.task.identity == identity), None)
    if part is None:
        raise SiteError("The cohort file is of a task that this site takes no part in.")
    return part
