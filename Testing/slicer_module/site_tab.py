"""Opening the tab *Site* in the host, and what tests do with its sections again and again."""

import re
from html import unescape

from slicer_module.panel import MODULE


def opened_site_tab(host, folder, monkeypatch):
    """The panel with the site profile in ``folder``, which need not exist, once the server has answered or not."""
    monkeypatch.setenv("PPCMI_SITE_DIR", str(folder))
    widget = host.load_module(MODULE).widget
    tabs = widget.ui.panelsTabWidget
    tabs.currentIndex = list(widget.panels).index("Site")
    settled(host, widget.sitePanel)
    return widget.sitePanel


def settled(host, panel):
    """Wait until no section works."""
    sections = (panel.connection, panel.consortium, panel.training, panel.profileFile)
    host.wait_until(lambda: not any(section.busy for section in sections), timeout=120)


def click(host, panel, button):
    """Click, and wait for what comes of it."""
    assert button.enabled, button.toolTip
    assert not button.isHidden()
    button.click()
    settled(host, panel)


def said(section):
    """What a section's line of messages reads."""
    return unescape(re.sub(r"<[^>]+>", "", section.ui.messageLabel.text)).strip()


def enrolled(host, panel, server, code, ca_file=""):
    """Type address and code, and click on *Enrol*."""
    section = panel.connection
    section.ui.addressLineEdit.text = server
    section.ui.codeLineEdit.text = code
    section.ui.caPathLineEdit.currentPath = str(ca_file)
    click(host, panel, section.ui.enrolButton)


def choose(section, task):
    """Choose a task by its name."""
    section.ui.taskSelector.currentIndex = section.ui.taskSelector.findData(task)
