"""The panel *Site*: what a new site needs, in order; what is done folds, what cannot be done yet says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _

from PPCMISegmentLib.ConnectionSection import ConnectionSection
from PPCMISegmentLib.ConsortiumSection import ConsortiumSection
from PPCMISegmentLib.Dependencies import Dependencies
from PPCMISegmentLib.PackagesSection import PackagesSection
from PPCMISegmentLib.ProfileSection import ProfileSection
from PPCMISegmentLib.SegmentLogic import SegmentLogic
from PPCMISegmentLib.Settings import Settings
from PPCMISegmentLib.SiteAccess import SiteAccess
from PPCMISegmentLib.SiteSection import SiteContext, SiteSection
from PPCMISegmentLib.TrainingSection import TrainingSection

IN_ORDER = ("packages", "server", "consortium", "training")
"""Sections that a site needs one after the other."""

LONGEST_SUMMARY = 32


class SitePanel:
    """The sections, and what one means for the others.

    :param resourcePath: the module's own.
    :param site: where the site profile is, or will be.
    """

    def __init__(
        self, resourcePath: Callable[[str], str], site: SiteAccess, logic: SegmentLogic, dependencies: Dependencies
    ) -> None:
        self.widget = slicer.util.loadUI(resourcePath("UI/SitePanel.ui"))
        self.ui = slicer.util.childWidgetVariables(self.widget)
        context = SiteContext(
            resourcePath, site, logic.worker, logic.network, dependencies, Settings(), self._onChanged
        )
        self.packages, self.connection = PackagesSection(context), ConnectionSection(context)
        self.consortium, self.training = ConsortiumSection(context), TrainingSection(context)
        self.profileFile = ProfileSection(context)
        self._sections: dict[str, tuple[SiteSection, str]] = {
            "packages": (self.packages, _("Packages")),
            "server": (self.connection, _("Server")),
            "consortium": (self.consortium, _("Task and consortium")),
            "training": (self.training, _("Codec and decoder")),
            "profile": (self.profileFile, _("Profile file")),
        }
        for key, (section, _title) in self._sections.items():
            getattr(self.ui, f"{key}Contents").layout().addWidget(section.widget)
        self._done: set[str] = set()

    def close(self) -> None:
        """End what is under way."""
        for section, _title in self._sections.values():
            section.close()

    def refresh(self) -> None:
        """Show what is so now; what was done since the last time folds."""
        for section, _title in self._sections.values():
            if section.reasonNotYet() is None:
                section.refresh()
        done = self._showSections()
        for key in done - self._done:
            self._button(key).collapsed = True
        self._done = done
        self._unfoldNext()

    def _onChanged(self, changed: SiteSection) -> None:
        """The other sections follow, and the next one unfolds; none folds under the user's eyes."""
        for section, _title in self._sections.values():
            if section is not changed and section.reasonNotYet() is None:
                section.refresh()
        self._showSections()
        self._unfoldNext()

    def _showSections(self) -> set[str]:
        """Show titles, and what can be used; which sections are done."""
        done = set()
        for key, (section, title) in self._sections.items():
            reason, summary = section.reasonNotYet(), section.summary()
            reasonLabel = getattr(self.ui, f"{key}ReasonLabel")
            reasonLabel.text = reason or ""
            reasonLabel.visible = reason is not None
            section.widget.visible = reason is None
            self._button(key).text = f"{title} \u2013 {_shortened(summary)}" if summary else title
            if summary:
                done.add(key)
        self._button("packages").visible = "packages" not in done
        return done

    def _unfoldNext(self) -> None:
        """Open the first section that can be used and has something to do."""
        for key in IN_ORDER:
            section, _title = self._sections[key]
            if section.reasonNotYet() is None and not section.summary():
                self._button(key).collapsed = False
                return

    def _button(self, key: str) -> Any:
        return getattr(self.ui, f"{key}CollapsibleButton")


def _shortened(text: str) -> str:
    """A title must not make the panel wider."""
    return text if len(text) <= LONGEST_SUMMARY else text[: LONGEST_SUMMARY - 1].rstrip() + "\u2026"
