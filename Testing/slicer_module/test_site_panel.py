"""The tab *Site* as whoever sets up a site uses it: by its widgets, against a real server."""

import json
import logging
import os
import stat

import pytest
import slicer

from ppcmi import consortium, sealing
from ppcmi.site import SiteProfile
from slicer_module.site_tab import choose, click, enrolled, opened_site_tab, said
from support.loopback import Answer, loopback_server, write_certificate
from support.real_server import real_server
from support.trained_site import TASK, TASK_FILE

PASSPHRASE = "four random words here"  # noqa: S105


@pytest.fixture(scope="module")
def a_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server") / "server"
    with real_server(folder, TASK_FILE) as server:
        yield server


@pytest.fixture
def names(request):
    """Names of sites that no other test has taken."""
    return lambda name: f"{name} {abs(hash(request.node.name)) % 10**8}"


@pytest.fixture
def a_tab(slicer_host, tmp_path, monkeypatch):
    """The tab on a workstation without a site."""
    return opened_site_tab(slicer_host, tmp_path / "site", monkeypatch)


@pytest.fixture
def enrol_elsewhere(a_server, tmp_path):
    """Enrols another site, at another workstation."""
    return lambda name: SiteProfile.enrol(tmp_path / name, a_server.url, a_server.add_site(name))


@pytest.fixture
def a_site_s_tab(slicer_host, tmp_path, monkeypatch, enrol_elsewhere, names):
    """The tab of an enrolled site."""
    site = enrol_elsewhere(names("Site"))
    return opened_site_tab(slicer_host, site.folder, monkeypatch)


def title(panel, key):
    return getattr(panel.ui, f"{key}CollapsibleButton").text


def folded(panel, key):
    return getattr(panel.ui, f"{key}CollapsibleButton").collapsed


def reason(panel, key):
    return getattr(panel.ui, f"{key}ReasonLabel").text


# ---- the sections and their order


def test_a_new_workstation_begins_with_the_server_and_the_rest_says_what_comes_first(a_tab):
    assert a_tab.ui.packagesCollapsibleButton.isHidden()
    assert not folded(a_tab, "server")
    assert folded(a_tab, "consortium")
    assert reason(a_tab, "consortium") == "First enrol this site at a server."
    assert reason(a_tab, "training") == "First enrol this site at a server."
    assert a_tab.training.widget.isHidden()


def test_what_is_done_folds_and_its_title_says_what_came_of_it(slicer_host, a_server, enrol_elsewhere, monkeypatch):
    site = enrol_elsewhere("Folding")
    founded = enrol_elsewhere("Folding founder")
    panel = opened_site_tab(slicer_host, site.folder, monkeypatch)
    assert title(panel, "server") == "Server \u2013 Folding"
    assert folded(panel, "server")
    assert not folded(panel, "consortium")
    assert founded.identity.site_name not in title(panel, "server")


def test_missing_packages_come_first_and_hide_once_they_are_there(a_tab, slicer_host):
    class Lacking:
        names = ("torch", "cryptography")

        def missing(self):
            return list(self.names)

        def ensure(self):
            from PPCMISegmentLib.Dependencies import DependencyError

            if len(self.names) == 2:
                self.names = ("cryptography",)
                raise DependencyError("Some packages could not be installed; ask your administrator.")
            self.names = ()

    lacking = Lacking()
    for section in (a_tab.packages, a_tab.connection, a_tab.consortium, a_tab.training, a_tab.profileFile):
        section.context.__dict__["dependencies"] = lacking
    a_tab.refresh()
    assert not a_tab.ui.packagesCollapsibleButton.isHidden()
    assert "torch, cryptography" in a_tab.packages.ui.missingLabel.text
    assert reason(a_tab, "server") == "First install the packages above."
    a_tab.packages.ui.installButton.click()
    assert "administrator" in said(a_tab.packages)
    a_tab.packages.ui.installButton.click()
    assert a_tab.ui.packagesCollapsibleButton.isHidden()
    assert reason(a_tab, "server") == ""


# ---- the connection


def test_the_connection_is_tested_before_there_is_a_site(a_tab, slicer_host, a_server):
    section = a_tab.connection
    assert not section.ui.testButton.enabled
    section.ui.addressLineEdit.text = a_server.url
    click(slicer_host, a_tab, section.ui.testButton)
    assert said(section).startswith("\u25cf The server answers in ")
    assert " ms (version " in said(section)


