"""The tab *Site* as whoever sets up a site uses it: by its widgets, against a real server."""

import hashlib
import json
import logging
import os
import ssl

import pytest
import slicer

from ppcmi import sealing
from ppcmi.site import SiteProfile
from slicer_module.site_tab import (
    PASSPHRASE,
    choose,
    click,
    enrolled,
    folded,
    opened_site_tab,
    reason,
    said,
    title,
    typed,
)
from support.loopback import Answer, loopback_server, write_certificate
from support.trained_site import TASK

# ---- the sections and their order


def test_a_new_workstation_begins_with_the_server_and_the_rest_says_what_comes_first(an_empty_tab):
    assert an_empty_tab.ui.packagesCollapsibleButton.isHidden()
    assert not folded(an_empty_tab, "server")
    assert folded(an_empty_tab, "consortium")
    assert reason(an_empty_tab, "consortium") == "First enrol this site at a server."
    assert reason(an_empty_tab, "training") == "First enrol this site at a server."
    assert an_empty_tab.training.widget.isHidden()


def test_what_is_done_folds_and_its_title_says_what_came_of_it(slicer_host, a_server, enrol_elsewhere, monkeypatch):
    site = enrol_elsewhere("Folding")
    founded = enrol_elsewhere("Folding founder")
    panel = opened_site_tab(slicer_host, site.folder, monkeypatch)
    assert title(panel, "server") == "Server \u2013 Folding"
    assert folded(panel, "server")
    assert not folded(panel, "consortium")
    assert founded.identity.site_name not in title(panel, "server")


def test_missing_packages_come_first_and_hide_once_they_are_there(an_empty_tab, slicer_host):
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
    for section in (
        an_empty_tab.packages,
        an_empty_tab.connection,
        an_empty_tab.consortium,
        an_empty_tab.training,
        an_empty_tab.profileFile,
    ):
        section.context.__dict__["dependencies"] = lacking
    an_empty_tab.refresh()
    assert not an_empty_tab.ui.packagesCollapsibleButton.isHidden()
    assert "torch, cryptography" in an_empty_tab.packages.ui.missingLabel.text
    assert reason(an_empty_tab, "server") == "First install the packages above."
    an_empty_tab.packages.ui.installButton.click()
    assert "administrator" in said(an_empty_tab.packages)
    an_empty_tab.packages.ui.installButton.click()
    assert an_empty_tab.ui.packagesCollapsibleButton.isHidden()
    assert reason(an_empty_tab, "server") == ""


# ---- the connection


def test_the_connection_is_tested_before_there_is_a_site(an_empty_tab, slicer_host, a_server):
    section = an_empty_tab.connection
    assert not section.ui.testButton.enabled
    section.ui.addressLineEdit.text = a_server.url
    click(slicer_host, an_empty_tab, section.ui.testButton)
    assert said(section).startswith("\u25cf The server answers in ")
    assert " ms (version " in said(section)


def test_a_server_that_is_down_cannot_be_reached_and_the_code_stays(an_empty_tab, slicer_host):
    enrolled(slicer_host, an_empty_tab, "http://127.0.0.1:9", "abcd-efgh")
    section = an_empty_tab.connection
    assert said(section) == "\u25cf No connection. The server cannot be reached; check its address and that it runs."
    assert section.ui.codeLineEdit.text == "abcd-efgh"
    click(slicer_host, an_empty_tab, section.ui.testButton)
    assert "No connection." in said(section)


def test_an_address_that_is_none_is_said(an_empty_tab, slicer_host):
    enrolled(slicer_host, an_empty_tab, "http://hospital.example.org", "abcd-efgh")
    assert "must start with https://" in said(an_empty_tab.connection)


@pytest.mark.parametrize(
    ("info", "verdict"),
    [
        ({"service": "another"}, "Not a PPCMI server."),
        ({"service": "ppcmi-server", "version": "9", "protocol": 99}, "Version mismatch."),
    ],
)
def test_other_servers_are_told_apart(an_empty_tab, slicer_host, info, verdict):
    with loopback_server(lambda _request: Answer(200, json.dumps(info).encode())) as server:
        an_empty_tab.connection.ui.addressLineEdit.text = server.url
        click(slicer_host, an_empty_tab, an_empty_tab.connection.ui.testButton)
    assert f"\u25cf {verdict}" in said(an_empty_tab.connection)


def test_what_a_server_writes_is_shown_as_it_is_and_never_as_markup(an_empty_tab, slicer_host):
    info = {"service": "ppcmi-server", "version": "<b>1</b>", "protocol": 1}
    refusal = Answer(401, json.dumps({"title": "t", "type": "urn:ppcmi:problem:unauthorized"}).encode())
    with loopback_server(
        lambda request: Answer(200, json.dumps(info).encode()) if request.path.endswith("info") else refusal
    ) as server:
        an_empty_tab.connection.ui.addressLineEdit.text = server.url
        click(slicer_host, an_empty_tab, an_empty_tab.connection.ui.testButton)
    assert "&lt;b&gt;1&lt;/b&gt;" in an_empty_tab.connection.ui.messageLabel.text


