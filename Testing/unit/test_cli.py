"""The command line as a user meets it: help, one-line errors, exit codes, progress, reruns."""

import argparse
import io
import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from ppcmi.batch import MANIFEST, result_names, segment_files
from ppcmi.cli import options as cli_options
from ppcmi.cli.console import Console
from ppcmi.cli.main import build_parser, main
from ppcmi.cli.model import show_scores
from ppcmi.errors import BundleError, UsageError, WriteError
from ppcmi.metrics import LabelScore
from ppcmi.site import Membership
from ppcmi.task import load_task
from ppcmi.validation import CaseScores, Validation
from support.private_link import HalvingServer, link_to, untrained_codec
from support.relay import relay_for

TASK_FILE = Path(__file__).parents[2] / "Resources" / "Tasks" / "phantom.json"


def commands():
    """Every command's words."""

    def below(parser, words):
        actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not actions:
            yield words
        for action in actions:
            for name, child in action.choices.items():
                yield from below(child, [*words, name])

    return list(below(build_parser(), []))


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a command."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def a_folder(tmp_path):
    """Three small scans with labels and a split, as a site has them."""
    for folder, kind in (("images", np.float32), ("labels", np.uint8)):
        (tmp_path / folder).mkdir()
        for name in ("one", "two", "three"):
            image = SimpleITK.GetImageFromArray(np.random.default_rng(1).integers(0, 3, (4, 20, 22)).astype(kind))
            SimpleITK.WriteImage(image, str(tmp_path / folder / f"{name}.nii.gz"))
    (tmp_path / "split.csv").write_text("id,fold,site\none,train,A\ntwo,train,B\nthree,val,A\n")
    return tmp_path


@pytest.fixture(scope="module")
def a_codec():
    return untrained_codec()


