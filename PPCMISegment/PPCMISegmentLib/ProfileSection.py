"""Tab *Site*, section *Profile file*: export the site under a passphrase, or take up what was exported."""

from __future__ import annotations

from pathlib import Path

import qt
from slicer.i18n import tr as _

from PPCMISegmentLib.SiteSection import BAD, GOOD, SiteContext, SiteSection

ENDING = ".ppcmi-site"


class ProfileSection(SiteSection):
    """Export where there is a profile, import where there is none."""

    def __init__(self, context: SiteContext) -> None:
        super().__init__("SiteProfileFile", context)
        self.ui.passphraseLineEdit.connect("textChanged(QString)", self._onTyped)
        self.ui.againLineEdit.connect("textChanged(QString)", self._onTyped)
        self.ui.exportButton.connect("clicked()", self.onExportButton)
        self.ui.importButton.connect("clicked()", self.onImportButton)

    def reasonNotYet(self) -> str | None:
        """Without cryptography nothing opens."""
        return _("First install the packages above.") if self.context.dependencies.missing() else None

    def showState(self) -> None:
        """See the base class."""
        setUp, free = self.context.site.isSetUp, not self.busy
        typed = bool(self.ui.passphraseLineEdit.text)
        for widget in (self.ui.exportButton, self.ui.againLineEdit, self.ui.againLineEditCaption):
            widget.visible = setUp
        self.ui.strengthLabel.visible = setUp
        self.ui.importButton.visible = not setUp
        problem = self._problem() if setUp and typed else None
        self.ui.strengthLabel.text = "" if not typed else problem or _("The passphrase will do.")
        self.ui.strengthLabel.styleSheet = f"color: {BAD if problem else GOOD}"
        self.ui.passphraseForm.enabled = free
        self.ui.exportButton.enabled = free and typed and problem is None
        self.ui.importButton.enabled = free and typed

    def _onTyped(self, _text: str) -> None:
        self.showState()

    def _problem(self) -> str | None:
        """What is wrong with the passphrase for a new file."""
        from ppcmi.errors import UsageError
        from ppcmi.passphrase_file import require_strong

        try:
            require_strong(self.ui.passphraseLineEdit.text)
        except UsageError as error:
            return str(error)
        if self.ui.passphraseLineEdit.text != self.ui.againLineEdit.text:
            return _("Type the same passphrase again.")
        return None

    def _forgetPassphrase(self) -> None:
        self.ui.passphraseLineEdit.clear()
        self.ui.againLineEdit.clear()

    def onExportButton(self) -> None:
        """Ask where to, and write the file; the passphrase is not kept."""
        name = qt.QFileDialog.getSaveFileName(
            self.widget, _("Export the site's profile"), "", _("Site profiles") + f" (*{ENDING})"
        )
        if not name:
            return
        path = Path(name if name.endswith(ENDING) else name + ENDING)
        passphrase = self.ui.passphraseLineEdit.text

        def export() -> int:
            from ppcmi.site_transfer import export_profile

            return len(export_profile(self.context.site.profile(), path, passphrase))

        def done(_members: int) -> None:
            self.showVerdict(
                GOOD, _("Exported."), _("Whoever has the file and its passphrase is this site; keep them apart.")
            )

        self._forgetPassphrase()
        self.work(_("Exporting..."), export, done)

    def onImportButton(self) -> None:
        """Ask for the file, and become the site that it holds."""
        name = qt.QFileDialog.getOpenFileName(
            self.widget, _("Import a site's profile"), "", _("Site profiles") + f" (*{ENDING})"
        )
        if not name:
            return
        passphrase = self.ui.passphraseLineEdit.text

        def take() -> str:
            from ppcmi.site_transfer import import_profile

            self.context.site.clearLeftovers()
            return import_profile(Path(name), passphrase, self.context.site.folder).identity.site_name

        def done(siteName: str) -> None:
            self.showVerdict(GOOD, _("Imported."), _("This is {site} now.").format(site=siteName))
            self.context.onChanged(self)

        self._forgetPassphrase()
        self.work(_("Importing..."), take, done)
