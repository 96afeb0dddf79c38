"""Opening the tab *Site* in the host, and what tests do with its sections again and again."""

import re
from contextlib import suppress
from html import unescape
from pathlib import Path

from slicer_module.panel import MODULE
from support.trained_site import TASK

UNTRAINED = "phantom-untrained"
"""A task that the site has founded and has no codec for. A structure of it is in no case, so none passes for good."""

ABSENT = "Absent structure"

PASSPHRASE = "four random words here"  # noqa: S105


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


def children():
    """Processes that this one has started and that live."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread may end while we look
            found += (task / "children").read_text().split()
    return {pid for pid in found if command_line(pid)}


def command_line(pid):
    """Of a process; empty if it has ended, whether or not anybody waited for it."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def validations(site):
    """What was reported for the only model, with the moment; a site has one report, its newest."""
    (model,) = site.client().models(TASK)
    return model["validations"]


def title(panel, key):
    """Of a section."""
    return getattr(panel.ui, f"{key}CollapsibleButton").text


def typed(section, passphrase, again):
    """Type a passphrase twice."""
    section.ui.passphraseLineEdit.text = passphrase
    section.ui.againLineEdit.text = again


def folded(panel, key):
    """Whether a section is."""
    return getattr(panel.ui, f"{key}CollapsibleButton").collapsed


def reason(panel, key):
    """Why a section cannot be used yet."""
    return getattr(panel.ui, f"{key}ReasonLabel").text