def test_a_server_that_is_down_cannot_be_reached_and_the_code_stays(a_tab, slicer_host):
    enrolled(slicer_host, a_tab, "http://127.0.0.1:9", "abcd-efgh")
    section = a_tab.connection
    assert said(section) == "\u25cf No connection. The server cannot be reached; check its address and that it runs."
    assert section.ui.codeLineEdit.text == "abcd-efgh"
    click(slicer_host, a_tab, section.ui.testButton)
    assert "No connection." in said(section)


def test_an_address_that_is_none_is_said(a_tab, slicer_host):
    enrolled(slicer_host, a_tab, "http://hospital.example.org", "abcd-efgh")
    assert "must start with https://" in said(a_tab.connection)


@pytest.mark.parametrize(
    ("info", "verdict"),
    [
        ({"service": "another"}, "Not a PPCMI server."),
        ({"service": "ppcmi-server", "version": "9", "protocol": 99}, "Version mismatch."),
    ],
)
def test_other_servers_are_told_apart(a_tab, slicer_host, info, verdict):
    with loopback_server(lambda _request: Answer(200, json.dumps(info).encode())) as server:
        a_tab.connection.ui.addressLineEdit.text = server.url
        click(slicer_host, a_tab, a_tab.connection.ui.testButton)
    assert f"\u25cf {verdict}" in said(a_tab.connection)


def test_what_a_server_writes_is_shown_as_it_is_and_never_as_markup(a_tab, slicer_host):
    info = {"service": "ppcmi-server", "version": "<b>1</b>", "protocol": 1}
    refusal = Answer(401, json.dumps({"title": "t", "type": "urn:ppcmi:problem:unauthorized"}).encode())
    with loopback_server(
        lambda request: Answer(200, json.dumps(info).encode()) if request.path.endswith("info") else refusal
    ) as server:
        a_tab.connection.ui.addressLineEdit.text = server.url
        click(slicer_host, a_tab, a_tab.connection.ui.testButton)
    assert "&lt;b&gt;1&lt;/b&gt;" in a_tab.connection.ui.messageLabel.text


def test_a_certificate_that_nobody_vouches_for_asks_for_the_authority_and_a_wrong_one_is_told(
    a_tab, slicer_host, tmp_path
):
    right, wrong = write_certificate(tmp_path / "right.pem"), write_certificate(tmp_path / "wrong.pem")
    none = tmp_path / "none.pem"
    none.write_text("no certificate")
    section = a_tab.connection
    with loopback_server(lambda _request: Answer(200, b'{"service": "another"}'), right) as server:
        section.ui.addressLineEdit.text = server.url
        click(slicer_host, a_tab, section.ui.testButton)
        assert "Certificate not trusted. Ask the server's operator" in said(section)
        for file in (wrong, none):
            section.ui.caPathLineEdit.currentPath = str(file)
            click(slicer_host, a_tab, section.ui.testButton)
            assert "Certificate not trusted. It was not issued by the authority" in said(section)
        section.ui.caPathLineEdit.currentPath = str(right)
        click(slicer_host, a_tab, section.ui.testButton)
        assert "Not a PPCMI server." in said(section)


# ---- enrolment


def test_a_code_makes_a_site_and_is_forgotten(a_tab, slicer_host, a_server, names):
    name = names("New")
    code = a_server.add_site(name)
    enrolled(slicer_host, a_tab, a_server.url, code)
    section = a_tab.connection
    site = SiteProfile.open(section.context.site.folder)
    assert said(section).startswith("\u25cf Enrolled.")
    assert section.ui.codeLineEdit.text == ""
    assert section.ui.enrolWidget.isHidden()
    assert section.ui.siteNameLabel.text == name
    assert sealing.fingerprint(site.public_key) in section.ui.fingerprintLabel.text
    assert sealing.fingerprint(site.identity.server_public_key) in section.ui.serverFingerprintLabel.text
    assert not folded(a_tab, "server")  # the fingerprints are to be compared
    assert not folded(a_tab, "consortium")
    click(slicer_host, a_tab, section.ui.testButton)
    assert "Ready. The server answers in " in said(section)
    assert f"knows {name}." in said(section)


