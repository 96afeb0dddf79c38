"""What a batch shows to people: the stage, the time left, what became of each volume, and its end."""

import io
from pathlib import Path

import pytest

from ppcmi.batch import BatchItem, segment_files
from ppcmi.batch_images import BatchImage
from ppcmi.batch_manifest import CaseRecord
from ppcmi.cli.batch_console import STAGES, show_end, show_item, show_table
from ppcmi.cli.console import Console
from ppcmi.cli.pace import Pace
from ppcmi.pipeline import Progress, provenance_of
from ppcmi.sources import ImageSource
from ppcmi.wording import about


class Telling(Console):
    """A console that shows every progress, however soon it comes."""

    def __init__(self):
        super().__init__(out=io.StringIO(), err=io.StringIO())
        self.told = []

    def progress(self, text, *, last=False):
        self.told.append(text)
        super().progress(text, last=last)


class Clock:
    """Seconds that a test sets."""

    now = 100.0

    def __call__(self):
        return self.now


def an_item(number=1, total=1, to_do_after=0, **changes):
    return BatchItem(ImageSource(Path("x")), f"scan{number}", number, total, to_do_after, **changes)


def a_result(seconds, **changes):
    record = CaseRecord("x", "done", {}, total_seconds=seconds, volumes_ml={"Organ": 1.0})
    return {"outcome": "done", "record": record, **changes}


def slices(done, total=8, stage="map"):
    return {"progress": Progress(stage, done, total)}


@pytest.fixture
def dark_and_bright(a_dark_scan, scans):
    """A scan in which nothing is found, and one in which something is."""
    return [BatchImage(ImageSource(path)) for path in (a_dark_scan, scans[0])]


def run(images, link, output):
    """What is told on the way; the table and the end."""
    console, finished, pace = Telling(), [], Pace()
    for item in segment_files(images, link, output):
        show_item(item, console, pace)
        if item.outcome is not None:
            finished.append(item)
    show_table(finished, link.task, console)
    show_end(finished, provenance_of(link), output / "report.html", console)
    return console.told, console._out.getvalue().splitlines()


def test_the_stage_of_a_volume_is_said_in_words(dark_and_bright, a_link, tmp_path):
    told, _ = run(dark_and_bright[1:], a_link, tmp_path / "out")
    ways = list(dict.fromkeys(text.removeprefix("1/1 one: ").split(",")[0] for text in told))
    assert ways == ["reading", *STAGES.values(), "done"]
    assert "1/1 one: encoding, 0/4 slices" in told
    assert "1/1 one: slicing" in told  # before anybody knows how many slices there are


def test_a_volume_in_which_nothing_was_found_says_so(dark_and_bright, a_link, tmp_path):
    for done, in_all in (("done", "2 done"), ("done before", "2 done before")):
        told, (_, dark, bright, end) = run(dark_and_bright, a_link, tmp_path / "out")
        assert f"1/2 dark: {done}; no structure was found in it" in told
        assert f"2/2 one: {done}" in told
        assert f" {done}, nothing found " in dark
        assert "nothing found" not in bright
        assert end.startswith(f"{in_all}; no structure was found in 1 volume; model 7, profile coarse; see ")


def test_a_run_that_found_something_everywhere_does_not_speak_of_it(dark_and_bright, a_link, tmp_path):
    _, lines = run(dark_and_bright[1:], a_link, tmp_path / "out")
    assert lines[-1] == f"1 done; model 7, profile coarse; see {tmp_path / 'out' / 'report.html'}"


def test_what_failed_is_said_and_found_neither_something_nor_nothing(dark_and_bright, a_link, tmp_path):
    dark_and_bright[1].source.path.write_bytes(b"no image")
    told, (*_, end) = run(dark_and_bright[1:], a_link, tmp_path / "out")
    assert told == ["1/1 one: reading"]
    assert end.startswith("1 failed; model 7")


def test_in_a_log_the_lines_are_whole_and_few(dark_and_bright, a_link, tmp_path):
    log, pace = io.StringIO(), Pace()
    console = Console(out=io.StringIO(), err=log)
    for item in segment_files(dark_and_bright, a_link, tmp_path / "out"):
        show_item(item, console, pace)
    assert "\r" not in log.getvalue()
    first, *done = log.getvalue().splitlines()
    assert first == "1/2 dark: reading"
    assert done == ["1/2 dark: done; no structure was found in it", "2/2 one: done"]


def test_the_time_left_is_shown_once_it_is_known():
    console, clock = Telling(), Clock()
    pace = Pace(clock)
    for now, done in ((100, 0), (110, 2)):
        clock.now = now
        show_item(an_item(1, 3, to_do_after=2, **slices(done)), console, pace)
    assert console.told == [
        "1/3 scan1: waiting for the server, 0/8 slices",
        "1/3 scan1: waiting for the server, 2/8 slices, about 2 min left",
    ]


# ---- the pace


@pytest.fixture
def left():
    """Calls a pace at a time with an event."""
    clock = Clock()
    pace = Pace(clock)

    def at(now, item):
        clock.now = now
        return pace.seconds_left(item)

    return at


def test_before_any_slice_is_done_nobody_knows_how_long_it_takes(left):
    assert left(0, an_item(total=9, to_do_after=8)) is None
    assert left(500, an_item(total=9, to_do_after=8, **slices(0))) is None


def test_at_first_the_pace_is_that_of_the_present_volume_s_slices(left):
    left(0, an_item(1, 3, to_do_after=2))
    assert left(10, an_item(1, 3, to_do_after=2, **slices(2))) == 30 + 2 * 40


def test_while_nothing_new_is_known_the_time_left_goes_down(left):
    left(0, an_item())
    assert left(10, an_item(**slices(2))) == 30
    assert left(25, an_item(**slices(2))) == 15
    assert left(25, an_item(**slices(4))) == 25


def test_a_volume_that_takes_longer_than_was_thought_is_not_said_to_be_nearly_done(left):
    left(0, an_item())
    assert left(10, an_item(**slices(4))) == 10
    assert left(20, an_item(**slices(4))) is None


def test_then_the_pace_is_that_of_the_volumes_that_were_segmented(left):
    left(0, an_item(1, 4, to_do_after=3))
    assert left(20, an_item(1, 4, to_do_after=3, **a_result(20.0))) == 3 * 20
    assert left(20, an_item(2, 4, to_do_after=2)) == 20 + 2 * 20
    assert left(30, an_item(2, 4, to_do_after=2, **slices(0))) == 10 + 2 * 20
    left(60, an_item(2, 4, to_do_after=2, **a_result(40.0)))
    assert left(60, an_item(3, 4, to_do_after=1)) == 30 + 30


def test_what_was_done_before_or_failed_says_nothing_about_the_pace(left):
    failure = {"outcome": "failed", "record": CaseRecord("x", "failed", {}, error="?", total_seconds=0.01)}
    assert left(0, an_item(1, 4, to_do_after=2, **a_result(99.0, outcome="skipped"))) is None
    assert left(1, an_item(2, 4, to_do_after=1, **failure)) is None
    left(1, an_item(3, 4, to_do_after=1))
    assert left(21, an_item(3, 4, to_do_after=1, **a_result(20.0))) == 20


def test_what_is_done_already_takes_no_time(left):
    left(0, an_item(1, 100))
    assert left(20, an_item(1, 100, to_do_after=0, **a_result(20.0))) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "about 1 s"), (89, "about 89 s"), (91, "about 2 min"), (5340, "about 89 min"), (9000, "about 2.5 h")],
)
def test_an_estimated_time_is_said_as_people_say_it(seconds, text):
    assert about(seconds) == text
