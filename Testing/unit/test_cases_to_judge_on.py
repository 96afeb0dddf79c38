"""Which cases a model is judged on: none that it, or the site's decoder, learned from."""

import argparse
import io
from pathlib import Path

import pytest

from ppcmi.cli.cases import cases_to_judge_on
from ppcmi.cli.console import Console
from ppcmi.cli.options import Command
from ppcmi.codec.codec import Codec
from ppcmi.codec.learned_cases import digests_of
from ppcmi.codec.refinement import SiteDecoder
from ppcmi.data_folders import find_cases
from ppcmi.errors import UsageError
from ppcmi.task import load_task
from ppcmi.task_profile import Membership
from support.batch_runs import write_scan
from support.relay import relay_for

TASK_FILE = Path(__file__).parents[2] / "Resources" / "Tasks" / "phantom.json"


@pytest.fixture
def a_folder(tmp_path):
    """Three small scans with labels and a split."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for number, name in enumerate(("one", "two", "three")):
            write_scan(tmp_path / folder / f"{name}.nii.gz", number)
    (tmp_path / "split.csv").write_text("id,fold\none,train\ntwo,train\nthree,val\n")
    return tmp_path


@pytest.fixture
def judged(a_folder, tmp_path):
    """Calls ``cases_to_judge_on`` at a site that has uploaded some cases, and whose decoder learned from some.

    The cases' names, whether they are held out, and remarks.
    """

    def digests(names):
        return digests_of(case for case in find_cases(a_folder) if case.name in names)

    def judge(fold="val", uploaded=(), folds=True, learned=(), learned_by_codec=()):
        if not folds:
            (a_folder / "split.csv").unlink()
        task = load_task(TASK_FILE)
        with relay_for(TASK_FILE.read_text()) as relay:
            site = relay.enrol(tmp_path, "A")
        part = site.add_task(task, Membership("consortium", "two-layer", founder=True), bytes(32))
        pseudonyms = site.pseudonyms(task.name, ["one", "two", "three"])
        site.record_cohort("c", {"task": task.name, "pseudonyms": [pseudonyms[name] for name in uploaded]})
        codec = Codec(task, "autoencoder")
        codec.save(part.codec_path, digests(learned_by_codec))
        if learned:
            SiteDecoder(codec, learned_from=digests(learned)).save(part.decoder_path)
        remarks = io.StringIO()
        options = argparse.Namespace(cases=a_folder, fold=fold, where=[])
        command = Command(options, Console(err=remarks), site.folder)
        cases, held_out = cases_to_judge_on(command, part)
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


def test_without_folds_a_model_is_not_judged_on_what_the_site_s_own_codec_learned_from(judged):
    names, held_out, remarks = judged(learned=["one"], learned_by_codec=["one", "two"], folds=False)
    assert (names, held_out) == (["three"], True)
    assert remarks == "Left out 2 of 3 cases, as they taught this site's networks.\n"


def test_without_folds_a_model_is_not_judged_on_what_the_decoder_learned_from(judged):
    names, held_out, remarks = judged(learned=["one"], uploaded=["three"], folds=False)
    assert (names, held_out) == (["two"], True)
    assert remarks.splitlines() == [
        "Left out 1 of 3 cases, as they were uploaded for training.",
        "Left out 1 of 3 cases, as they taught this site's networks.",
    ]


def test_where_the_decoder_learned_from_all_cases_nothing_is_judged_and_it_is_said_why(judged):
    with pytest.raises(UsageError, match="All these cases taught this site's networks, so none of them can judge"):
        judged(learned=["one", "two", "three"], folds=False)


def test_scores_on_cases_that_the_decoder_learned_from_are_marked_as_too_good(judged):
    names, held_out, remark = judged(fold="all", learned=["one"], uploaded=["two"])
    assert (names, held_out) == (["one", "three", "two"], False)
    assert "Of these 3 cases 1 were uploaded for training and 1 taught this site's networks: the scores" in remark
