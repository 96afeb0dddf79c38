"""Tab *Site*, section *Server*: test the connection, enrol with a one-time code, see who is who."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import slicer
from slicer.i18n import tr as _

from ppcmi.errors import PpcmiError
from PPCMISegmentLib.SiteSection import BAD, GOOD, SiteContext, SiteSection

if TYPE_CHECKING:
    from ppcmi.connection_check import ConnectionCheck
    from ppcmi.site import SiteProfile


class ConnectionSection(SiteSection):
    """Before enrolment the address that is typed counts, after it the profile's."""

    def __init__(self, context: SiteContext) -> None:
        super().__init__("SiteConnection", context)
        self.ui.testButton.connect("clicked()", self.onTestButton)
        self.ui.enrolButton.connect("clicked()", self.onEnrolButton)
        self.ui.setAsideButton.connect("clicked()", self.onSetAsideButton)
        self.ui.addressLineEdit.connect("textChanged(QString)", self._onTyped)
        self.ui.codeLineEdit.connect("textChanged(QString)", self._onTyped)
        self.ui.setAsideButton.visible = False

    def reasonNotYet(self) -> str | None:
        """Without cryptography there is no site."""
        return _("First install the packages above.") if self.context.dependencies.missing() else None

    def summary(self) -> str:
        """The site's name."""
        if not self.context.site.isSetUp or self.reasonNotYet():
            return ""
        try:
            return self.context.site.profile().identity.site_name
        except PpcmiError:  # the section itself says what is wrong with the profile
            return ""

    def refresh(self) -> None:
        """Who this site is, or the fields to enrol."""
        if not self.busy:
            self._showSite()
        self.showState()

    def showState(self) -> None:
        """See the base class."""
        setUp, free = self.context.site.isSetUp, not self.busy
        address, code = self.ui.addressLineEdit.text.strip(), self.ui.codeLineEdit.text.strip()
        self.ui.enrolLabel.visible = not setUp
        self.ui.enrolWidget.visible = not setUp
        self.ui.siteWidget.visible = setUp
        self.ui.enrolButton.visible = not setUp
        self.ui.enrolWidget.enabled = free
        self.ui.testButton.enabled = free and (setUp or bool(address))
        self.ui.enrolButton.enabled = free and bool(address) and bool(code)
        self.ui.setAsideButton.enabled = free
        if not setUp:
            self.ui.setAsideButton.visible = False

    def _onTyped(self, _text: str) -> None:
        self.showState()

    def _showSite(self) -> None:
        if not self.context.site.isSetUp:
            return
        from ppcmi import sealing

        try:
            site = self.context.site.profile()
            own = sealing.fingerprint(site.public_key)
        except Exception as error:
            self.showError(error)
            self.ui.setAsideButton.visible = True
            return
        self.ui.siteNameLabel.text = site.identity.site_name
        self.ui.serverLabel.text = site.identity.server_url
        self.ui.fingerprintLabel.text = _fixedWidth(own)
        self.ui.serverFingerprintLabel.text = _fixedWidth(sealing.fingerprint(site.identity.server_public_key))

    # ---- test

    def onTestButton(self) -> None:
        """Call the server, and say which of the things that can be wrong is wrong."""
        setUp, address = self.context.site.isSetUp, self.ui.addressLineEdit.text
        authority, pin = self._authority(), self._pin()

        def test() -> ConnectionCheck:
            from ppcmi.connection_check import check_address, check_site

            return check_site(self.context.site.profile()) if setUp else check_address(address, authority, pin)

        self.work(_("Calling the server..."), test, self._showCheck)

    def _showCheck(self, check: ConnectionCheck) -> None:
        from ppcmi.connection_check import Verdict

        setUp = self.context.site.isSetUp
        welcome = check.verdict is Verdict.READY or (check.verdict is Verdict.NOT_ENROLLED and not setUp)
        self.showVerdict(GOOD if welcome else BAD, *self._inWords(check))
        self.ui.setAsideButton.visible = setUp and check.verdict in (Verdict.REVOKED, Verdict.NOT_ENROLLED)

    def _inWords(self, check: ConnectionCheck) -> tuple[str, str]:
        """What was found, in a word or two and in a sentence."""
        from ppcmi.connection_check import Verdict

        milliseconds = f"{check.round_trip_ms or 0:.0f}"
        if check.verdict is Verdict.READY:
            return _("Ready."), _("The server answers in {time} ms (version {version}) and knows {site}.").format(
                time=milliseconds, version=check.server_version, site=check.site_name
            )
        if check.verdict is Verdict.NOT_ENROLLED and not self.context.site.isSetUp:
            return _("The server answers"), _(
                "in {time} ms (version {version}). Enter the code from its operator, and enrol."
            ).format(time=milliseconds, version=check.server_version)
        if check.verdict is Verdict.UNTRUSTED:
            return _("Certificate not trusted."), self._whyNotTrusted()
        word = {
            Verdict.UNREACHABLE: _("No connection."),
            Verdict.OTHER_SERVER: _("Not a PPCMI server."),
            Verdict.OTHER_VERSION: _("Version mismatch."),
            Verdict.NOT_ENROLLED: _("Not enrolled."),
            Verdict.REVOKED: _("Access ended."),
        }
        return word[check.verdict], check.sentence

    def _whyNotTrusted(self) -> str:
        if self._pin():
            return _("It is not the one of the pin above: it is not the server, or it has a new one; ask the operator.")
        if self._authority():
            return _("It was not issued by the authority in the file above, or that file is none; ask the operator.")
        return _(
            "Ask the server's operator for the file of its certificate authority (PEM), or for its certificate's pin, "
            "and enter it above."
        )

    def _authority(self) -> Path | None:
        """The certificate authority that is chosen."""
        path = self.ui.caPathLineEdit.currentPath.strip()
        return Path(path) if path else None

    def _pin(self) -> str | None:
        """The pin that is entered."""
        return self.ui.pinLineEdit.text.strip() or None

    # ---- enrol

    def onEnrolButton(self) -> None:
        """Trade the code for an identity; the code is not kept."""
        address, code = self.ui.addressLineEdit.text, self.ui.codeLineEdit.text
        authority, pin = self._authority(), self._pin()

        def enrol() -> ConnectionCheck | SiteProfile:
            from ppcmi.connection_check import Verdict, check_address
            from ppcmi.site import SiteProfile

            check = check_address(address, authority, pin)
            if check.verdict is not Verdict.NOT_ENROLLED:
                return check
            return SiteProfile.enrol(self.context.site.folder, address, code, authority, pin=pin)

        self.work(_("Making the site's keys, and enrolling..."), enrol, self._onEnrolled, self._onRefused)

    def _onEnrolled(self, result: ConnectionCheck | SiteProfile) -> None:
        from ppcmi.site import SiteProfile

        if not isinstance(result, SiteProfile):
            self._showCheck(result)  # the code was not sent, so it is still good
            return
        self.ui.codeLineEdit.clear()
        self.ui.addressLineEdit.clear()
        self.ui.caPathLineEdit.currentPath = ""
        self.ui.pinLineEdit.clear()
        self._showSite()
        self.showVerdict(
            GOOD,
            _("Enrolled."),
            _("Call the server's operator and compare both fingerprints; then choose a task below."),
        )
        self.context.onChanged(self)

    def _onRefused(self, error: Exception) -> None:
        from ppcmi.errors import ServerRefusedError

        if isinstance(error, ServerRefusedError):
            self.ui.codeLineEdit.clear()  # it is used up, or none
        self.showError(error)

    # ---- begin again

    def onSetAsideButton(self) -> None:
        """Make room for a new enrolment; nothing is deleted."""
        if not slicer.util.confirmOkCancelDisplay(
            _(
                "This workstation will belong to no site until it is enrolled again with a new code. The profile with "
                "its keys and codecs stays beside its place under another name, and is not used any more."
            ),
            _("Begin again"),
        ):
            return
        try:
            self.context.site.setAside()
        except Exception as error:
            self.showError(error)
            return
        self.showMessage(_("Enter the new code."))
        self.showState()
        self.context.onChanged(self)


def _fixedWidth(fingerprint: str) -> str:
    return f"<tt>{escape(fingerprint)}</tt>"
