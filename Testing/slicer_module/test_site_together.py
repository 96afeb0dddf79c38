"""Learning together in the section *Codec and decoder*: where it is offered, what is asked, run and said."""

import json
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest

from ppcmi import consortium, shared_networks
from ppcmi.codec.trained_network import TrainedNetwork
from ppcmi.consent_log import Answer, ConsentLog
from ppcmi.errors import SiteError
from ppcmi.site import SiteProfile
from ppcmi.what_leaves import NetworkLeaving
from slicer_module.export_panel import add_phantom
from slicer_module.site_tab import UNTRAINED, children, choose, click, command_line, opened_site_tab, said, settled
from support.trained_site import TASK

ROUNDS = 1
"""So short a training has one epoch, and no more rounds than epochs."""
FITTING = 6
"""Labelled cases of fold ``train`` in the site's folder."""


@pytest.fixture
def a_tab(slicer_host, a_copied_site, monkeypatch):
    """The tab, with labelled cases, the shortest training and the task with a codec chosen."""
    panel = opened_site_tab(slicer_host, a_copied_site.folder, monkeypatch)
    ui = panel.training.ui
    ui.lengthSelector.addItem("Tiny", "0.01")
    ui.lengthSelector.currentIndex = ui.lengthSelector.findData("0.01")
    ui.deviceSelector.currentIndex = ui.deviceSelector.findData("cpu")
    ui.casesPathLineEdit.currentPath = str(a_copied_site.cases)
    choose(panel.training, TASK)
    return panel


@pytest.fixture
def a_part(a_copied_site):
    """The site's part in the task."""
    return SiteProfile.open(a_copied_site.folder).task(TASK)


@contextmanager
def member_that_shares(site, a_part, folder, name, **facts):
    """Another member, called ``name``, that shares a network with these ``facts`` as long as this lasts."""
    founder = SiteProfile.open(site.folder)
    member = SiteProfile.enrol(folder / "member", site.server.url, site.server.add_site(name))
    consortium.invite(founder, founder.client(), a_part, consortium.find_peer(founder.client(), name))
    part, _inviter = consortium.join(member, member.client(), TASK)
    codec = consortium.own_codec(a_part)
    network = replace(TrainedNetwork.of(codec.local, codec, 2, last=True), **facts)
    shared_networks.share(member.client(), part, member.identity.site_id, network)
    try:
        yield
    finally:
        member.client().withdraw_network(TASK)


@pytest.fixture
def a_member_s_name(a_copied_site, a_part, tmp_path, names):
    """Of another member, who shares a network as long as the test runs."""
    name = names("Member")
    with member_that_shares(a_copied_site, a_part, tmp_path, name):
        yield name


def sharing(site):
    """Names of the sites that share a network."""
    profile = SiteProfile.open(site.folder)
    return {member.site_name for member in shared_networks.list_shared(profile.client(), profile.task(TASK))}


def commands(alive):
    """The words of every child that is not one of ``alive``."""
    texts = [command_line(pid) for pid in children() - alive]
    return [text.rstrip("\0").split("\0") for text in texts if text]


def words_of_the_child(host, alive):
    """What a command was started with."""
    host.wait_until(lambda: commands(alive), timeout=60)
    (words,) = commands(alive)
    return words[4:]  # without the interpreter and where the package is


def cancelled(host, section, alive):
    """Click on Cancel, and wait for the child's end."""
    section.ui.cancelButton.click()
    host.wait_until(lambda: not children() - alive, timeout=60)


def test_it_is_offered_where_the_members_share_a_codec_and_never_by_itself(
    a_tab, slicer_host, a_copied_site, a_part, monkeypatch
):
    section = a_tab.training
    assert not section.ui.togetherCheckBox.isHidden()
    assert not section.ui.membersRow.isHidden()
    assert section.ui.gatherButton.enabled
    assert section.ui.withdrawNetworkButton.enabled  # another workstation of the site may have shared one
    assert not section.ui.togetherCheckBox.checked
    assert section.ui.waitForSpinBox.isHidden()
    section.ui.togetherCheckBox.checked = True
    assert not section.ui.waitForSpinBox.isHidden()
    section.ui.waitForSpinBox.value = 99
    assert section.ui.waitForSpinBox.value == 20

    choose(section, UNTRAINED)
    assert not section.ui.togetherCheckBox.checked  # another task's members are others
    choose(section, TASK)
    section.ui.togetherCheckBox.checked = True
    slicer_host.unload_module("PPCMISegment")
    section = opened_site_tab(slicer_host, a_copied_site.folder, monkeypatch).training
    assert section.ui.taskSelector.currentData == TASK
    assert not section.ui.togetherCheckBox.checked
    section.ui.togetherCheckBox.checked = True

    file = a_part.folder / "membership.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "scope": "site"}))
    section.refresh()
    assert section.ui.togetherCheckBox.isHidden()
    assert section.ui.waitForSpinBox.isHidden()
    assert section.ui.membersRow.isHidden()


