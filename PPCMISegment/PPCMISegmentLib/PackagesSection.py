"""Tab *Site*, section *Packages*: Python packages that are missing, installed after asking."""

from __future__ import annotations

from slicer.i18n import tr as _

from PPCMISegmentLib.Dependencies import DependencyError
from PPCMISegmentLib.SiteSection import SiteContext, SiteSection


class PackagesSection(SiteSection):
    """Shown only where something is missing."""

    def __init__(self, context: SiteContext) -> None:
        super().__init__("SitePackages", context)
        self.ui.installButton.connect("clicked()", self.onInstallButton)

    def showState(self) -> None:
        """Name what is missing."""
        missing = self.context.dependencies.missing()
        self.ui.missingLabel.text = _("Missing: {names}. They are installed into Slicer's own Python, once.").format(
            names=", ".join(missing)
        )
        self.ui.installButton.enabled = bool(missing)

    def summary(self) -> str:
        """All is there, or nothing to say."""
        return "" if self.context.dependencies.missing() else _("installed")

    def onInstallButton(self) -> None:
        """Install, after asking."""
        try:
            self.context.dependencies.ensure()
        except DependencyError as error:
            self.showMessage(str(error))
        else:
            self.showMessage("")
        self.showState()
        self.context.onChanged(self)
