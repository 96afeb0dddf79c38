"""``ppcmi codec``: train, publish, refine."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

from torch import Tensor

from ppcmi import consortium
from ppcmi.cli import network
from ppcmi.cli.cases import HELD_OUT, chosen_cases, fitting_cases
from ppcmi.cli.console import Console
from ppcmi.cli.model import add_model, chosen_model
from ppcmi.cli.options import Command, Run, add_cases, add_command, add_task
from ppcmi.cli.parsers import Groups, add_group
from ppcmi.codec.codec import Codec
from ppcmi.codec.learned_cases import digests_of
from ppcmi.codec.presets import Preset
from ppcmi.codec.quality import CodecQuality, lost_structures, require_good_masks
from ppcmi.codec.refinement import (
    Refinement,
    RefinementConfig,
    SiteDecoder,
    fit_share,
    learned_together,
    leave_alone,
    refine_local_network,
)
from ppcmi.codec.slice_set import SliceSet, UsableCases, read_usable_cases
from ppcmi.codec.together import learn_together
from ppcmi.codec.training import CodecTrainingConfig, train_codec
from ppcmi.cohort_export import usual_profile
from ppcmi.consent_log import Answer, ConsentLog
from ppcmi.data_folders import CaseFiles, find_cases
from ppcmi.errors import CancelledError, CasesFailedError, CodecError, PpcmiError, SiteError, UsageError
from ppcmi.fitting import FitReport, Report
from ppcmi.methods.mixup import site_unmixing
from ppcmi.methods.mixup.references import References
from ppcmi.methods.rules import rules_of
from ppcmi.pipeline import PrivateLink, map_latents, run
from ppcmi.scales import Profile
from ppcmi.session import LinkOptions, open_link
from ppcmi.shared_networks import require_sharing
from ppcmi.task import Task
from ppcmi.task_profile import TaskProfile
from ppcmi.what_leaves import NOTHING_LEAVES
from ppcmi.wording import about, counted


def add_parsers(groups: Groups, summary: str) -> None:
    """The group's commands."""
    group = add_group(groups, "codec", summary)
    parser = add_command(
        group,
        "train",
        _one_at_a_time(_train),
        "Train the codec on labelled cases, report its quality on held-out ones, and publish it to the members.",
        "ppcmi codec train --task hippocampus-mr --cases FOLDER",
    )
    add_task(parser)
    add_cases(parser, fold="train")
    parser.add_argument("--unlabelled", type=Path, metavar="FOLDER", help="more images, without labels, to learn from")
    parser.add_argument("--preset", choices=get_args(Preset), help="networks (default: what the task's method uses)")
    parser.add_argument("--replace", action="store_true", help="in place of the codec that the site has")
    _add_training(parser)
    _add_publish_anyway(parser)
    parser = add_command(
        group,
        "publish",
        _publish,
        "Publish the codec that was trained last, if training refused to.",
        "ppcmi codec publish --task hippocampus-mr --publish-anyway",
    )
    add_task(parser)
    _add_publish_anyway(parser)
    parser = add_command(
        group,
        "refine",
        _one_at_a_time(_refine),
        "Fit the site's decoder to its cases and to a model's predictions; how much the server counts is measured.",
        "ppcmi codec refine --task hippocampus-mr --cases FOLDER",
    )
    add_task(parser)
    add_cases(parser, fold="train")
    add_model(parser)
    _add_training(parser)
    network.add_together(parser)


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--effort", type=_effort, default=1.0, metavar="F", help="length of training; 1 is the usual (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the training (default: 1)")


def _add_publish_anyway(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--publish-anyway", action="store_true", help="even if it keeps a structure badly (Dice < 0.85)"
    )


def _one_at_a_time(training: Run) -> Run:
    """A training that refuses to begin beside another of the task."""

    def alone(command: Command) -> int:
        with command.site().task(command.options.task).training():
            try:
                return training(command)
            except KeyboardInterrupt as interrupt:
                raise CancelledError(
                    "Cancelled; the site's codec and decoder are as before, and another training begins anew."
                ) from interrupt

    return alone


def _train(command: Command) -> int:
    options, console = command.options, command.console
    part = _own_part(command)
    if part.codec_path.exists() and not options.replace:
        raise SiteError("The site has a codec already, and what was made with it needs it; --replace trains a new one.")
    chosen = chosen_cases(options)
    labelled = _read([case for case in chosen if case.label is not None], part.task, console)
    held_out = _held_out(command, part.task, frozenset())
    unlabelled = [case for case in chosen if case.label is None]
    if options.unlabelled is not None:
        unlabelled += find_cases(options.unlabelled)
    images = _read_each(unlabelled, part.task, console)
    codec = train_codec(
        labelled.slices,
        part.task,
        _training_config(command, part.task),
        held_out=held_out,
        unlabelled=images,
        device=command.device(),
        report=_report_to(console),
    )
    codec.save(part.candidate_path, digests_of([*labelled.cases, *unlabelled]))
    return _publish(command)


def _publish(command: Command) -> int:
    """Show the candidate's quality, and make it the codec if that suffices."""
    console, part = command.console, _own_part(command)
    if not part.candidate_path.exists():
        raise CodecError(
            "There is no trained codec that waits to be published; train one.", command="ppcmi codec train"
        )
    codec = Codec.load(part.candidate_path)
    quality = CodecQuality(**codec.report["quality"])
    _show_quality(quality, part.task, console)
    usual = usual_profile(part.membership, codec)
    if not command.options.publish_anyway:
        require_good_masks(quality, usual)
    if part.membership.scope == "consortium":
        site = command.site()
        ConsentLog(site.folder).record_codec(part.task.identity, codec.fingerprint, Answer.COMMAND)
        consortium.publish_codec(site.client(), part, codec)
    if part.codec_path.exists():
        console.remark(
            "This codec takes the place of another: networks that members shared are gone from the server, and with it "
            "cohorts must be exported again, and the server needs a new model."
        )
    part.candidate_path.replace(part.codec_path)
    consortium.forget_networks(part)
    if part.membership.scope == "consortium":
        console.result(f"Codec {codec.fingerprint} is published.")
        console.remark(
            "Every member of the consortium gets it. It learned from this site's images, and who holds it can look for "
            "what it remembers of them."
        )
    else:
        console.result(f"Codec {codec.fingerprint} is kept.")
    for profile, (label, dice) in lost_structures(quality).items():
        if profile is not usual:
            console.remark(
                f"In profile {profile} it keeps {label!r} at a Dice of {dice:.3f} only: nothing is exported in it."
            )
    console.remark(
        f"Next: 'ppcmi audit --task {part.task.name} --cases FOLDER -o FOLDER', then 'ppcmi cohort export --task "
        f"{part.task.name} --cases FOLDER -o FILE.ppcmi'."
    )
    return 0


def _refine(command: Command) -> int:
    site, options, console = command.site(), command.options, command.console
    client, part = site.client(), site.task(options.task)
    network.require_sensible(options)
    if options.together:
        require_sharing(part)
        network.require_members(client, part, options)
    number = chosen_model(options, client)
    if part.task.method == "privacy-sf":
        raise UsageError("With the method privacy-sf the server's answer alone decides: there is nothing to refine.")
    if not options.together and learned_together(part.decoder_path):
        console.remark(
            "This site's decoder learned together with the other members. This training begins without them, and takes "
            "its place at its end; --together learns with them."
        )
    # Without the site's decoder: an earlier one may belong to an earlier codec.
    console.progress("asking the server for the model")
    link = open_link(site, part, client, LinkOptions(number, device=command.device(), use_local_network=False))
    cases = _read([case for case in chosen_cases(options) if case.label is not None], part.task, console)
    if link.unmixing is not None:
        return _refine_unmixing(command, part, link, link.unmixing.references, cases)
    validation = _held_out(command, part.task, site.uploaded_cases(part.task.name))
    decoder, refinement = _fitted(command, part, link, cases, validation)
    decoder.save(part.decoder_path)
    weight = decoder.weight(link.profile)
    figures = {
        "model": link.model,
        "profile": link.profile,
        "share": weight,
        "dice_by_share": refinement.dice_by_weight,
    }
    console.figures("refinement", figures)
    console.result(
        f"The server's share in this site's predictions is {weight:.2f} (model {link.model}, {link.profile})."
    )
    if weight == 0:
        console.remark(NOTHING_LEAVES)
    if refinement.dice_by_weight:
        dice = refinement.dice_by_weight
        mixed = dice[min(dice, key=lambda other: abs(other - weight))]
        console.result(
            f"Mean Dice on the site's validation cases: {dice[0.0]:.3f} without the server, "
            f"{dice[1.0]:.3f} the server alone, {mixed:.3f} together."
        )
    console.remark(f"Next: 'ppcmi model validate --task {part.task.name} --cases FOLDER'.")
    return 0


def _fitted(
    command: Command, part: TaskProfile, link: PrivateLink, cases: UsableCases, validation: SliceSet | None
) -> tuple[SiteDecoder, Refinement]:
    """The site's decoder as its cases, a model's answers and, if it shall, the other members make it.

    Nothing is written before all is measured, so that whoever cancels has the decoder of before; but where the
    measurement fails, the new one is kept as it is.
    """
    labelled, learned = cases.slices, digests_of(cases.cases)
    options, console, report = command.options, command.console, _report_to(command.console)
    config = RefinementConfig(options.seed)
    config = replace(config, local=config.local.scaled(options.effort))
    if validation is None and part.membership.scope == "site":
        console.remark(
            "There are no labelled cases of fold 'val', and this site's codec is its own: without cases to choose a "
            "share of the server on, the site's own network decides."
        )
        decoder, refinement = leave_alone(link.codec, labelled, link.profile, config, report=report)
        decoder.learned_from = learned
        return decoder, refinement
    if validation is None:
        console.remark("There are no labelled cases of fold 'val', so the server's share keeps its usual value.")
    if options.together:
        config = replace(config, rounds=network.rounds_of(config.local, options.rounds))
        members = network.members_of(command, part, link.codec, cases=labelled.cases, rounds=config.rounds)
        try:
            decoder, together = learn_together(link.codec, labelled, validation, members, config, report=report)
        except (KeyboardInterrupt, PpcmiError):
            if members.have_some:
                console.remark(
                    "The network that this site shared last stays with the others: 'ppcmi network withdraw' takes it "
                    "back, another training together replaces it."
                )
            raise
        network.show_together(console, together, members.names_of(together.others))
    else:
        decoder = refine_local_network(link.codec, labelled, config, report=report)
    decoder.learned_from = learned
    try:
        return decoder, fit_share(decoder, validation, lambda latents: run(map_latents(latents, link)), link.profile)
    except CancelledError:
        raise
    except Exception:  # a server that is gone now costs no training
        decoder.save(part.decoder_path)
        console.remark(
            "The site's decoder is trained and kept, with the usual share of the server: that is not measured."
        )
        raise


def _own_part(command: Command) -> TaskProfile:
    part = command.site().task(command.options.task)
    if part.membership.scope == "consortium" and not part.membership.founder:
        raise SiteError("The consortium's founder trains the codec; this site gets it by itself.")
    return part


def _held_out(command: Command, task: Task, uploaded: frozenset[str]) -> SliceSet | None:
    """Labelled cases of fold ``val`` that were not ``uploaded``, or None if there are none."""
    if command.options.fold == "all":
        return None
    held_out = [
        case
        for case in fitting_cases(command.options)
        if case.fold == HELD_OUT and case.label is not None and case.name not in uploaded
    ]
    return _read(held_out, task, command.console).slices if held_out else None


def _read(cases: Sequence[CaseFiles], task: Task, console: Console) -> UsableCases:
    """The cases that can be used; the others are named.

    :raises CasesFailedError: if none is left.
    """

    def show(done: int) -> None:
        console.progress(f"read {done}/{len(cases)} cases", last=False)

    return read_usable_cases(cases, task, show, left_out=lambda text: console.remark(f"ppcmi: {text}"))


def _read_each(cases: Sequence[CaseFiles], task: Task, console: Console) -> list[Tensor]:
    """Slices of each image that can be used, whatever labels it has; there need be none."""
    images = []
    for case in cases:
        with suppress(CasesFailedError):
            images.append(_read([replace(case, label=None)], task, console).slices.slices)
    return images


def _refine_unmixing(
    command: Command, part: TaskProfile, link: PrivateLink, references: References, cases: UsableCases
) -> int:
    """The same under Mixup-Privacy: what is fitted to a model's answers is how they are taken apart."""
    config = site_unmixing.UnmixingConfig(command.options.seed)
    config = replace(config, fit=config.fit.scaled(command.options.effort))
    network = site_unmixing.refine(
        link.codec,
        cases.slices,
        references,
        lambda latents: run(map_latents(latents, link)),
        config,
        report=_report_to(command.console),
    )
    site_unmixing.save(network, link.codec, part.decoder_path, digests_of(cases.cases))
    command.console.result(f"The site's unmixing is fitted to model {link.model}.")
    return 0


def _training_config(command: Command, task: Task) -> CodecTrainingConfig:
    config = CodecTrainingConfig(command.options.preset or rules_of(task.method).codec_preset, command.options.seed)
    effort = command.options.effort
    return replace(
        config,
        images=config.images.scaled(effort),
        masks=config.masks.scaled(effort),
        local=config.local.scaled(effort),
        minimizer=config.minimizer.scaled(effort),
    )


def _effort(text: str) -> float:
    value = float(text)
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError("a number above 0 up to 100; 1 is the usual length")
    return value


def _report_to(console: Console) -> Report:
    def show(report: FitReport) -> None:
        score = "" if report.score is None else f", score {report.score:.3f}"
        epoch, loss = f"epoch {report.epoch}/{report.epochs}", f"loss {report.loss:.4f}"
        share = "" if report.share == 1 else f" {report.share:.0%}"
        left = f", {about(report.seconds_left)} left in this part" if 1 <= report.seconds_left < math.inf else ""
        in_round = f", round {report.round_number}/{report.rounds}" if report.rounds > 1 else ""
        text = f"{report.stage}: {epoch}{share}{in_round}, {loss}{score}, {report.seconds:.0f} s{left}"
        console.measured("fit", asdict(report), text, last=report.epoch == report.epochs and report.share == 1)

    return show


def _show_quality(quality: CodecQuality, task: Task, console: Console) -> None:
    console.figures("quality", quality.document())
    rows = []
    names = [label.name for label in task.labels]
    for profile in sorted(quality.mask_dice, key=[str(p) for p in Profile].index):
        values = [quality.mask_dice[profile][name] for name in names]
        dice = ["-" if value is None else f"{value:.3f}" for value in values]
        encoded = [f"{quality.psnr_db[profile]:.1f}", f"{quality.ssim[profile]:.3f}"] if quality.psnr_db else ["-", "-"]
        rows.append([profile, *encoded, *dice])
    labels = [f"Dice {name}" for name in names]
    console.result(f"Reconstruction of {counted(quality.cases, 'held-out case')}:")
    console.table(["profile", "PSNR dB", "SSIM", *labels], rows)
