"""The question before anything of a labelled case leaves, or a network, every time, and the site's log of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import qt
import slicer
from slicer.i18n import tr as _

from PPCMISegmentLib.SiteAccess import SiteAccess

if TYPE_CHECKING:
    from ppcmi.consent_log import Consent
    from ppcmi.privacy_check import PrivacyCheck
    from ppcmi.task_profile import TaskProfile
    from ppcmi.what_leaves import Leaving, NetworkLeaving

LAST_ENTRIES = 20

Action = Literal["export", "upload"]


class ConsentQuestion:
    """Asks, and keeps the answer before anybody acts on it.

    :param site: in whose profile the log lies.
    """

    def __init__(self, site: SiteAccess) -> None:
        self._site = site

    def wantsPrivacyCheck(self, part: TaskProfile, profile: str) -> bool:
        """Whether the user wants a privacy check first; asked before a task's first export without one of the profile.

        A check counts if it looked at the profile and its controls held.

        :raises SiteError: if the last check cannot be read.
        """
        from ppcmi.consent_log import CODEC, NETWORK, ConsentLog
        from ppcmi.privacy_check import read_check

        if part.membership.mode != "two-layer":
            return False
        check = read_check(self._site.folder, part)
        if check is not None and check.measured(profile):
            return False
        if any(
            entry.task == part.task.identity and entry.answer != "no" and entry.action not in (CODEC, NETWORK)
            for entry in ConsentLog(self._site.folder).entries()
        ):
            return False
        answer = qt.QMessageBox.question(
            slicer.util.mainWindow(),
            _("Check privacy first?"),
            _(
                "{state}: nobody has measured what an attacker could make of what leaves of these cases. A check does "
                "that on this computer, takes some minutes and sends nothing.\n\n"
                "Make it now? With No the export goes on without one."
            ).format(state=_stateOf(check, profile)),
            qt.QMessageBox.Yes | qt.QMessageBox.No,
            qt.QMessageBox.Yes,
        )
        return answer == qt.QMessageBox.Yes

    def agreed(self, action: Action, leaving: Leaving) -> bool:
        """Whether the user agrees to exactly this; the default is not to.

        :raises WriteError: if the answer cannot be kept: nothing may be sent then.
        """
        from ppcmi.consent_log import Answer, ConsentLog
        from ppcmi.what_leaves import consent_text

        check = self._checkOf(leaving)
        titles = {"export": _("Write a file for the server?"), "upload": _("Send to the server?")}
        endings = {
            "export": _("Write the file? It can be opened by this site's server alone."),
            "upload": _("Send them?"),
        }
        yes = _saysYes(titles[action], f"{consent_text(leaving, check)}\n\n{endings[action]}")
        ConsentLog(self._site.folder).record(action, leaving, Answer.YES if yes else Answer.NO, check)
        return yes

    def agreedToShareNetwork(self, leaving: NetworkLeaving) -> bool:
        """Whether the user agrees that the other members get this site's network; as :meth:`agreed`."""
        from ppcmi.consent_log import Answer, ConsentLog
        from ppcmi.what_leaves import network_text

        title, question = _("Give the members this site's network?"), _("Learn together?")
        yes = _saysYes(title, f"{network_text(leaving)}\n\n{question}")
        ConsentLog(self._site.folder).record_network(leaving, Answer.YES if yes else Answer.NO)
        return yes

    def _checkOf(self, leaving: Leaving) -> PrivacyCheck | None:
        from ppcmi.privacy_check import read_check

        parts = [part for part in self._site.profile().tasks() if part.task.identity == leaving.task]
        return read_check(self._site.folder, parts[0]) if parts else None

    def lastEntries(self) -> str:
        """The newest answers, newest first, a line each."""
        from ppcmi.consent_log import ConsentLog

        entries = ConsentLog(self._site.folder).entries()[-LAST_ENTRIES:]
        return "\n".join(map(_line, reversed(entries))) or _("Nothing was agreed to so far.")


def _stateOf(check: PrivacyCheck | None, profile: str) -> str:
    """Why nothing is known of the profile, without the full stop."""
    if check is None:
        return _("No privacy check was made for this task yet")
    if check.of_profile(profile) is None:
        return _("The last privacy check did not look at profile {profile}").format(profile=profile)
    if not check.controls_hold:
        return _("A control of the last privacy check did not hold, so its numbers say nothing")
    if check.could_not_see:
        return _("The attacks of the last privacy check could not see anything, so its numbers say nothing")
    return _("The attackers of the last privacy check were held short, so its numbers judge nothing")


def _saysYes(title: str, text: str) -> bool:
    """What the user answers; without a look at it that is No."""
    buttons = qt.QMessageBox.Yes | qt.QMessageBox.No
    answer = qt.QMessageBox.question(slicer.util.mainWindow(), title, text, buttons, qt.QMessageBox.No)
    return answer == qt.QMessageBox.Yes


def _line(entry: Consent) -> str:
    from ppcmi.consent_log import CODEC, NETWORK

    actions = {
        "export": _("write a file"),
        "upload": _("send"),
        NETWORK: _("learn together"),
        CODEC: _("publish a codec"),
    }
    numbers = {NETWORK: _networkNumbers, CODEC: _codecNumbers}.get(entry.action, _latentNumbers)
    answers = {"yes": _("agreed"), "no": _("declined"), "command": _("by command")}
    return _("{time}  {answer}: {action}, {task}, {numbers}").format(
        time=entry.time[:16].replace("T", " "),
        answer=answers.get(entry.answer, entry.answer),
        action=actions.get(entry.action, entry.action),
        task=entry.task,
        numbers=numbers(entry),
    )


def _codecNumbers(entry: Consent) -> str:
    return _("codec {fingerprint}").format(fingerprint=str(entry.what.get("codec", "?"))[:8])


def _networkNumbers(entry: Consent) -> str:
    from ppcmi.wording import counted, megabytes

    return _("{cases}, {rounds}, {size} each").format(
        cases=counted(entry.what.get("cases", 0), "case"),
        rounds=counted(entry.what.get("rounds", 0), "round"),
        size=megabytes(entry.what.get("bytes", 0)),
    )


def _latentNumbers(entry: Consent) -> str:
    from ppcmi.wording import counted, megabytes

    checks = {None: "", "": _(", without a privacy check of it that held")}
    return _("{cases}, {slices}, {size}, profile {profile}{check}").format(
        cases=counted(entry.what.get("cases", 0), "case"),
        slices=counted(entry.what.get("slices", 0), "slice"),
        size=megabytes(entry.what.get("bytes", 0)),
        profile=entry.what.get("profile", "?"),
        check=checks.get(
            entry.privacy_check, _(", privacy check of {time}").format(time=str(entry.privacy_check)[:10])
        ),
    )
