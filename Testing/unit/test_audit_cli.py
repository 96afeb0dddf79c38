"""``ppcmi audit``: what it refuses and why, and one small check from files to report, all on this machine."""

import json
import os
import stat
from dataclasses import replace

import pytest

from ppcmi.audit.document import AuditReport
from ppcmi.cli import audit
from ppcmi.cli.main import main
from ppcmi.codec.codec import Codec
from ppcmi.phantoms import write_phantom_folder
from ppcmi.privacy_check import read_check
from ppcmi.privacy_words import (
    DICE_IN_WORDS,
    QUICK_IN_WORDS,
    unseen_in_words,
)
from ppcmi.task import load_task, task_to_json
from ppcmi.task_profile import Membership
from support.relay import relay_for
from support.trained_site import TASK_FILE

CASES_A_SITE = 3


def small_task():
    """The phantoms, without neighbor slices."""
    task = load_task(TASK_FILE)
    return replace(task, slicing=replace(task.slicing, neighbors=0))


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Nine phantoms, and whose each is: eight patients."""
    folder = tmp_path_factory.mktemp("cases") / "cases"
    write_phantom_folder(folder, cases_per_site=CASES_A_SITE, seed=1)
    names = sorted(path.name.partition(".")[0] for path in (folder / "images").iterdir())
    rows = [f"{name},{min(number, 7)}" for number, name in enumerate(names)]
    (folder / "split.csv").write_text("\n".join(["id,who", *rows]))
    return folder


@pytest.fixture
def a_site(tmp_path):
    """A site that has founded a task and has no codec; its server has ended."""
    with relay_for(task_to_json(small_task())) as relay:
        site = relay.enrol(tmp_path, "A")
    site.add_task(small_task(), Membership("consortium", "two-layer", founder=True), bytes(32))
    return site


@pytest.fixture
def run(a_site, cases, tmp_path, capsys):
    """Runs the command; exit code, stdout and stderr."""

    def command(*words, folder=cases):
        usual = ("--task", "phantom", "--cases", folder, "-o", tmp_path / "check", "--site", a_site.folder)
        code = main(["audit", *map(str, (*usual, "--device", "cpu", "--quiet", *words))])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def test_without_a_codec_there_is_nothing_to_check(run):
    code, _, err = run()
    assert code == 9
    assert len(err.splitlines()) == 1


def test_a_task_of_another_mode_is_refused(run, a_site):
    path = a_site.folder / "tasks" / "phantom" / "membership.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "mode": "paper"}))
    code, _, err = run()
    assert code == 15
    assert "no privacy check for this method" in err


def test_without_its_packages_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setattr(audit, "PACKAGES", ("skimage", "a_package_that_nobody_has"))
    code, _, err = run()
    assert code == 10
    assert "scikit-image, scikit-learn and torchmetrics" in err
    assert "pip install 'ppcmi[audit]'" in err


@pytest.fixture
def with_codec(a_site):
    """The site with a codec that was never trained: numbers mean nothing then, and controls fail."""
    Codec(small_task(), "autoencoder").save(a_site.task("phantom").codec_path)


def test_a_codec_of_a_method_to_compare_with_is_named_as_that(run, a_site):
    Codec(small_task(), "privacy-sf").save(a_site.task("phantom").codec_path)
    code, _, err = run()
    assert (code, "presets minimized and autoencoder" in err) == (15, True)


@pytest.mark.usefixtures("with_codec")
def test_what_cannot_be_checked_is_said_in_one_line(run, cases, tmp_path):
    assert run("--patients", "mother")[0] == 15
    code, _, err = run("--where", "who=1")
    assert (code, "at least 6 patients" in err) == (15, True)
    (tmp_path / "images").symlink_to(cases / "images")
    code, _, err = run(folder=tmp_path)
    assert (code, "labelled" in err) == (15, True)
    assert run("--profiles", "paper")[0] == 2


@pytest.mark.usefixtures("with_codec")
def test_a_check_from_files_to_report_needs_no_server_and_leaves_numbers_at_the_site(run, a_site, tmp_path):
    code, out, err = run(
        "--profiles", "minimal", "--patients", "who", "--effort", "0.05", "--events", "--picture-events"
    )
    events = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert code == 15
    assert "A control did not hold" in events[-1]["text"]  # which is said, and keeps no file back
    report = AuditReport.from_json((tmp_path / "check" / "audit.json").read_text())
    assert [row.profile for row in report.profiles] == ["minimal"]
    assert (report.config["patients"], report.config["cases"]) == (8, 9)
    page = (tmp_path / "check" / "report.html").read_text()
    assert f"{report.profiles[0].best_ssim:.2f}" in page
    assert "data:image/png" in page
    assert "The attackers were held short." in page
    assert "A control did not hold." in page
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "check" / "report.html").stat().st_mode) == 0o600
    kept = read_check(a_site.folder, a_site.task("phantom"))
    assert kept.of_profile("minimal").best_ssim == report.profiles[0].best_ssim
    assert not kept.controls_hold
    assert {path.name for path in (tmp_path / "check").iterdir()} == {"audit.json", "report.html"}
    assert (kept.attacked, kept.patients, kept.unseen) == (2, 8, False)
    texts = [event.get("text", "") for event in events]
    for said in (QUICK_IN_WORDS, "Only 2 patients were attacked", DICE_IN_WORDS, unseen_in_words(False)):
        assert any(said in text for text in texts)
    (shown,) = [event for event in events if event["event"] == "privacy"]
    assert shown["name"] == kept.name
    pictures = [event for event in events if event["event"] == "pictures"]
    assert pictures
    assert [name for name, _ in pictures[0]["pictures"]][:2] == ["slice", "leaving"]
    said = json.dumps([event for event in events if event["event"] != "pictures"])
    assert "phantom_" not in said.replace('"phantom_', "")
    assert str(tmp_path) not in said
    assert any("Nothing was sent." in event.get("text", "") for event in events)
