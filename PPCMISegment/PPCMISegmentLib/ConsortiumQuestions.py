"""What is asked before a key is shared, as rich text: names that a server gave are escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from slicer.i18n import tr as _

if TYPE_CHECKING:
    from ppcmi.consortium import Peer
    from PPCMISegmentLib.TaskStanding import TaskStanding


def joinQuestion(standing: TaskStanding, inviter: Peer, own: str) -> str:
    """Who invited, what to compare, and the price."""
    price = _(
        "Members share one inner key: a member that colludes with the server could read other members' latents. "
        "Join only sites that you trust."
    )
    return "".join(
        f"<p>{paragraph}</p>"
        for paragraph in (
            _('{site} invites this site to "{task}".').format(
                site=f"<b>{escape(inviter.site_name)}</b>", task=escape(standing.task.title)
            ),
            _("Its fingerprint: {its}<br>This site's fingerprint: {own}").format(
                its=f"<tt>{inviter.fingerprint}</tt>", own=f"<tt>{own}</tt>"
            ),
            _("Call {site} and compare both before you join.").format(site=escape(inviter.site_name)),
            price if standing.shared else "",
        )
        if paragraph
    )


def inviteQuestion(standing: TaskStanding, peer: Peer) -> str:
    """Whom, what to compare, and the price."""
    price = _("The invitation brings the inner key: whoever has it can read the latents of every member.")
    return "".join(
        f"<p>{paragraph}</p>"
        for paragraph in (
            _('Invite {site} to "{task}"?').format(
                site=f"<b>{escape(peer.site_name)}</b>", task=escape(standing.task.title)
            ),
            _("Its fingerprint: {its}").format(its=f"<tt>{peer.fingerprint}</tt>"),
            _("Call {site} and compare: the tab Site shows it there under Server.").format(site=escape(peer.site_name)),
            price if standing.shared else "",
        )
        if paragraph
    )