def test_a_site_with_a_codec_of_its_own_refines_alone_whatever_the_box_says(a_tab, slicer_host, a_part):
    section, alive = a_tab.training, children()
    section.ui.togetherCheckBox.checked = True
    file = a_part.folder / "membership.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "scope": "site"}))
    section.refresh()
    section.ui.refineButton.click()
    assert "--together" not in words_of_the_child(slicer_host, alive)
    cancelled(slicer_host, section, alive)
    assert said(section) == "Cancelled; what there was before is as it was."


def test_declining_is_kept_and_nothing_runs(a_tab, slicer_host, a_copied_site, a_part):
    section, alive, before = a_tab.training, children(), sharing(a_copied_site)
    section.ui.togetherCheckBox.checked = True
    slicer_host.dialogs.answer("no")
    click(slicer_host, a_tab, section.ui.refineButton)
    (question,) = slicer_host.dialogs.shown
    assert question.buttons == ("Yes", "No")
    assert f"learns from {FITTING} labelled cases, leaves once for the other members" in question.text
    assert "The server keeps it encrypted and cannot open it. Every member can" in question.text
    assert question.text.endswith("Learn together?")
    assert said(section) == "Nothing was sent, and nothing was trained."
    entry = ConsentLog(a_copied_site.folder).entries()[-1]
    assert (entry.action, entry.answer, entry.what["cases"]) == ("network", "no", FITTING)
    assert children() == alive
    assert not a_part.decoder_path.exists()
    assert sharing(a_copied_site) == before


def test_agreeing_is_kept_before_exactly_that_runs(a_tab, slicer_host, a_copied_site):
    section, alive = a_tab.training, children()
    section.ui.togetherCheckBox.checked = True
    section.ui.waitForSpinBox.value = 3
    slicer_host.dialogs.answer("yes")
    section.ui.refineButton.click()
    words = words_of_the_child(slicer_host, alive)
    entry = ConsentLog(a_copied_site.folder).entries()[-1]
    assert (entry.action, entry.answer, entry.what["rounds"]) == ("network", "yes", ROUNDS)
    assert words[:2] == ["codec", "refine"]
    together = words.index("--together")
    assert words[together : together + 6] == ["--together", "--rounds", str(ROUNDS), "--wait-for", "3", "--agreed"]
    assert words[words.index("--cases") + 1] == str(a_copied_site.cases)
    assert section.ui.membersRow.isHidden()
    cancelled(slicer_host, section, alive)
    assert "until you take it back" in said(section)
    assert not section.ui.membersRow.isHidden()


def test_without_a_log_nothing_runs(a_tab, slicer_host, a_copied_site):
    section, alive = a_tab.training, children()
    (a_copied_site.folder / "consents.jsonl").unlink(missing_ok=True)
    (a_copied_site.folder / "consents.jsonl").mkdir()
    section.ui.togetherCheckBox.checked = True
    slicer_host.dialogs.answer("yes")
    click(slicer_host, a_tab, section.ui.refineButton)
    assert said(section).startswith("The consent log cannot be written")
    assert children() == alive


def test_cases_of_the_scene_are_counted_without_those_set_apart(a_tab, slicer_host, a_copied_site):
    for number in (1, 2, 3, 4):
        add_phantom(a_copied_site, f"phantom_B_{number:02}")
    section = a_tab.training
    section.ui.sourceSelector.currentIndex = section.ui.sourceSelector.findData("scene")
    slicer_host.wait_until(lambda: section.ui.refineButton.enabled, timeout=60)
    section.ui.togetherCheckBox.checked = True
    slicer_host.dialogs.answer("no")
    click(slicer_host, a_tab, section.ui.refineButton)
    assert "learns from 3 labelled cases" in slicer_host.dialogs.texts[-1]


def test_a_folder_with_nothing_to_learn_from_is_said_and_nothing_is_asked(a_tab, slicer_host, tmp_path):
    section = a_tab.training
    (tmp_path / "cases" / "images").mkdir(parents=True)
    (tmp_path / "cases" / "images" / "a.nii.gz").touch()
    section.ui.casesPathLineEdit.currentPath = str(tmp_path / "cases")
    section.ui.togetherCheckBox.checked = True
    click(slicer_host, a_tab, section.ui.refineButton)
    assert said(section).startswith("The folder has no labelled case to learn from")
    assert slicer_host.dialogs.shown == []


