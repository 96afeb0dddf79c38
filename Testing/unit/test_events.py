"""Commands for programs: events a line, and children that end with whoever started them."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ppcmi.cli.events import EventConsole
from ppcmi.cli.main import main
from ppcmi.errors import CancelledError, SiteError, UsageError
from ppcmi.phantoms import write_phantom_folder
from ppcmi.task import load_task
from ppcmi.task_profile import Membership
from support.relay import relay_for

TASK_FILE = Path(__file__).parents[2] / "Resources" / "Tasks" / "phantom.json"
OLD_CODEC = b"the codec that there was"


def events_of(text):
    return [json.loads(line) for line in text.splitlines()]


def test_every_line_is_an_object_whatever_is_written():
    out = io.StringIO()
    console = EventConsole(out)
    console.result('two\nlines "quoted" \N{SNOWMAN}')
    console.remark("beside it")
    console.table(("name", "number"), [["a", "1"]])
    console.measured("fit", {"loss": float("nan"), "score": None}, "for people")
    console.figures("quality", {"psnr_db": {"full": float("inf"), 0.5: 2}})
    console.error("what to do", 9)
    assert out.getvalue().isascii()
    assert events_of(out.getvalue()) == [
        {"event": "result", "text": 'two\nlines "quoted" \N{SNOWMAN}'},
        {"event": "remark", "text": "beside it"},
        {"event": "table", "header": ["name", "number"], "rows": [["a", "1"]]},
        {"event": "fit", "loss": None, "score": None},
        {"event": "quality", "psnr_db": {"full": None, "0.5": 2}},
        {"event": "error", "text": "what to do", "exit_code": 9},
    ]


def test_progress_is_sparse_and_numbers_of_a_curve_are_all_there():
    out = io.StringIO()
    console = EventConsole(out)
    for step in range(500):
        console.progress(f"step {step}", last=step == 499)
        console.measured("fit", {"step": step}, "")
    events = events_of(out.getvalue())
    told = [event["text"] for event in events if event["event"] == "progress"]
    assert told[-1] == "step 499"
    assert len(told) < 50
    assert [event["step"] for event in events if event["event"] == "fit"] == list(range(500))
    quiet = io.StringIO()
    EventConsole(quiet, quiet=True).progress("nothing", last=True)
    assert quiet.getvalue() == ""


@pytest.mark.parametrize(
    ("words", "code"), [(["site", "show"], SiteError.exit_code), (["site", "sow"], UsageError.exit_code)]
)
def test_an_error_is_an_event_even_where_the_command_does_not_exist(words, code, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PPCMI_SITE_DIR", str(tmp_path))
    assert main([*words, "--events"]) == code
    captured = capsys.readouterr()
    (event,) = events_of(captured.out)
    assert (event["event"], event["exit_code"]) == ("error", code)
    assert captured.err == ""


@pytest.fixture
def a_training(tmp_path):
    """Starts a training that would take long, at a site that has a codec; the child is at work when it comes back."""
    cases = tmp_path / "cases"
    write_phantom_folder(cases, cases_per_site=2, seed=1)
    children = []
    with relay_for(TASK_FILE.read_text()) as relay:
        site = relay.enrol(tmp_path, "Hospital A")
        part = site.add_task(load_task(TASK_FILE), Membership("consortium", "two-layer", founder=True), os.urandom(32))
        part.codec_path.write_bytes(OLD_CODEC)

        def start(*options):
            command = ["codec", "train", "--task", "phantom", "--cases", str(cases), "--fold", "all", "--replace"]
            child = subprocess.Popen(
                [sys.executable, "-m", "ppcmi", *command, "--device", "cpu", "--site", str(site.folder), *options],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            children.append(child)
            seen = []
            for line in child.stdout:
                seen.append(json.loads(line))
                if seen[-1]["event"] == "fit":
                    break
            assert seen, child.stderr.read()
            assert seen[-1]["event"] == "fit", child.stderr.read()
            return child, part, seen

        yield start
        for child in children:
            child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout, child.stderr):
                stream.close()


def test_a_training_that_is_terminated_says_so_and_leaves_what_there_was(a_training):
    child, part, seen = a_training("--events")
    fit = seen[-1]
    assert {"stage", "epoch", "epochs", "share", "loss", "score"} <= fit.keys()
    assert 0 < fit["share"] <= 1
    child.terminate()
    out, err = child.communicate(timeout=60)
    assert child.returncode == CancelledError.exit_code
    assert events_of(out)[-1]["event"] == "error"
    assert err == ""
    names = {"task.json", "membership.json", "inner.key", "codec.safetensors", "training.lock"}
    assert {path.name for path in part.folder.iterdir()} == names
    assert part.codec_path.read_bytes() == OLD_CODEC


def test_a_training_ends_when_its_parent_is_gone(a_training):
    child, part, _ = a_training("--events", "--end-with-stdin")
    start = time.monotonic()
    child.stdin.close()
    child.stdout.read()
    assert child.wait(timeout=60) == CancelledError.exit_code
    assert time.monotonic() - start < 30
    assert part.codec_path.read_bytes() == OLD_CODEC
