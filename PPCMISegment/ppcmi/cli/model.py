"""``ppcmi model``: list the server's models, validate one on the site's held-out cases."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from ppcmi.cli.cases import HELD_OUT, cases_to_judge_on
from ppcmi.cli.console import Console
from ppcmi.cli.options import Command, add_cases, add_command, add_task
from ppcmi.cli.parsers import Groups, add_group
from ppcmi.client import ServerClient
from ppcmi.errors import CasesFailedError, SiteError
from ppcmi.pipeline import run
from ppcmi.session import LinkOptions, open_link
from ppcmi.validation import Means, Validation, ValidationProgress, validate
from ppcmi.wording import counted, printable

SHOWN = {"Dice": "dice", "HD95 mm": "hd95_mm", "ASD mm": "asd_mm"}
"""Columns of the table of scores; more are reported."""


def add_parsers(groups: Groups, summary: str) -> None:
    """The group's commands."""
    group = add_group(groups, "model", summary)
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
    add_cases(parser, fold=HELD_OUT)
    add_model(parser)
    parser.add_argument("--keep", action="store_true", help="show the scores and send nothing")


def add_model(parser: argparse.ArgumentParser) -> None:
    """``--model``."""
    parser.add_argument("--model", type=int, metavar="N", help="number of the model (default: the newest)")


def chosen_model(options: argparse.Namespace, client: ServerClient) -> int:
    """The number that ``--model`` gives, or the newest model's.

    :raises SiteError: if there is none.
    """
    if options.model is not None:
        return int(options.model)
    numbers = [int(model["number"]) for model in client.models(options.task)]
    if not numbers:
        raise SiteError("There is no model for this task yet; ask the server's operator to train one.")
    return max(numbers)


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
    number = chosen_model(options, client)
    cases, held_out = cases_to_judge_on(command, part)
    console.progress("asking the server for the model")
    link = open_link(site, part, client, LinkOptions(model=number, device=command.device()))
    active = client.task(part.task.name).get("active_model")
    if isinstance(active, dict) and active.get("number") != number:
        console.remark(f"Model {number} is judged; active is model {printable(str(active.get('number')))}.")

    def show(progress: ValidationProgress) -> None:
        slices = progress.slices
        within = f", slices {slices.done}/{slices.total} of the next" if slices is not None and slices.total else ""
        text = f"scored {progress.done}/{progress.total} cases{within}"
        console.progress(text, last=progress.done == progress.total)

    validation = run(validate(cases, link), show)
    for name, error in validation.skipped.items():
        console.remark(f"ppcmi: left out {name}: {error}")
    console.result(
        f"Model {link.model}, profile {link.profile}, {counted(len(validation.cases), 'case')} of this site:"
    )
    show_scores(console, validation)
    if not link.asks_server:
        console.remark(
            "By this site's last refinement the server has no share in its predictions: both are the site's own "
            "network."
        )
    if options.keep:
        console.remark("Nothing was reported.")
    elif not held_out:
        console.remark("Nothing was reported, as only scores on held-out cases tell how good a model is.")
    else:
        client.report_validation(part.task.name, link.model, validation.numbers())
        console.result(
            f"Reported the means of {counted(len(validation.cases), 'case')} for model {link.model} (numbers only)."
        )
    if validation.skipped:
        raise CasesFailedError(f"{counted(len(validation.skipped), 'case')} could not be read and did not count.")
    return 0


def show_scores(console: Console, validation: Validation) -> None:
    """A row a label and one of their mean: with the server, beside it the site alone."""
    private, alone = validation.private, validation.alone
    ways = [private, alone] if alone else [private]
    rows = [[label, *(_number(way[label][metric]) for metric in SHOWN.values() for way in ways)] for label in private]
    if len(rows) > 1:
        rows.append(["mean", *(_number(mean) for metric in SHOWN.values() for mean in _means(ways, metric))])
    headers = [name + suffix for name in SHOWN for suffix in ("", " alone")[: len(ways)]]
    console.table(["label", *headers], rows)
    if not alone:
        return
    console.remark(
        "'alone' is this site's decoder without the server's model; it may have learned together with other members."
    )
    together, by_itself = _means(ways, "dice")
    if together < by_itself:
        console.remark(
            "On these cases the site does better alone: let 'ppcmi codec refine' choose the server's share on held-out "
            "cases (fold 'val'), or ask for a better model."
        )


def _means(ways: Sequence[Means], metric: str) -> list[float]:
    """Each way's mean over the labels that have a value in all ways, so that the means compare."""
    labels = [label for label in ways[0] if not any(math.isnan(way[label][metric]) for way in ways)]
    return [sum(way[label][metric] for label in labels) / len(labels) if labels else math.nan for way in ways]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
