"""The cases that a command's ``--cases``, ``--fold`` and ``--where`` name."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from ppcmi.cli.options import Command
from ppcmi.codec.learned_cases import learned_from, not_learned
from ppcmi.data_folders import FOLDS, CaseFiles, find_cases, of_fold
from ppcmi.errors import UsageError
from ppcmi.task_profile import TaskProfile
from ppcmi.wording import printable

HELD_OUT = "val"
"""The fold that models and decoders are judged on."""


def fitting_cases(options: argparse.Namespace) -> list[CaseFiles]:
    """The cases that ``--cases`` and ``--where`` name, of every fold."""
    return _fitting(find_cases(options.cases), _conditions(options.where))


def chosen_cases(options: argparse.Namespace) -> list[CaseFiles]:
    """The cases that ``--cases``, ``--fold`` and ``--where`` name.

    :raises UsageError: if there are none; says which of the three names none.
    """
    cases, conditions = find_cases(options.cases), _conditions(options.where)
    fitting = _fitting(cases, conditions)
    found = fitting if options.fold == "all" else of_fold(fitting, options.fold)
    if not found:
        raise UsageError(_why_none(cases, conditions, options.fold))
    return found


def cases_to_judge_on(command: Command, part: TaskProfile) -> tuple[list[CaseFiles], bool]:
    """Labelled cases that ``--cases``, ``--fold`` and ``--where`` name, and whether all of them are held out.

    By default cases are left out that were uploaded, or that the site's codec or decoder learned from: there
    scores are too good. With another fold than the default they stay and the user is told.

    :raises UsageError: if none is left.
    """
    options, console = command.options, command.console
    labelled = [case for case in chosen_cases(options) if case.label is not None]
    uploaded = command.site().uploaded_cases(part.task.name)
    kept_here = [case for case in labelled if case.name not in uploaded]
    fresh = not_learned(kept_here, learned_from(part.codec_path) | learned_from(part.decoder_path))
    if len(fresh) == len(labelled):
        return labelled, True
    why = {
        "were uploaded for training": len(labelled) - len(kept_here),
        "taught this site's networks": len(kept_here) - len(fresh),
    }
    counts = {reason: count for reason, count in why.items() if count}
    if options.fold != HELD_OUT:
        known = " and ".join(f"{count} {reason}" for reason, count in counts.items())
        console.remark(f"Of these {len(labelled)} cases {known}: the scores are too good.")
        return labelled, False
    if not fresh:
        raise UsageError(
            f"All these cases {' or '.join(counts)}, so none of them can judge a model; mark others as 'val' in the "
            "folder's split.csv, or score these all the same by --fold all."
        )
    for reason, count in counts.items():
        console.remark(f"Left out {count} of {len(labelled)} cases, as they {reason}.")
    return fresh, True


def _conditions(texts: Sequence[str]) -> dict[str, str]:
    conditions = dict(text.split("=", maxsplit=1) for text in texts if "=" in text)
    if len(conditions) != len(texts):
        raise UsageError("--where takes COLUMN=VALUE with each column once, e.g. --where site=A.")
    return conditions


def _fitting(cases: Sequence[CaseFiles], conditions: Mapping[str, str]) -> list[CaseFiles]:
    return [case for case in cases if conditions.items() <= _row(case).items()]


def _row(case: CaseFiles) -> dict[str, str]:
    """What is known of a case by the columns of ``split.csv``."""
    known = {"id": case.name, "fold": case.fold, "site": case.site, **case.attributes}
    return {column: value for column, value in known.items() if value is not None}


def _why_none(cases: Sequence[CaseFiles], conditions: Mapping[str, str], fold: str) -> str:
    """A sentence on why no case was chosen; of the table it has names of columns and folds, never a value."""
    columns = dict.fromkeys(column for case in cases for column in _row(case))
    folds = [name for name in FOLDS if any(case.fold == name for case in cases)]
    for column, value in conditions.items():
        if column not in columns:
            there = ", ".join(map(printable, columns))
            return f"The data folder has no column '{printable(column)}' for --where; choose among {there}."
        if not _fitting(cases, {column: value}):
            return (
                f"No case has the value that --where gives for '{printable(column)}'; look into the folder's split.csv."
            )
    if not _fitting(cases, conditions):
        return "No case fits every --where at once; leave one out."
    if fold not in folds:
        return f"No case is of fold '{printable(fold)}'; choose another by --fold: {', '.join(folds)} or all."
    return f"No case of fold '{printable(fold)}' fits --where; choose another fold or leave out a --where."
