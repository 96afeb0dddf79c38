"""``ppcmi audit``: what attackers make of what would leave, measured on the site's own cases before anything does.

This module has the options; :mod:`ppcmi.cli.audit_run` does the work, and needs the packages of the extra ``audit``.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from ppcmi.cli.options import Command, add_cases, add_command, add_task
from ppcmi.cli.parsers import Groups
from ppcmi.errors import AuditError, SiteError
from ppcmi.scales import Profile
from ppcmi.what_leaves import NO_CHECK, can_be_checked

JSON, PAGE = "audit.json", "report.html"
PACKAGES = ("skimage", "sklearn", "torchmetrics")
"""Modules of the extra ``audit``; imported only where it is asked for."""

CHECKED = (Profile.FULL, Profile.COARSE, Profile.MINIMAL)
"""Profiles that a user may choose; ``paper`` is a row of every report."""


def add_parsers(groups: Groups, summary: str) -> None:
    """The command."""
    parser = add_command(
        groups,
        "audit",
        _audit,
        summary,
        "ppcmi audit --task hippocampus-mr --cases FOLDER -o CHECK",
    )
    add_task(parser)
    add_cases(parser, fold="all")
    parser.add_argument(
        "--attacks",
        choices=("quick", "full"),
        default="quick",
        help="quick: minutes, no decoder is trained for what leaves; full: also those that train for long, hours "
        "without a GPU, which usually find more; cut off, the same command goes on (default: quick)",
    )
    parser.add_argument(
        "--profiles",
        nargs="+",
        choices=[str(profile) for profile in CHECKED],
        metavar="P",
        help="privacy profiles to check: full, coarse, minimal (default: all that the codec has)",
    )
    parser.add_argument(
        "--patients",
        metavar="COLUMN",
        help="column of split.csv that says whose a case is (default: patient, subject, subject_group or exam if it "
        "has one; else every case is a patient); further columns are attributes that attackers of a full check predict",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the split and the attacks (default: 1)")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help=f"folder for {JSON} and {PAGE}")
    parser.add_argument(
        "--effort",
        type=positive_effort,
        default=1.0,
        help=argparse.SUPPRESS,  # below 1 attackers see and train less, so that it can be tried out; reports say so
    )
    parser.add_argument(
        "--picture-events",
        action="store_true",
        help=argparse.SUPPRESS,  # with --events, for a program that shows patients' slices to its user and keeps none
    )


def positive_effort(text: str) -> float:
    """How much attackers may do, as a share of the usual."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError("a number above 0 up to 1; 1 is usual, less judges nothing")
    return value


def _audit(command: Command) -> int:
    part = command.site().task(command.options.task)
    if not can_be_checked(part.membership.mode):
        raise AuditError(NO_CHECK)
    if any(find_spec(name) is None for name in PACKAGES):
        raise SiteError(
            "The privacy check needs the packages scikit-image, scikit-learn and torchmetrics; install them.",
            command="pip install 'ppcmi[audit]'",
        )
    from ppcmi.cli.audit_run import run_audit  # noqa: PLC0415 - no other command needs those packages

    return run_audit(command, part)