def test_every_command_that_the_readme_shows_is_there():
    assert {" ".join(words) for words in commands()} >= {
        "site init", "site show", "site test", "consortium create", "consortium invite", "consortium join",
        "consortium show", "codec train", "codec refine", "cohort export", "cohort upload", "cohort list",
        "cohort withdraw", "model list", "model validate", "segment",
    }  # fmt: skip


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_explains_itself_with_an_example_that_is_valid(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    text = capsys.readouterr().out
    example = next(line for line in text.splitlines() if line.startswith("  ppcmi "))
    assert ended.value.code == 0
    assert "--device" in text
    assert build_parser().parse_args(shlex.split(example)[1:]).run is not None


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["nonsense"], 2),
        (["segment"], 2),
        (["segment", "--task", "t", "in", "-o", "out", "--quantization", "i3"], 2),
        (["site", "show"], 10),
        (["cohort", "list"], 10),
        (["site", "init", "--server", "http://ppcmi.example.org", "--code", "x"], 2),
        (["site", "init", "--server", "127.0.0.1:9", "--code", "x"], 11),
    ],
)
def test_bad_input_is_one_clear_line_and_a_code(arguments, code, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PPCMI_SITE_DIR", str(tmp_path / "site"))
    got, out, err = run(capsys, *arguments)
    assert got == code
    assert out == ""
    assert err.startswith("ppcmi: ")
    assert len(err.splitlines()) == 1


def test_the_module_runs_as_a_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ppcmi", "site", "show", "--site", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (10, "")
    assert done.stderr == "ppcmi: There is no site profile yet; run 'ppcmi site init' first.\n"


def test_cases_are_chosen_by_fold_and_by_column(a_folder):
    def chosen(**changes):
        options = argparse.Namespace(**{"cases": a_folder, "fold": "train", "where": [], **changes})
        return [case.name for case in cli_options.chosen_cases(options)]

    assert chosen() == ["one", "two"]
    assert chosen(where=["site=A"]) == ["one"]
    assert chosen(fold="all", where=["site=A"]) == ["one", "three"]
    with pytest.raises(UsageError, match="No case"):
        chosen(where=["site=C"])
    with pytest.raises(UsageError, match="COLUMN=VALUE"):
        chosen(where=["site"])


@pytest.fixture
def judged(a_folder, tmp_path):
    """Calls ``cases_to_judge_on`` at a site that has uploaded some cases; their names, whether held out, remarks."""

    def judge(fold="val", uploaded=(), folds=True):
        if not folds:
            (a_folder / "split.csv").unlink()
        task = load_task(TASK_FILE)
        with relay_for(TASK_FILE.read_text()) as relay:
            site = relay.enrol(tmp_path, "A")
        part = site.add_task(task, Membership("consortium", "two-layer", founder=True), bytes(32))
        pseudonyms = site.pseudonyms(task.name, ["one", "two", "three"])
        site.record_cohort("c", {"task": task.name, "pseudonyms": [pseudonyms[name] for name in uploaded]})
        remarks = io.StringIO()
        options = argparse.Namespace(cases=a_folder, fold=fold, where=[])
        command = cli_options.Command(options, Console(err=remarks), site.folder)
        cases, held_out = cli_options.cases_to_judge_on(command, part)
        return [case.name for case in cases], held_out, remarks.getvalue()

    return judge


def test_a_model_is_judged_on_the_held_out_fold(judged):
    assert judged(uploaded=["one", "two"]) == (["three"], True, "")


def test_without_folds_a_model_is_judged_on_what_was_not_uploaded(judged):
    names, held_out, remark = judged(uploaded=["one", "three"], folds=False)
    assert (names, held_out) == (["two"], True)
    assert "Left out 2 of 3" in remark


def test_a_model_is_not_judged_on_uploaded_cases_alone_unless_asked_to(judged):
    with pytest.raises(UsageError, match="uploaded for training"):
        judged(uploaded=["one", "two", "three"], folds=False)


def test_scores_on_uploaded_cases_are_marked_as_too_good(judged):
    names, held_out, remark = judged(fold="all", uploaded=["one"])
    assert (names, held_out) == (["one", "three", "two"], False)
    assert "too good" in remark


def test_validation_and_test_cases_are_not_exported_unless_asked_for():
    parsed = build_parser().parse_args(["cohort", "export", "--task", "t", "--cases", "f", "-o", "a.ppcmi"])
    assert parsed.fold == "train"


class Terminal(io.StringIO):
    """A stream that looks like one that a person watches."""

    def isatty(self):
        return True


def test_progress_in_a_log_is_sparse_and_on_a_terminal_one_line():
    log, terminal = io.StringIO(), Terminal()
    for stream in (log, terminal):
        console = Console(err=stream)
        for step in range(1000):
            console.progress(f"step {step}", last=step == 999)
    assert log.getvalue().splitlines()[-1] == "step 999"
    assert len(log.getvalue().splitlines()) <= 3
    assert terminal.getvalue().count("\n") == 1
    quiet = io.StringIO()
    Console(err=quiet, quiet=True).progress("nothing", last=True)
    assert quiet.getvalue() == ""


def test_a_result_takes_the_place_of_the_progress_before_it():
    terminal = Terminal()
    console = Console(out=terminal, err=terminal)
    console.progress("half done")
    console.result("all done")
    assert terminal.getvalue().split("\r")[-1] == "all done\n"
    assert terminal.getvalue().count("\n") == 1


def shown_scores(private, alone):
    """What is printed of Dice and HD95 by label, with the server and alone."""
    out = io.StringIO()

    def scores(by_label):
        return tuple(LabelScore(name, dice, 0.5, 0.5, 0.5, hd95, 1.0) for name, (dice, hd95) in by_label.items())

    case = CaseScores("one", scores(private), None if alone is None else scores(alone))
    show_scores(Console(out=out, err=out), Validation(1, (case,), {}))
    return out.getvalue()


def test_scores_stand_beside_those_of_the_site_alone():
    text = shown_scores({"Organ": (0.9, 2.0), "Vessel": (0.5, math.nan)}, {"Organ": (0.8, 3.0), "Vessel": (0.4, 9.0)})
    header, organ, vessel, mean, *_ = text.splitlines()
    assert " ".join(header.split()) == "label Dice Dice alone HD95 mm HD95 mm alone ASD mm ASD mm alone"
    assert organ.split()[:5] == ["Organ", "0.900", "0.800", "2.000", "3.000"]
    assert vessel.split()[:5] == ["Vessel", "0.500", "0.400", "-", "9.000"]
    assert mean.split()[:5] == ["mean", "0.700", "0.600", "2.000", "3.000"]  # of distances only what compares
    assert "better alone" not in text


def test_a_site_that_does_better_alone_is_told():
    assert "better alone" in shown_scores({"Organ": (0.7, 2.0)}, {"Organ": (0.8, 3.0)})
    assert "alone" not in shown_scores({"Organ": (0.7, 2.0)}, None)


def test_results_of_scans_with_the_same_name_do_not_overwrite_each_other():
    images = [Path(p) for p in ("a/scan.nii.gz", "b/scan.mha", "b/c.d.nrrd", "x/b/scan.nii", "series")]
    names = result_names(images)
    assert names == ["a-scan", "b-scan", "c.d", "b-scan-2", "series"]


def finished(items):
    return {item.name: item.outcome for item in items if item.outcome is not None}


def test_what_is_done_is_skipped_until_the_scan_or_the_model_changes(a_folder, a_codec, tmp_path):
    images = sorted((a_folder / "images").iterdir())
    server = HalvingServer(task=a_codec.task.identity)
    link = link_to(server, a_codec)
    output = tmp_path / "out"
    assert finished(segment_files(images[:2], link, output)) == {"one": "done", "three": "done"}
    assert finished(segment_files(images, link, output)) == {"one": "skipped", "three": "skipped", "two": "done"}
    (output / "one.nii.gz").unlink()
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ones((5, 20, 20), np.float32) * 7), str(images[1]))
    assert finished(segment_files(images, link, output)) == {"one": "done", "three": "done", "two": "skipped"}
    assert {path.name for path in output.glob("*.nii.gz")} == {"one.nii.gz", "two.nii.gz", "three.nii.gz"}
    assert {path.name for path in output.glob("*.seg.nrrd")} == {"one.seg.nrrd", "two.seg.nrrd", "three.seg.nrrd"}


