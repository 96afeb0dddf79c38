"""The section *Task and consortium* of the tab *Site*: founding, inviting and joining, against a real server."""

import json

import pytest

from ppcmi import consortium, sealing
from slicer_module.site_tab import choose, click, folded, opened_site_tab, reason, said, title
from support.trained_site import TASK_FILE


@pytest.fixture
def a_task(a_server, tmp_path, names):
    """Name of a task that nobody has founded."""
    name = names("task").replace(" ", "-")
    file = tmp_path / "task.json"
    file.write_text(json.dumps({**json.loads(TASK_FILE.read_text()), "name": name, "title": name}))
    a_server.command("task", "add", str(file))
    return name


@pytest.fixture
def two_sites(enrol_elsewhere, names):
    """Two enrolled sites, the founder to be and the member to be."""
    return enrol_elsewhere(names("Founder")), enrol_elsewhere(names("Member"))


def test_a_site_founds_a_consortium_after_being_asked(two_sites, a_task, slicer_host, monkeypatch):
    founder, _member = two_sites
    panel = opened_site_tab(slicer_host, founder.folder, monkeypatch)
    section = panel.consortium
    choose(section, a_task)
    assert section.ui.stateLabel.text == "Nobody has founded it yet."
    assert not section.ui.foundGroup.isHidden()
    assert section.ui.joinGroup.isHidden()
    assert section.ui.inviteGroup.isHidden()
    assert reason(panel, "training") == "First found or join a task's consortium."
    slicer_host.dialogs.answer("cancel", "ok")
    click(slicer_host, panel, section.ui.foundButton)
    assert not founder.takes_part_in(a_task)
    click(slicer_host, panel, section.ui.foundButton)
    assert founder.task(a_task).membership.founder
    assert founder.task(a_task).membership.scope == "consortium"
    assert "Founded." in said(section)
    assert section.ui.stateLabel.text.startswith("This site founded it. Members share one codec and key.")
    assert section.ui.foundGroup.isHidden()
    assert title(panel, "consortium").endswith(founder.task(a_task).task.title)
    assert not folded(panel, "training")


def test_a_member_invites_a_site_whose_fingerprint_it_was_shown(two_sites, a_task, slicer_host, monkeypatch):
    founder, member = two_sites
    consortium.create(founder, founder.client(), a_task, "consortium", "two-layer")
    panel = opened_site_tab(slicer_host, founder.folder, monkeypatch)
    section = panel.consortium
    choose(section, a_task)
    assert not section.ui.inviteButton.enabled
    section.ui.siteNameLineEdit.text = "Nobody of that name"
    click(slicer_host, panel, section.ui.inviteButton)
    assert said(section).startswith("No site of that name has enrolled")
    slicer_host.dialogs.answer("cancel", "ok")
    section.ui.siteNameLineEdit.text = member.identity.site_name
    click(slicer_host, panel, section.ui.inviteButton)
    assert sealing.fingerprint(member.public_key) in slicer_host.dialogs.texts[-1]
    with pytest.raises(consortium.NotInvitedError):
        consortium.find_inviter(member.client(), a_task)
    click(slicer_host, panel, section.ui.inviteButton)
    assert "Invited." in said(section)
    assert grouped(consortium.inner_check_of(founder.task(a_task))) in said(section)
    assert consortium.find_inviter(member.client(), a_task).site_name == founder.identity.site_name


def test_a_site_joins_whom_it_was_shown_and_not_without_an_invitation(two_sites, a_task, slicer_host, monkeypatch):
    founder, member = two_sites
    part = consortium.create(founder, founder.client(), a_task, "consortium", "two-layer")
    panel = opened_site_tab(slicer_host, member.folder, monkeypatch)
    section = panel.consortium
    choose(section, a_task)
    assert section.ui.stateLabel.text.startswith(
        f"{founder.identity.site_name} founded it; this site is no member yet."
    )
    click(slicer_host, panel, section.ui.joinButton)
    assert said(section).startswith(f"Nobody has invited this site yet. Call {founder.identity.site_name}, and tell")
    consortium.invite(
        founder, founder.client(), part, consortium.find_peer(founder.client(), member.identity.site_name)
    )
    slicer_host.dialogs.answer("cancel", "ok")
    click(slicer_host, panel, section.ui.joinButton)
    question = slicer_host.dialogs.texts[-1]
    assert sealing.fingerprint(founder.public_key) in question
    assert sealing.fingerprint(member.public_key) in question
    assert "colludes with the server" in question
    assert not member.takes_part_in(a_task)
    click(slicer_host, panel, section.ui.joinButton)
    assert member.task(a_task).inner_key == part.inner_key
    assert grouped(consortium.inner_check_of(part)) in said(section)
    assert section.ui.stateLabel.text.startswith(f"{founder.identity.site_name} founded it, and this site is a member.")


def grouped(check):
    return "-".join(check[start : start + 4] for start in range(0, len(check), 4))


def test_a_task_that_another_site_founded_meanwhile_is_refused_and_leaves_nothing(
    two_sites, a_task, slicer_host, monkeypatch
):
    site, quick = two_sites
    panel = opened_site_tab(slicer_host, site.folder, monkeypatch)
    section = panel.consortium
    choose(section, a_task)
    section.ui.scopeSelector.currentIndex = section.ui.scopeSelector.findData("site")
    consortium.create(quick, quick.client(), a_task, "site", "two-layer")
    slicer_host.dialogs.answer("ok")
    click(slicer_host, panel, section.ui.foundButton)
    assert said(section) == "The task has a consortium; have one of its members invite you."
    assert not site.takes_part_in(a_task)
    click(slicer_host, panel, section.ui.refreshButton)
    assert section.ui.stateLabel.text.startswith(
        f"{quick.identity.site_name} founded it; this site is no member yet. Every site has its own"
    )


def test_a_server_that_does_not_answer_leaves_the_tab_usable(a_site_s_tab, slicer_host):
    folder = a_site_s_tab.connection.context.site.folder
    document = json.loads((folder / "site.json").read_text())
    (folder / "site.json").write_text(json.dumps({**document, "server_url": "http://127.0.0.1:9"}))
    click(slicer_host, a_site_s_tab, a_site_s_tab.consortium.ui.refreshButton)
    assert "cannot be reached" in said(a_site_s_tab.consortium)
    (folder / "site.json").write_text(json.dumps(document))
    click(slicer_host, a_site_s_tab, a_site_s_tab.consortium.ui.refreshButton)
    assert said(a_site_s_tab.consortium) == ""
