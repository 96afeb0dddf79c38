"""Learning together with the consortium's other members: its widgets, and what would leave for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppcmi.task import Task
    from ppcmi.task_profile import TaskProfile
    from ppcmi.what_leaves import NetworkLeaving


class LearningTogether:
    """Whether to learn together is chosen anew every time, as something leaves: nothing of it is remembered.

    :param ui: with togetherCheckBox, waitForSpinBox and membersRow.
    """

    def __init__(self, ui: Any) -> None:
        self.ui = ui
        self._can = False
        ui.togetherCheckBox.connect("toggled(bool)", self._showWaiting)

    def show(self, part: TaskProfile | None, *, free: bool) -> None:
        """Show the widgets where members can share networks; ``free`` if no command runs."""
        self._can = part is not None and part.learns_together
        self.ui.togetherCheckBox.visible = self._can
        self._showWaiting(self.ui.togetherCheckBox.checked)
        self.ui.membersRow.visible = self._can and free

    def forget(self) -> None:
        """Choose the site's own network alone."""
        self.ui.togetherCheckBox.checked = False
        self.ui.waitForSpinBox.value = 0

    def isWanted(self, part: TaskProfile) -> bool:
        """Whether the user wants to learn together."""
        return part.learns_together and self.ui.togetherCheckBox.checked

    def words(self, leaving: NetworkLeaving) -> list[str]:
        """Options of a refinement whose user agreed to exactly this."""
        waiting = ["--wait-for", str(self.ui.waitForSpinBox.value)]
        return ["--together", "--rounds", str(leaving.rounds), *waiting, "--agreed"]

    def _showWaiting(self, checked: bool) -> None:
        self.ui.waitForSpinBox.visible = self._can and checked


def networkLeaving(task: Task, countCases: Callable[[], int], effort: float) -> NetworkLeaving:
    """What leaves for the other members; it loads torch, so it is for the background.

    :param countCases: how many labelled cases there are to learn from.
    :param effort: length of the training, 1 is the usual.
    :raises PpcmiError: if there are none.
    """
    from ppcmi.cli.network import USUAL_ROUNDS, rounds_of
    from ppcmi.codec.refinement import RefinementConfig
    from ppcmi.codec.trained_network import network_bytes
    from ppcmi.what_leaves import NetworkLeaving

    cases = countCases()
    rounds = rounds_of(RefinementConfig().local.scaled(effort), USUAL_ROUNDS)
    return NetworkLeaving(task.identity, cases, rounds, network_bytes(task, cases))
