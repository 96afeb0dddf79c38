"""Tab *Site*, section *Task and consortium*: found, join, invite."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import slicer
from slicer.i18n import tr as _

from ppcmi.errors import PpcmiError
from PPCMISegmentLib.ConsortiumQuestions import inviteQuestion, joinQuestion
from PPCMISegmentLib.SiteSection import GOOD, SiteContext, SiteSection
from PPCMISegmentLib.TaskStanding import TaskStanding, standingsOf

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ppcmi.client import ServerClient
    from ppcmi.consortium import Peer
    from ppcmi.site import SiteProfile
    from ppcmi.task_profile import TaskProfile


class ConsortiumSection(SiteSection):
    """The server's tasks, and this site's part in them."""

    def __init__(self, context: SiteContext) -> None:
        super().__init__("SiteConsortium", context)
        self._standings: list[TaskStanding] = []
        for key, text in (
            ("consortium", _("One codec and key for all members (usual)")),
            ("site", _("A codec and key of its own for every site")),
        ):
            self.ui.scopeSelector.addItem(text, key)
        self.ui.taskSelector.connect("currentIndexChanged(int)", self._onChosen)
        self.ui.siteNameLineEdit.connect("textChanged(QString)", self._onTyped)
        self.ui.refreshButton.connect("clicked()", self.onRefreshButton)
        self.ui.foundButton.connect("clicked()", self.onFoundButton)
        self.ui.joinButton.connect("clicked()", self.onJoinButton)
        self.ui.inviteButton.connect("clicked()", self.onInviteButton)

    def reasonNotYet(self) -> str | None:
        """Tasks are the server's."""
        if self.context.dependencies.missing() or not self.context.site.isSetUp:
            return _("First enrol this site at a server.")
        return None

    def summary(self) -> str:
        """The tasks that this site takes part in."""
        if self.reasonNotYet():
            return ""
        try:
            titles = [part.task.title for part in self.context.site.profile().tasks()]
        except PpcmiError:  # the section Server says what is wrong with the profile
            return ""
        return titles[0] if len(titles) == 1 else _("{count} tasks").format(count=len(titles)) if titles else ""

    def refresh(self) -> None:
        """Ask the server, unless something is under way."""
        if self.busy:
            return
        self.work(_("Asking the server for its tasks..."), self._ask, self._show)

    def showState(self) -> None:
        """See the base class."""
        standing, free = self._standing(), not self.busy
        self.ui.stateLabel.text = "" if standing is None else standing.inWords()
        self.ui.foundGroup.visible = standing is not None and standing.mayFound
        self.ui.joinGroup.visible = standing is not None and standing.mayJoin
        self.ui.inviteGroup.visible = standing is not None and standing.mayInvite
        for widget in (self.ui.taskWidget, self.ui.foundButton, self.ui.joinButton):
            widget.enabled = free
        self.ui.inviteButton.enabled = free and bool(self.ui.siteNameLineEdit.text.strip())

    def onRefreshButton(self) -> None:
        """Ask the server again."""
        self.refresh()

    def _onChosen(self, _index: int) -> None:
        standing = self._standing()
        if standing is not None:
            self.context.settings.keep("task", standing.task.name)
        self.showMessage("")
        self.showState()

    def _onTyped(self, _text: str) -> None:
        self.showState()

    def _standing(self) -> TaskStanding | None:
        index = self.ui.taskSelector.currentIndex
        return self._standings[index] if 0 <= index < len(self._standings) else None

    def _ask(self) -> list[TaskStanding]:
        return standingsOf(self.context.site.profile())

    def _show(self, standings: list[TaskStanding]) -> None:
        selector, chosen = self.ui.taskSelector, self.context.settings.text("task")
        self._standings = standings
        blocked = selector.blockSignals(True)
        selector.clear()
        for standing in standings:
            selector.addItem(standing.task.title, standing.task.name)
        selector.currentIndex = max(0, selector.findData(chosen)) if standings else -1
        selector.blockSignals(blocked)
        if not standings:
            self.showMessage(_("The server has no task yet; ask its operator to add one."))

    def _changed(self, standings: list[TaskStanding], word: str, text: str) -> None:
        self._show(standings)
        self.showVerdict(GOOD, word, text)
        self.context.onChanged(self)

    # ---- found

    def onFoundButton(self) -> None:
        """Found the chosen task's consortium, after asking: nobody can undo it."""
        standing, scope = self._standing(), self.ui.scopeSelector.currentData
        if standing is None or not slicer.util.confirmOkCancelDisplay(
            _('Found the consortium of "{task}"? Only one site does; every other one then joins by invitation.').format(
                task=standing.task.title
            ),
            _("Found"),
        ):
            return

        def found() -> list[TaskStanding]:
            from ppcmi import consortium

            site = self.context.site.profile()
            with _quickClient(site) as client:
                consortium.create(site, client, standing.task.name, scope)
            return self._ask()

        def done(standings: list[TaskStanding]) -> None:
            self._changed(standings, _("Founded."), _("Next, train the codec below; then invite the other sites."))

        self.work(_("Making the inner key, and founding..."), found, done)

    # ---- join

    def onJoinButton(self) -> None:
        """Show who invited this site, and join after asking."""
        standing = self._standing()
        if standing is None:
            return

        def look() -> tuple[Peer, str]:
            from ppcmi import sealing
            from ppcmi.consortium import find_inviter

            site = self.context.site.profile()
            with _quickClient(site) as client:
                return find_inviter(client, standing.task.name), sealing.fingerprint(site.public_key)

        def ask(found: tuple[Peer, str]) -> None:
            inviter, own = found
            if slicer.util.confirmOkCancelDisplay(joinQuestion(standing, inviter, own), _("Join")):
                self._join(standing, inviter)

        def refused(error: Exception) -> None:
            from ppcmi.consortium import NotInvitedError

            if isinstance(error, NotInvitedError):
                self.showMessage(
                    _("Nobody has invited this site yet. Call {founder}, and tell this site's name there.").format(
                        founder=standing.founder
                    )
                )
            else:
                self.showError(error)

        self.work(_("Looking for an invitation..."), look, ask, refused)

    def _join(self, standing: TaskStanding, inviter: Peer) -> None:
        def join() -> tuple[list[TaskStanding], str | None]:
            from ppcmi import consortium

            site = self.context.site.profile()
            with _quickClient(site) as client:
                part, _peer = consortium.join(site, client, standing.task.name, inviter)
            return self._ask(), _check(part)

        def done(result: tuple[list[TaskStanding], str | None]) -> None:
            standings, check = result
            text = _("This site is a member of the consortium.")
            if check is not None:
                text = _(
                    "Compare the inner key's check with {site}, which saw it when it invited: it is {check} here."
                ).format(site=inviter.site_name, check=check)
            self._changed(standings, _("Joined."), text)

        self.work(_("Joining..."), join, done)

    # ---- invite

    def onInviteButton(self) -> None:
        """Show the other site's fingerprint, and invite it after asking."""
        standing, name = self._standing(), self.ui.siteNameLineEdit.text.strip()
        if standing is None or not name:
            return

        def look() -> Peer:
            from ppcmi.consortium import find_peer

            with _quickClient(self.context.site.profile()) as client:
                return find_peer(client, name)

        def ask(peer: Peer) -> None:
            if slicer.util.confirmOkCancelDisplay(inviteQuestion(standing, peer), _("Invite")):
                self._invite(standing, peer)

        self.work(_("Looking for the site..."), look, ask)

    def _invite(self, standing: TaskStanding, peer: Peer) -> None:
        def invite() -> str | None:
            from ppcmi import consortium

            site = self.context.site.profile()
            part = site.task(standing.task.name)
            with _quickClient(site) as client:
                consortium.invite(site, client, part, peer)
            return _check(part)

        def done(check: str | None) -> None:
            self.ui.siteNameLineEdit.clear()
            text = _("{site} can join now.").format(site=peer.site_name)
            if check is not None:
                text += " " + _("The inner key's check is {check}; it must be the same there.").format(check=check)
            self.showVerdict(GOOD, _("Invited."), text)

        self.work(_("Sealing the inner key to that site, and sending..."), invite, done)


def _quickClient(site: SiteProfile) -> AbstractContextManager[ServerClient]:
    """A client that gives up soon, as somebody waits for it."""
    from ppcmi.connection_check import QUICK

    return closing(site.client(QUICK))


def _check(part: TaskProfile) -> str | None:
    """The inner key's check in groups, where members share the key."""
    from ppcmi.consortium import inner_check_of

    check = inner_check_of(part) if part.membership.scope == "consortium" else None
    return None if check is None else "-".join(check[start : start + 4] for start in range(0, len(check), 4))