@pytest.mark.parametrize("used", [False, True])
def test_a_code_that_is_wrong_or_used_is_refused_and_cleared(a_tab, slicer_host, a_server, enrol_elsewhere, used):
    code = "abcd-efgh-jkmn-pqrs-tuvw"
    if used:
        code = a_server.add_site("Used up")
        SiteProfile.enrol(a_tab.connection.context.site.folder.with_name("first"), a_server.url, code)
    enrolled(slicer_host, a_tab, a_server.url, code)
    section = a_tab.connection
    assert said(section) == "The enrolment code is not valid, or no longer; ask the server's operator for a new one."
    assert section.ui.codeLineEdit.text == ""
    assert not section.context.site.isSetUp


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_said_before_the_code_is_spent(slicer_host, a_server, tmp_path, monkeypatch):
    tmp_path.chmod(0o500)
    panel = opened_site_tab(slicer_host, tmp_path / "site", monkeypatch)
    code = a_server.add_site("Full disk")
    enrolled(slicer_host, panel, a_server.url, code)
    assert "cannot be made" in said(panel.connection)
    tmp_path.chmod(0o700)
    enrolled(slicer_host, panel, a_server.url, code)
    assert "Enrolled." in said(panel.connection)


def test_a_full_disk_is_said_before_the_code_is_spent(a_tab, slicer_host, a_server, monkeypatch):
    import ppcmi.files

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    code = a_server.add_site("Full disk again")
    with monkeypatch.context() as patched:
        patched.setattr(ppcmi.files.os, "fsync", full)
        enrolled(slicer_host, a_tab, a_server.url, code)
    assert said(a_tab.connection) == "A file cannot be written: No space left on device."
    enrolled(slicer_host, a_tab, a_server.url, code)
    assert "Enrolled." in said(a_tab.connection)


def test_a_site_whose_access_has_ended_can_begin_again_and_loses_nothing(
    a_site_s_tab, slicer_host, a_server, enrol_elsewhere, names
):
    section = a_site_s_tab.connection
    folder = section.context.site.folder
    private_key = SiteProfile.open(folder).private_key
    assert section.ui.setAsideButton.isHidden()
    a_server.command("site", "revoke", names("Site"))
    click(slicer_host, a_site_s_tab, section.ui.testButton)
    assert "Access ended. The server's operator has ended this site's access" in said(section)
    slicer_host.dialogs.answer("cancel", "ok")
    click(slicer_host, a_site_s_tab, section.ui.setAsideButton)
    assert section.context.site.isSetUp
    click(slicer_host, a_site_s_tab, section.ui.setAsideButton)
    assert not section.context.site.isSetUp
    aside = folder.with_name(folder.name + "-set-aside-1")
    assert SiteProfile.open(aside).private_key == private_key
    enrolled(slicer_host, a_site_s_tab, a_server.url, a_server.add_site(names("Again")))
    assert title(a_site_s_tab, "server").endswith(names("Again"))


# ---- the consortium


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


# ---- the profile as a file


def typed(section, passphrase, again):
    section.ui.passphraseLineEdit.text = passphrase
    section.ui.againLineEdit.text = again


def test_a_profile_travels_under_a_passphrase_to_a_workstation_without_one(
    a_site_s_tab, slicer_host, tmp_path, monkeypatch
):
    section, file = a_site_s_tab.profileFile, tmp_path / "profile.ppcmi-site"
    site = SiteProfile.open(section.context.site.folder)
    assert section.ui.importButton.isHidden()
    slicer_host.dialogs.answer(str(file.with_suffix("")))
    typed(section, PASSPHRASE, PASSPHRASE)
    click(slicer_host, a_site_s_tab, section.ui.exportButton)
    assert "Exported." in said(section)
    assert section.ui.passphraseLineEdit.text == section.ui.againLineEdit.text == ""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 or os.name != "posix"
    assert site.private_key not in file.read_bytes()
    slicer_host.unload_module("PPCMISegment")

    other = tmp_path / "other" / "site"
    other.mkdir(parents=True)
    (other / "private.key").write_text("left by an enrolment that failed")
    panel = opened_site_tab(slicer_host, other, monkeypatch)
    section = panel.profileFile
    assert section.ui.exportButton.isHidden()
    assert section.ui.againLineEdit.isHidden()
    section.ui.passphraseLineEdit.text = "another passphrase"
    slicer_host.dialogs.answer(str(file), str(file))
    click(slicer_host, panel, section.ui.importButton)
    assert said(section).startswith("The passphrase is wrong, or the file is damaged")
    assert section.ui.passphraseLineEdit.text == ""
    assert not section.context.site.isSetUp
    section.ui.passphraseLineEdit.text = PASSPHRASE
    click(slicer_host, panel, section.ui.importButton)
    assert said(section) == f"\u25cf Imported. This is {site.identity.site_name} now."
    assert SiteProfile.open(other).private_key == site.private_key
    assert title(panel, "server").endswith(site.identity.site_name)
    assert section.ui.importButton.isHidden()


