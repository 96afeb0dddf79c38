"""The command line as a user meets it: help, one-line errors, exit codes, progress, reruns."""

import argparse
import io
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import SimpleITK
import torch

from ppcmi import __version__, consortium
from ppcmi.cli.cases import chosen_cases
from ppcmi.cli.console import Console
from ppcmi.cli.main import build_parser, main
from ppcmi.cli.model import show_scores
from ppcmi.codec.codec import Codec
from ppcmi.errors import BundleError, CasesFailedError, SiteError, UsageError
from ppcmi.metrics import LabelScore
from ppcmi.site import SiteProfile
from ppcmi.validation import CaseScores, Validation
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


@pytest.fixture
def a_relay():
    with relay_for(TASK_FILE.read_text()) as relay:
        yield relay


@pytest.fixture
def a_site(a_relay, tmp_path):
    """A site that has founded a task and has a codec."""
    site = a_relay.enrol(tmp_path / "sites", "A")
    part = consortium.create(site, site.client(), "phantom", "consortium", "two-layer")
    part.codec_path.write_bytes(Codec(part.task, "autoencoder", {"quality": {}}).to_bytes())
    return site


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
    assert "--threads" in text
    assert build_parser().parse_args(shlex.split(example)[1:]).run is not None


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["nonsense"], 2),
        (["segment"], 2),
        (["segment", "--task", "t", "in", "-o", "out", "--quantization", "i3"], 2),
        (["segment", "--task", "t", "in", "-o", "out", "--threads", "0"], 2),
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


@pytest.mark.parametrize("words", [["--help"], ["site", "--help"], ["site", "show"], ["nonsense"]], ids=" ".join)
def test_what_computes_nothing_does_not_wait_for_pytorch(words, tmp_path):
    script = f"""
import sys
from ppcmi.cli.main import main
try:
    main({words})
except SystemExit:
    pass
sys.exit("torch" in sys.modules)
"""
    environment = {**os.environ, "PPCMI_SITE_DIR": str(tmp_path / "site")}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout or ended.stderr.startswith("ppcmi: ")


def test_a_device_whose_memory_is_too_small_is_named_and_other_faults_are_not_hidden(monkeypatch, capsys):
    opens = Mock(side_effect=[torch.OutOfMemoryError("CUDA"), RuntimeError("another")])
    monkeypatch.setattr(SiteProfile, "open", opens)
    assert run(capsys, "site", "show") == (1, "", "ppcmi: The device's memory is too small; use --device cpu.\n")
    with pytest.raises(RuntimeError, match="another"):
        main(["site", "show"])


def test_the_overview_is_the_same_whatever_was_imported():
    assert build_parser(["--help"]).format_help() == build_parser().format_help()


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"ppcmi {__version__}\n"


@pytest.mark.parametrize("words", [["site", "export", "FILE"], ["segment", "--task", "t", "in", "-o", "out"]])
def test_an_unknown_option_leads_to_the_command_s_own_help(words, capsys):
    code, _, err = run(capsys, *words, "--nope")
    command = " ".join(words[: 2 if words[0] == "site" else 1])
    assert code == UsageError.exit_code
    assert err == f"ppcmi: unrecognized arguments: --nope; see 'ppcmi {command} --help'.\n"


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("site", "export", "FILE"), "--passphrase-file"),
        (("site", "import", "FILE"), "--passphrase-file"),
        (("site", "token", "use"), "--token-file"),
    ],
)
def test_without_a_terminal_a_secret_is_not_asked_for(words, option, a_site, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ppcmi", *words, "--site", str(a_site.folder)],
        input="typed where others see it\n",
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        start_new_session=True,  # has no terminal
    )
    assert (done.returncode, done.stdout) == (UsageError.exit_code, "")
    assert len(done.stderr.splitlines()) == 1
    assert option in done.stderr


def test_a_cohort_file_that_is_not_there_is_said(a_site, capsys):
    code, _, err = run(capsys, "cohort", "upload", "missing.ppcmi", "--site", a_site.folder)
    assert (code, err) == (BundleError.exit_code, "ppcmi: There is no such cohort file; check its name.\n")


def test_a_task_of_another_name_leads_to_those_that_there_are(a_site, capsys):
    code, _, err = run(capsys, "cohort", "check", "--task", "hippo", "--cases", "c", "--site", a_site.folder)
    assert code == SiteError.exit_code
    assert "no part in task 'hippo', only in phantom; found its consortium or join it." in err


@pytest.mark.parametrize(
    ("codec", "models", "said"),
    [
        (None, [], "has no codec yet; once its founder has trained one, 'ppcmi audit', then 'ppcmi cohort export'"),
        ((b"", "c"), [], "'ppcmi segment' once a model is active"),
        ((b"", "c"), [{"number": 1, "state": "active"}], "or at once 'ppcmi segment'"),
    ],
)
def test_who_joins_is_told_what_is_possible_by_now(codec, models, said, a_relay, a_site, tmp_path, capsys):
    site = a_relay.enrol(tmp_path / "sites", "B")
    consortium.invite(a_site, a_site.client(), a_site.task("phantom"), consortium.find_peer(a_site.client(), "B"))
    a_relay.codec, a_relay.models = codec, models
    code, _, err = run(capsys, "consortium", "join", "--task", "phantom", "--site", site.folder)
    assert code == 0
    assert said in err.splitlines()[-1]