def test_a_certificate_that_nobody_vouches_for_asks_for_the_authority_and_a_wrong_one_is_told(
    an_empty_tab, slicer_host, tmp_path
):
    right, wrong = write_certificate(tmp_path / "right.pem"), write_certificate(tmp_path / "wrong.pem")
    none = tmp_path / "none.pem"
    none.write_text("no certificate")
    section = an_empty_tab.connection
    with loopback_server(lambda _request: Answer(200, b'{"service": "another"}'), right) as server:
        section.ui.addressLineEdit.text = server.url
        click(slicer_host, an_empty_tab, section.ui.testButton)
        assert "Certificate not trusted. Ask the server's operator" in said(section)
        for file in (wrong, none):
            section.ui.caPathLineEdit.currentPath = str(file)
            click(slicer_host, an_empty_tab, section.ui.testButton)
            assert "Certificate not trusted. It was not issued by the authority" in said(section)
        section.ui.caPathLineEdit.currentPath = str(right)
        click(slicer_host, an_empty_tab, section.ui.testButton)
        assert "Not a PPCMI server." in said(section)


def sha256_of(certificate):
    pem = certificate.read_text()
    begin, end = pem.index(ssl.PEM_HEADER), pem.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem[begin:end])).hexdigest()


def test_a_server_without_an_authority_is_trusted_by_the_pin_of_its_certificate_alone(
    an_empty_tab, slicer_host, tmp_path
):
    certificate, another = write_certificate(tmp_path / "right.pem"), write_certificate(tmp_path / "another.pem")
    section = an_empty_tab.connection
    with loopback_server(lambda _request: Answer(200, b'{"service": "another"}'), certificate) as server:
        section.ui.addressLineEdit.text = server.url
        for pin, verdict in (
            (sha256_of(certificate), "Not a PPCMI server."),
            (sha256_of(another), "Certificate not trusted. It is not the one of the pin above"),
            ("abc", "64 hex digits"),
        ):
            section.ui.pinLineEdit.text = pin
            click(slicer_host, an_empty_tab, section.ui.testButton)
            assert verdict in said(section)
        section.ui.pinLineEdit.text = sha256_of(certificate)
        section.ui.caPathLineEdit.currentPath = str(certificate)
        click(slicer_host, an_empty_tab, section.ui.testButton)
        assert "do not go together" in said(section)


# ---- enrolment


def test_a_code_makes_a_site_and_is_forgotten(an_empty_tab, slicer_host, a_server, names):
    name = names("New")
    code = a_server.add_site(name)
    enrolled(slicer_host, an_empty_tab, a_server.url, code)
    section = an_empty_tab.connection
    site = SiteProfile.open(section.context.site.folder)
    assert said(section).startswith("\u25cf Enrolled.")
    assert section.ui.codeLineEdit.text == ""
    assert section.ui.enrolWidget.isHidden()
    assert section.ui.siteNameLabel.text == name
    assert sealing.fingerprint(site.public_key) in section.ui.fingerprintLabel.text
    assert sealing.fingerprint(site.identity.server_public_key) in section.ui.serverFingerprintLabel.text
    assert not folded(an_empty_tab, "server")  # the fingerprints are to be compared
    assert not folded(an_empty_tab, "consortium")
    click(slicer_host, an_empty_tab, section.ui.testButton)
    assert "Ready. The server answers in " in said(section)
    assert f"knows {name}." in said(section)


@pytest.mark.parametrize("used", [False, True])
def test_a_code_that_is_wrong_or_used_is_refused_and_cleared(
    an_empty_tab, slicer_host, a_server, enrol_elsewhere, used
):
    code = "abcd-efgh-jkmn-pqrs-tuvw"
    if used:
        code = a_server.add_site("Used up")
        SiteProfile.enrol(an_empty_tab.connection.context.site.folder.with_name("first"), a_server.url, code)
    enrolled(slicer_host, an_empty_tab, a_server.url, code)
    section = an_empty_tab.connection
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


def test_a_full_disk_is_said_before_the_code_is_spent(an_empty_tab, slicer_host, a_server, monkeypatch):
    import ppcmi.files

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    code = a_server.add_site("Full disk again")
    with monkeypatch.context() as patched:
        patched.setattr(ppcmi.files.os, "fsync", full)
        enrolled(slicer_host, an_empty_tab, a_server.url, code)
    assert said(an_empty_tab.connection) == "A file cannot be written: No space left on device."
    enrolled(slicer_host, an_empty_tab, a_server.url, code)
    assert "Enrolled." in said(an_empty_tab.connection)


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


# ---- secrets


def test_nothing_secret_is_left_in_settings_scene_or_log(
    an_empty_tab, slicer_host, a_server, tmp_path, names, caplog, monkeypatch
):
    import qt

    caplog.set_level(logging.DEBUG)
    code = a_server.add_site(names("Secrets"))
    authority = write_certificate(tmp_path / "authority.pem")
    an_empty_tab.connection.ui.caPathLineEdit.currentPath = str(authority)
    an_empty_tab.connection.ui.addressLineEdit.text = a_server.url
    click(slicer_host, an_empty_tab, an_empty_tab.connection.ui.testButton)
    enrolled(slicer_host, an_empty_tab, a_server.url, code)
    assert "Enrolled." in said(an_empty_tab.connection)
    choose(an_empty_tab.consortium, TASK)
    section = an_empty_tab.profileFile
    typed(section, PASSPHRASE, PASSPHRASE)
    slicer_host.dialogs.answer(str(tmp_path / "out.ppcmi-site"))
    click(slicer_host, an_empty_tab, section.ui.exportButton)
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


def test_every_control_says_what_it_is_for(an_empty_tab):
    import qt

    kinds = (qt.QAbstractButton, qt.QLineEdit, qt.QComboBox, qt.QTableWidget, qt.QProgressBar)
    for kind in kinds:
        for control in slicer.util.findChildren(an_empty_tab.widget, className=kind.__name__):
            if control.name and not control.name.startswith("qt_"):
                assert control.toolTip, control.name
