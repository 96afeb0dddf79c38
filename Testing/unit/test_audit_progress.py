"""What a privacy check says while it runs: the step, the training within it, how long the rest takes."""

import io
import json

import pytest

from ppcmi.audit.suite import AuditEvent
from ppcmi.cli.audit_progress import CheckProgress
from ppcmi.cli.events import EventConsole
from ppcmi.fitting import FitReport


class Check:
    """A check of a hundred steps whose time is told, and what it said."""

    def __init__(self):
        self.now, self.out = 0.0, io.StringIO()
        self.progress = CheckProgress(EventConsole(self.out), clock=lambda: self.now)

    def at(self, done, now):
        """The step after ``done`` others begins; what is said then."""
        self.now = now
        self.progress.step(AuditEvent("coarse; network: A2", done, 100))
        return self.said[-1]["text"]

    @property
    def said(self):
        return [json.loads(line) for line in self.out.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("done", "now", "said"),
    [
        (9, 3600, "coarse; network: A2 (9/100)"),
        (11, 3620, "coarse; network: A2 (11/100)"),
        (40, 5400, "coarse; network: A2 (40/100, about 60 min left)"),
        (75, 7500, "coarse; network: A2 (75/100, about 25 min left)"),
    ],
)
def test_the_time_left_follows_from_the_pace_behind_the_preparation(done, now, said):
    check = Check()
    check.at(0, 0)
    if done > 10:
        check.at(10, 3600)  # an hour of training what the attackers have says nothing about the rest
    assert check.at(done, now) == said


def test_a_training_is_named_with_its_step():
    check = Check()
    check.at(10, 3600)
    check.at(75, 7500)
    check.progress.training(FitReport("attacker's decoder", 3, 12, 0.1, None, 1.0))
    assert check.said[-1]["text"] == "coarse; network: A2 (75/100, about 25 min left): attacker's decoder 3/12"