def test_weak_and_unequal_passphrases_are_told_while_they_are_typed(a_site_s_tab):
    section = a_site_s_tab.profileFile
    assert not section.ui.exportButton.enabled
    for passphrase, again, text in (
        ("short", "short", "at least 12 characters"),
        ("aaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaa", "repeats"),
        (PASSPHRASE, PASSPHRASE[:-1], "the same passphrase again"),
    ):
        typed(section, passphrase, again)
        assert text in section.ui.strengthLabel.text
        assert not section.ui.exportButton.enabled
    typed(section, PASSPHRASE, PASSPHRASE)
    assert section.ui.exportButton.enabled


def test_nobody_sees_a_passphrase_that_is_typed(a_tab):
    import qt

    for line in (a_tab.profileFile.ui.passphraseLineEdit, a_tab.profileFile.ui.againLineEdit):
        assert line.echoMode == qt.QLineEdit.Password


def test_a_file_that_is_there_is_not_overwritten(a_site_s_tab, slicer_host, tmp_path):
    section, file = a_site_s_tab.profileFile, tmp_path / "there.ppcmi-site"
    file.write_text("precious")
    typed(section, PASSPHRASE, PASSPHRASE)
    slicer_host.dialogs.answer(str(file))
    click(slicer_host, a_site_s_tab, section.ui.exportButton)
    assert said(section) == "There is a file of that name already; choose another name."
    assert file.read_text() == "precious"


def test_cancelling_the_file_dialog_changes_nothing(a_site_s_tab, slicer_host):
    section = a_site_s_tab.profileFile
    typed(section, PASSPHRASE, PASSPHRASE)
    slicer_host.dialogs.answer("")
    click(slicer_host, a_site_s_tab, section.ui.exportButton)
    assert section.ui.passphraseLineEdit.text == PASSPHRASE


# ---- secrets


def test_nothing_secret_is_left_in_settings_scene_or_log(
    a_tab, slicer_host, a_server, tmp_path, names, caplog, monkeypatch
):
    import qt

    caplog.set_level(logging.DEBUG)
    code = a_server.add_site(names("Secrets"))
    authority = write_certificate(tmp_path / "authority.pem")
    a_tab.connection.ui.caPathLineEdit.currentPath = str(authority)
    a_tab.connection.ui.addressLineEdit.text = a_server.url
    click(slicer_host, a_tab, a_tab.connection.ui.testButton)
    enrolled(slicer_host, a_tab, a_server.url, code)
    assert "Enrolled." in said(a_tab.connection)
    choose(a_tab.consortium, TASK)
    section = a_tab.profileFile
    typed(section, PASSPHRASE, PASSPHRASE)
    slicer_host.dialogs.answer(str(tmp_path / "out.ppcmi-site"))
    click(slicer_host, a_tab, section.ui.exportButton)
    scene = tmp_path / "scene.mrml"
    slicer.util.saveScene(str(scene))

    site = SiteProfile.open(section.context.site.folder)
    secrets = [code, PASSPHRASE, (site.folder / "token").read_text().strip(), site.private_key.hex()]
    secrets += [(site.folder / "private.key").read_text(), str(tmp_path), a_server.url]
    settings = qt.QSettings()
    kept = {key: str(settings.value(key)) for key in settings.allKeys()}
    places = {"settings": str(kept), "scene": scene.read_text(), "log": caplog.text}
    for place, content in places.items():
        for secret in secrets:
            if place == "scene" and secret == str(tmp_path):
                continue  # Slicer writes where the scene lies
            if place == "log" and secret == a_server.url:
                continue  # it is no secret, and urllib3 logs it where somebody debugs
            assert secret not in content, place
    assert {key for key in kept if key.startswith("PPCMISegment/")} <= {"PPCMISegment/task", "PPCMISegment/device"}


def test_every_control_says_what_it_is_for(a_tab):
    import qt

    kinds = (qt.QAbstractButton, qt.QLineEdit, qt.QComboBox, qt.QTableWidget, qt.QProgressBar)
    for kind in kinds:
        for control in slicer.util.findChildren(a_tab.widget, className=kind.__name__):
            if control.name and not control.name.startswith("qt_"):
                assert control.toolTip, control.name