def test_a_result_never_takes_the_place_of_a_scan(a_folder, a_codec):
    images = sorted((a_folder / "images").iterdir())
    before = images[0].read_bytes()
    link = link_to(HalvingServer(task=a_codec.task.identity), a_codec)
    with pytest.raises(WriteError, match="another folder"):
        list(segment_files(images[:1], link, a_folder / "images"))
    assert images[0].read_bytes() == before


def test_a_failure_goes_on_to_the_next_and_is_tried_again(a_folder, a_codec, tmp_path):
    images = sorted((a_folder / "images").iterdir())
    images[1].write_bytes(b"no image")
    output = tmp_path / "out"
    link = link_to(HalvingServer(task=a_codec.task.identity), a_codec)
    items = list(segment_files(images, link, output))
    assert finished(items) == {"one": "done", "three": "failed", "two": "done"}
    failure = next(item.error for item in items if item.outcome == "failed")
    assert str(tmp_path) not in str(failure)
    assert not (output / "three.nii.gz").exists()
    assert finished(segment_files(images, link, output)) == {"one": "skipped", "three": "failed", "two": "skipped"}


def test_a_manifest_that_was_cut_off_costs_one_case_not_the_run(a_folder, a_codec, tmp_path):
    images = sorted((a_folder / "images").iterdir())[:2]
    output = tmp_path / "out"
    link = link_to(HalvingServer(task=a_codec.task.identity), a_codec)
    list(segment_files(images, link, output))
    manifest = output / MANIFEST
    manifest.write_text(manifest.read_text()[:-40])
    assert finished(segment_files(images, link, output)) == {"one": "skipped", "three": "done"}


def test_the_manifest_says_what_a_result_cost_and_came_from(a_folder, a_codec, tmp_path):
    images = sorted((a_folder / "images").iterdir())[:1]
    list(segment_files(images, link_to(HalvingServer(task=a_codec.task.identity), a_codec), tmp_path / "out"))
    (line,) = (tmp_path / "out" / MANIFEST).read_text().splitlines()
    record = json.loads(line)
    assert record["bytes_sent"] > 0
    assert record["made_from"]["model"] == "7"
    assert record["seconds"]["encode"] > 0


def test_an_answer_that_is_refused_fails_one_scan_with_its_code(a_folder, a_codec, tmp_path):
    class Mixer(HalvingServer):
        def answer(self, bundle, model):
            return super().answer(bundle, model + 1)

    images = sorted((a_folder / "images").iterdir())[:1]
    (last,) = [
        item
        for item in segment_files(images, link_to(Mixer(task=a_codec.task.identity), a_codec), tmp_path / "out")
        if item.outcome is not None
    ]
    assert isinstance(last.error, BundleError)
    assert list((tmp_path / "out").glob("*.nrrd")) == []