def test_an_export_counts_the_cases_that_are_in_the_file(a_site, a_folder, tmp_path, capsys):
    (a_folder / "labels" / "one.nii.gz").unlink()
    scan = a_folder / "images" / "two.nii.gz"
    scan.write_bytes(scan.read_bytes()[:200])
    words = ["cohort", "export", "--task", "phantom", "--cases", a_folder, "-o", tmp_path / "a.ppcmi"]
    usual = ["--fold", "all", "--variants", "0", "--device", "cpu", "--site", a_site.folder]
    code, out, err = run(capsys, *words, *usual)
    assert code == CasesFailedError.exit_code
    assert "1 case without a label is left out.\n" in err
    assert "exported 1/2 cases" in err
    assert out.startswith("Wrote 1 case ")


def test_a_case_without_anything_labelled_is_neither_checked_as_good_nor_exported(a_site, a_folder, tmp_path, capsys):
    label = a_folder / "labels" / "two.nii.gz"
    empty = SimpleITK.ReadImage(str(label)) * 0
    SimpleITK.WriteImage(empty, str(label))
    usual = ["--task", "phantom", "--cases", a_folder, "--fold", "all", "--site", a_site.folder]
    code, out, _ = run(capsys, "cohort", "check", *usual)
    assert code == CasesFailedError.exit_code
    assert "two: cannot be exported: Nothing is labelled in this case." in out
    _, out, err = run(capsys, "cohort", "export", *usual, "-o", tmp_path / "a.ppcmi", "--variants", "0")
    assert out.startswith("Wrote 2 cases ")
    assert "Nothing is labelled in this case." in err


def test_a_check_names_rows_without_an_image_and_images_without_a_row(a_site, a_folder, capsys):
    (a_folder / "split.csv").write_text("id,fold\none,train\nto,train\nthree,train\n")
    code, _, err = run(capsys, "cohort", "check", "--task", "phantom", "--cases", a_folder, "--site", a_site.folder)
    assert code == 0
    assert "split.csv: to has no image.\nsplit.csv: two is not in the table.\n" in err


def test_a_check_of_nothing_is_an_error(a_site, a_folder, capsys):
    for label in (a_folder / "labels").iterdir():
        label.unlink()
    code, _, err = run(capsys, "cohort", "check", "--task", "phantom", "--cases", a_folder, "--site", a_site.folder)
    assert code == SiteError.exit_code
    assert "nothing to check" in err


def test_a_model_that_is_judged_but_not_active_is_said(a_relay, a_site, a_folder, capsys):
    a_relay.models = [
        {"number": 1, "state": "active", "profile": "coarse"},
        {"number": 2, "state": "ready", "profile": "coarse"},
    ]
    words = ["model", "validate", "--task", "phantom", "--cases", a_folder, "--device", "cpu", "--site", a_site.folder]
    _, _, err = run(capsys, *words)  # which maps nothing at this server
    assert "Model 2 is judged; active is model 1.\n" in err
    _, _, err = run(capsys, *words, "--model", "1")
    assert "is judged" not in err


def test_the_module_runs_as_a_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ppcmi", "site", "show", "--site", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (10, "")
    assert done.stderr == "ppcmi: There is no site profile yet; set the site up first. (ppcmi site init)\n"


@pytest.fixture
def usual_threads():
    """How many threads PyTorch computes with; a test may change that."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_a_command_computes_with_as_many_threads_as_it_is_told(usual_threads, tmp_path, capsys):
    words = ("site", "show", "--site", tmp_path)
    for threads in (usual_threads + 1, usual_threads + 2):
        assert run(capsys, *words, "--threads", threads)[0] == SiteError.exit_code
        assert torch.get_num_threads() == threads
    run(capsys, *words)
    assert torch.get_num_threads() == usual_threads + 2  # nothing is said, nothing is changed


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "", "many", "100000"])
def test_a_number_of_threads_that_is_none_is_refused_in_a_sentence(text, usual_threads, capsys):
    code, _, err = run(capsys, "site", "show", f"--threads={text}")
    assert code == UsageError.exit_code
    assert f"argument --threads: a number of threads is from 1 to 1024, not '{text}'" in err
    assert torch.get_num_threads() == usual_threads


def test_cases_are_chosen_by_fold_and_by_column(a_folder):
    def chosen(**changes):
        options = argparse.Namespace(**{"cases": a_folder, "fold": "train", "where": [], **changes})
        return [case.name for case in chosen_cases(options)]

    assert chosen() == ["one", "two"]
    assert chosen(where=["site=A"]) == ["one"]
    assert chosen(fold="all", where=["site=A"]) == ["one", "three"]
    with pytest.raises(UsageError, match="COLUMN=VALUE"):
        chosen(where=["site"])


@pytest.mark.parametrize(
    ("fold", "where", "sentence"),
    [
        ("train", ["hospital=A"], "has no column 'hospital' for --where; choose among id, fold, site."),
        ("train", ["site=Q"], "No case has the value that --where gives for 'site'"),
        ("train", ["site=B", "id=one"], "No case fits every --where at once"),
        ("trian", [], "No case is of fold 'trian'; choose another by --fold: train, val or all."),
        ("val", ["site=B"], "No case of fold 'val' fits --where"),
    ],
)
def test_where_no_case_is_chosen_the_option_that_is_wrong_is_named(a_folder, fold, where, sentence):
    with pytest.raises(UsageError) as caught:
        chosen_cases(argparse.Namespace(cases=a_folder, fold=fold, where=where))
    assert sentence in str(caught.value)


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
