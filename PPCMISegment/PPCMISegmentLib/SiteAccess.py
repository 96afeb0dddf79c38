"""The site profile and what its server says about tasks, for panels; nothing is asked before a panel asks."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from slicer.i18n import tr as _

from PPCMISegmentLib.Steps import inBackground

if TYPE_CHECKING:
    from ppcmi.scales import Profile
    from ppcmi.site import SiteProfile
    from ppcmi.task import Task
    from ppcmi.task_profile import TaskProfile


@dataclass(frozen=True)
class TaskOffer:
    """A task that the site takes part in.

    :param asked: whether the server said what follows.
    :param model: number of the server's active model, or None: there is none.
    :param profile: privacy profile of that model: which scales leave.
    """

    part: TaskProfile
    asked: bool = False
    model: int | None = None
    profile: Profile | None = None

    @property
    def task(self) -> Task:
        """The task."""
        return self.part.task


class SiteAccess:
    """One site profile, opened when needed.

    :param folder: of the profile; it may not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def isSetUp(self) -> bool:
        """Whether there is a profile."""
        return (self.folder / "site.json").exists()

    def profile(self) -> SiteProfile:
        """The profile.

        :raises SiteError: if there is none, or it is damaged.
        """
        from ppcmi.site import SiteProfile

        return SiteProfile.open(self.folder)

    def setAside(self) -> None:
        """Move the profile beside its place, so that another can be enrolled; nothing is deleted.

        :raises WriteError: if it cannot be moved.
        """
        from ppcmi.errors import WriteError

        places = (self.folder.with_name(f"{self.folder.name}-set-aside-{number}") for number in count(1))
        try:
            self.folder.rename(next(place for place in places if not place.exists()))
        except OSError as error:
            raise WriteError(_("The profile's folder cannot be moved; check who may write there.")) from error

    def clearLeftovers(self) -> None:
        """Make room for an import where an enrolment that failed has left a key that no server knows.

        :raises WriteError: if it cannot be moved.
        """
        if not self.isSetUp and self.folder.is_dir() and any(self.folder.iterdir()):
            self.setAside()

    def offersSteps(self, executor: Executor) -> Generator[None, None, list[TaskOffer]]:
        """Every task of the site with the model that the server has active for it; closing ends the call under way.

        :raises PpcmiError: if the server cannot be reached, refuses, or takes long, as somebody waits for the answer.
        """
        from ppcmi.connection_check import QUICK
        from ppcmi.scales import Profile

        site, closed = self.profile(), Event()
        client = site.client(QUICK)

        def ask() -> list[TaskOffer]:
            offers = []
            for part in site.tasks():
                if closed.is_set():
                    break
                model = client.task(part.task.name).get("active_model") or {}
                profile = Profile(model["profile"]) if "profile" in model else None
                offers.append(TaskOffer(part, True, model.get("number"), profile))
            return offers

        try:
            return (yield from inBackground(executor, ask))
        finally:
            closed.set()
            client.close()
