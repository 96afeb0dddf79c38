"""The training loop's reports, which let a person see how far it is and end it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ppcmi import fitting
from ppcmi.errors import CancelledError, TrainingError
from ppcmi.fitting import FitConfig, FitReport, fit


def train(report, *, epochs=2, items=12, scale=1.0):
    """The weights of a small regression after training; ``scale`` infinite makes it diverge."""
    torch.manual_seed(1)
    network = nn.Linear(3, 1)
    inputs = torch.randn(items, 3)

    def loss_of(batch):
        return (scale * (network(inputs[batch]) - inputs[batch].sum(1, keepdim=True))).square().mean()

    config = FitConfig(epochs=epochs, batch_size=4)
    fit("line", network, loss_of, items, config, generator=torch.Generator().manual_seed(1), report=report)
    return network.weight.detach().clone()


def test_a_report_comes_at_the_end_of_each_epoch():
    reports = []
    train(reports.append)
    assert [(r.epoch, r.epochs, r.share) for r in reports] == [(1, 2, 1.0), (2, 2, 1.0)]


def test_within_a_long_epoch_reports_say_how_far_it_is_and_change_nothing(monkeypatch):
    quick = train(fitting.ignore_report)
    monkeypatch.setattr(fitting, "REPORT_EVERY_S", -1.0)
    reports = []
    assert torch.equal(train(reports.append), quick)
    assert [(r.epoch, round(r.share, 2)) for r in reports] == [(e, s) for e in (1, 2) for s in (0.33, 0.67, 1.0)]


def test_training_can_be_cancelled_within_an_epoch(monkeypatch):
    monkeypatch.setattr(fitting, "REPORT_EVERY_S", -1.0)
    shares = []

    def cancel(report):
        shares.append(report.share)
        raise CancelledError("Cancelled.")

    with pytest.raises(CancelledError):
        train(cancel)
    assert shares == [pytest.approx(1 / 3)]


def test_a_loss_that_is_no_number_is_an_error_that_says_what_to_do():
    with pytest.raises(TrainingError, match="learning rate"):
        train(fitting.ignore_report, scale=float("inf"))


def test_rounds_are_one_course_of_the_learning_rate():
    runs = FitConfig(epochs=12, minimum_steps=120).rounds(4)
    assert [run.part for run in runs] == [(0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)]
    assert all((run.epochs, run.minimum_steps) == (3, 30) for run in runs)


@given(epochs=st.integers(1, 60), steps=st.integers(0, 5000), count=st.integers(1, 100))
def test_rounds_are_together_as_long_as_the_run_that_they_are_cut_from(epochs, steps, count):
    runs = FitConfig(epochs=epochs, minimum_steps=steps).rounds(count)
    assert len(runs) == min(count, epochs)
    assert sum(run.epochs for run in runs) == epochs
    assert sum(run.minimum_steps for run in runs) == steps
    assert all(run.epochs >= 1 for run in runs)
    assert [run.part[0] for run in runs] == [0.0, *(run.part[1] for run in runs[:-1])]
    assert runs[-1].part[1] == 1.0


def test_a_training_says_how_long_it_takes_still():
    half = FitReport("x", epoch=2, epochs=4, loss=0.1, score=None, seconds=5.0, share=0.5)
    assert half.seconds_left == 25.0  # 10 s an epoch, of which 2.5 are left
    assert FitReport("x", epoch=4, epochs=4, loss=0.1, score=None, seconds=9.0).seconds_left == 0.0
    assert FitReport("x", epoch=1, epochs=4, loss=0.1, score=None, seconds=0.0, share=0.0).seconds_left == math.inf