def test_two_sites_learn_together_and_one_takes_its_network_back(
    a_tab, slicer_host, a_copied_site, a_part, a_member_s_name
):
    section, own = a_tab.training, SiteProfile.open(a_copied_site.folder).identity.site_name
    section.ui.togetherCheckBox.checked = True
    slicer_host.dialogs.answer("yes")
    click(slicer_host, a_tab, section.ui.refineButton)
    assert said(section).startswith("\u25cf Done."), said(section)
    assert f"with {a_member_s_name}: on its validation cases Dice 0." in said(section)
    assert a_part.decoder_path.exists()
    assert sharing(a_copied_site) == {own, a_member_s_name}
    assert ConsentLog(a_copied_site.folder).entries()[-1].what["bytes"] == a_part.network_path.stat().st_size

    slicer_host.dialogs.answer("cancel", "ok")
    click(slicer_host, a_tab, section.ui.withdrawNetworkButton)
    assert sharing(a_copied_site) == {own, a_member_s_name}
    click(slicer_host, a_tab, section.ui.withdrawNetworkButton)
    assert "The server no longer has this site's network." in said(section), said(section)
    assert "Members that have it keep it" in slicer_host.dialogs.texts[-1]
    assert sharing(a_copied_site) == {a_member_s_name}


def test_a_member_without_cases_takes_the_members_networks(a_tab, slicer_host, a_copied_site, a_part, a_member_s_name):
    section = a_tab.training
    section.ui.casesPathLineEdit.currentPath = ""
    assert not section.ui.refineButton.enabled
    click(slicer_host, a_tab, section.ui.gatherButton)
    assert f"This site's decoder has the network of {a_member_s_name}." in said(section), said(section)
    assert "Next:" not in said(section)
    assert a_part.decoder_path.exists()
    assert section.ui.stateLabel.text.endswith("a decoder of this site's own.")
    assert slicer_host.dialogs.shown == []
    assert a_member_s_name in sharing(a_copied_site)


def test_a_decoder_of_the_site_s_own_is_not_replaced_without_asking(
    a_tab, slicer_host, a_copied_site, a_part, a_member_s_name
):
    a_part.decoder_path.write_bytes(b"refined before")
    slicer_host.dialogs.answer("cancel", "ok")
    click(slicer_host, a_tab, a_tab.training.ui.gatherButton)
    assert a_part.decoder_path.read_bytes() == b"refined before"
    click(slicer_host, a_tab, a_tab.training.ui.gatherButton)
    assert "This site has a decoder of its own." in slicer_host.dialogs.texts[-1]
    assert a_part.decoder_path.read_bytes() != b"refined before"


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"last": False}, "its training is under way, or was cut off"),
        ({"mixes": False}, "at its site the mean with others was worse"),
    ],
)
def test_networks_that_would_spoil_the_mean_are_not_taken(a_copied_site, a_part, tmp_path, names, facts, sentence):
    with member_that_shares(a_copied_site, a_part, tmp_path, names("Member"), **facts):
        command = (sys.executable, "-m", "ppcmi", "network", "gather", "--task", TASK, "--site", a_copied_site.folder)
        done = a_copied_site.run(*command)
        assert done.returncode == SiteError.exit_code
        assert sentence in done.stderr
        assert not a_part.decoder_path.exists()


def test_nobody_s_networks_are_said_to_be_nobody_s(a_tab, slicer_host, a_part):
    click(slicer_host, a_tab, a_tab.training.ui.gatherButton)
    assert said(a_tab.training).startswith("No other member shares a network")
    assert not a_part.decoder_path.exists()


def test_the_log_of_answers_reads_well_in_the_panel_and_on_the_command_line(a_tab, a_copied_site, a_part):
    from PPCMISegmentLib.Consent import ConsentQuestion
    from PPCMISegmentLib.SiteAccess import SiteAccess

    ConsentLog(a_copied_site.folder).record_network(NetworkLeaving(a_part.task.identity, 1, 12, 5_908_136), Answer.YES)
    line = ConsentQuestion(SiteAccess(a_copied_site.folder)).lastEntries().splitlines()[0]
    assert line.endswith(f"agreed: learn together, {a_part.task.identity}, 1 case, 12 rounds, 5.9 MB each")
    out = a_copied_site.command("site", "consents")
    assert "1 case, 12 rounds, 5.9 MB each" in out
    assert "slices, profile coarse" in out  # the export of before
    assert "None" not in out


def test_a_network_that_left_does_not_stand_for_a_privacy_check(a_tab, slicer_host, a_copied_site):
    from PPCMISegmentLib.Consent import ConsentQuestion
    from PPCMISegmentLib.SiteAccess import SiteAccess

    part = SiteProfile.open(a_copied_site.folder).task(UNTRAINED)
    ConsentLog(a_copied_site.folder).record_network(NetworkLeaving(part.task.identity, 2, 12, 1000), Answer.YES)
    slicer_host.dialogs.answer("no")
    ConsentQuestion(SiteAccess(a_copied_site.folder)).wantsPrivacyCheck(part, "coarse")
    assert "No privacy check was made for this task yet" in slicer_host.dialogs.texts[-1]


def test_cancelling_while_it_looks_at_what_would_leave_asks_nothing(a_tab, slicer_host):
    section = a_tab.training
    section.ui.togetherCheckBox.checked = True
    section.ui.refineButton.click()
    section.ui.cancelButton.click()
    settled(slicer_host, a_tab)
    assert slicer_host.dialogs.shown == []
