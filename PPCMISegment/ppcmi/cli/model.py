"""``ppcmi model``: list the server's models, validate one on the site's held-out cases."""

from __future__ import annotations

import argparse
import math
from typing import Any

from ppcmi.cli.options import Command, Parser, add_cases, add_command, add_group, add_task, chosen_cases
from ppcmi.pipeline import run
from ppcmi.session import LinkOptions, open_link
from ppcmi.validation import ValidationProgress, validate


def add_parsers(groups: argparse._SubParsersAction[Parser]) -> None:
    """The group's commands."""
    group = add_group(groups, "model", "The server's models.")
    parser = add_command(
        group,
        "list",
        _list,
        "The models of a task.",
        "ppcmi model list --task hippocampus-mr",
    )
    add_task(parser)
    parser = add_command(
        group,
        "validate",
        _validate,
        "Segment held-out cases privately, score them against their labels, and report the mean scores (numbers only).",
        "ppcmi model validate --task hippocampus-mr --cases FOLDER --model 1",
    )
    add_task(parser)
    add_cases(parser, fold="val")
    add_model(parser)
    parser.add_argument("--keep", action="store_true", help="show the scores and send nothing")


def add_model(parser: argparse.ArgumentParser) -> None:
    """``--model``."""
    parser.add_argument("--model", type=int, metavar="N", help="number of the model (default: the newest)")


def newest_model(models: list[dict[str, Any]]) -> int | None:
    """Number of the newest model, or None if there is none."""
    return max((int(model["number"]) for model in models), default=None)


def _list(command: Command) -> int:
    models = command.site().client().models(command.options.task)
    if not models:
        command.console.remark("There is no model for this task yet; the server's operator trains one.")
        return 0
    rows = [
        [str(m.get("number")), str(m.get("state")), str(m.get("profile")), str(m.get("preset")), str(m.get("cases")),
         str(m.get("slices")), str(len(m.get("validations") or [])), "yes" if m.get("withdrawn_data") else "no"]
        for m in models
    ]  # fmt: skip
    command.console.table(
        ["model", "state", "profile", "preset", "cases", "slices", "validations", "withdrawn data"], rows
    )
    return 0


def _validate(command: Command) -> int:
    site, options, console = command.site(), command.options, command.console
    client, part = site.client(), site.task(options.task)
    number = options.model if options.model is not None else newest_model(client.models(part.task.name))
    link = open_link(site, part, client, LinkOptions(model=number, device=command.device()))

    def show(progress: ValidationProgress) -> None:
        console.progress(f"scored {progress.done}/{progress.total} cases", last=progress.done == progress.total)

    validation = run(validate(chosen_cases(options), link), show)
    for name, error in validation.skipped.items():
        console.remark(f"ppcmi: left out {name}: {error}")
    rows = []
    for label, scores in validation.private.items():
        alone = validation.alone.get(label, {}).get("dice", math.nan)
        rows.append([label, *(_number(scores[metric]) for metric in ("dice", "hd95_mm", "asd_mm")), _number(alone)])
    console.table(["label", "Dice", "HD95 mm", "ASD mm", "Dice alone"], rows)
    if not options.keep:
        client.report_validation(part.task.name, link.model, validation.numbers())
        console.result(f"Reported the means of {len(validation.cases)} cases for model {link.model}.")
    return next((error.exit_code for error in validation.skipped.values()), 0)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
