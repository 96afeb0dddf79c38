"""The section *Profile file* of the tab *Site*: a profile travels under a passphrase, and nothing is overwritten."""

import os
import stat

from ppcmi.site import SiteProfile
from slicer_module.site_tab import PASSPHRASE, click, opened_site_tab, said, title, typed


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


def test_nobody_sees_a_passphrase_that_is_typed(an_empty_tab):
    import qt

    for line in (an_empty_tab.profileFile.ui.passphraseLineEdit, an_empty_tab.profileFile.ui.againLineEdit):
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
