"""The site profile and what its server says about tasks, for panels; nothing is asked before a panel asks."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PPCMISegmentLib.Steps import inBackground

if TYPE_CHECKING:
    from ppcmi.scales import Profile
    from ppcmi.site import Membership, SiteProfile
    from ppcmi.task import Task


@dataclass(frozen=True)
class TaskOffer:
    """A task that the site takes part in.

    :param asked: whether the server said what follows.
    :param model: number of the server's active model, or None: there is none.
    :param profile: privacy profile of that model: which scales leave.
    """

    task: Task
    membership: Membership
    asked: bool = False
    model: int | None = None
    profile: Profile | None = None


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

    def offersSteps(self, executor: Executor) -> Generator[None, None, list[TaskOffer]]:
        """Every task of the site with the model that the server has active for it.

        :raises PpcmiError: if the server cannot be reached or refuses.
        """

        def ask() -> list[TaskOffer]:
            from ppcmi.scales import Profile

            site = self.profile()
            client = site.client()
            try:
                offers = []
                for part in site.tasks():
                    model = client.task(part.task.name).get("active_model") or {}
                    profile = Profile(model["profile"]) if "profile" in model else None
                    offers.append(TaskOffer(part.task, part.membership, True, model.get("number"), profile))
                return offers
            finally:
                client.close()

        return (yield from inBackground(executor, ask))
