"""How far a site is in each of its server's tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

if TYPE_CHECKING:
    from ppcmi.site import SiteProfile
    from ppcmi.task import Task
    from ppcmi.task_profile import Membership


@dataclass(frozen=True)
class TaskStanding:
    """One task of the server.

    :param founder: name of the site that founded the consortium, or None: nobody has.
    :param shared: whether members share one codec and key.
    :param counted: whether the server counts this site as a member.
    :param membership: this site's own part, or None.
    :param model: number of the active model, or None.
    """

    task: Task
    founder: str | None
    shared: bool
    counted: bool
    membership: Membership | None
    model: int | None

    @property
    def mayFound(self) -> bool:
        """Whether nobody has yet, also where this site's own try was lost on the way."""
        return self.founder is None and (self.membership is None or self.membership.founder)

    @property
    def mayJoin(self) -> bool:
        """Whether there is something to join."""
        return self.founder is not None and self.membership is None

    @property
    def mayInvite(self) -> bool:
        """Whether this site is a member."""
        return self.founder is not None and self.membership is not None

    def inWords(self) -> str:
        """Who takes part, and what this site is in it."""
        if self.founder is None:
            return _("Nobody has founded it yet.")
        if self.membership is None:
            who = _("{founder} founded it; this site is no member yet.") if not self.counted else _(
                "{founder} founded it. The server counts this site as a member, but the key is not on this "
                "workstation: import the site's profile file here."
            )  # fmt: skip
        elif self.membership.founder:
            who = _("This site founded it.")
        else:
            who = _("{founder} founded it, and this site is a member.")
        how = _("Members share one codec and key.") if self.shared else _("Every site has its own codec and key.")
        model = _("No model is active yet.") if self.model is None else _("Model {number} is active.")
        return " ".join((who.format(founder=self.founder), how, model.format(number=self.model)))


def standingsOf(site: SiteProfile) -> list[TaskStanding]:
    """Every task of the site's server; it calls the server.

    :raises PpcmiError: if the server cannot be reached, refuses, or answers what it should not.
    """
    from ppcmi.connection_check import QUICK

    with closing(site.client(QUICK)) as client:
        return [_standing(site, answer) for answer in client.tasks()]


def _standing(site: SiteProfile, answer: Mapping[str, Any]) -> TaskStanding:
    from ppcmi.connection_errors import OffProtocolError
    from ppcmi.task import parse_task
    from ppcmi.wording import printable

    task = parse_task(json.dumps(answer.get("task")))
    found, active = answer.get("consortium") or {}, answer.get("active_model") or {}
    try:
        return TaskStanding(
            task,
            founder=printable(str(found["founder"])) if found else None,
            shared=bool(found) and found["scope"] == "consortium",
            counted=bool(found) and found["member"] is True,
            membership=site.task(task.name).membership if site.takes_part_in(task.name) else None,
            model=int(active["number"]) if active else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise OffProtocolError from error
