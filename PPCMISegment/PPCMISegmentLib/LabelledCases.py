"""Labelled cases as the panels use them, wherever they lie: read in small steps, checked before anything is done."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from PPCMISegmentLib.Steps import inBackground

if TYPE_CHECKING:
    from ppcmi.case_checks import Finding
    from ppcmi.task import Task
    from ppcmi.volume import Geometry, Volume


@dataclass(frozen=True, eq=False)
class CaseReading:
    """A case in memory.

    :param labels: with the task's values, on its own grid.
    :param findings: what was odd while it was read.
    """

    image: Volume
    labels: Volume
    findings: tuple[Finding, ...] = ()


class LabelledCase(Protocol):
    """One case; its name and identity stay at the site."""

    @property
    def name(self) -> str:
        """What a user calls it."""

    @property
    def identity(self) -> str:
        """What its pseudonym is made from: the same in every session, and another one for every other case."""

    def readSteps(self, task: Task, worker: Executor) -> Generator[None, None, CaseReading]:
        """Read it; what touches the scene on the main thread, a little in each step, the rest in the ``worker``'s.

        :raises PpcmiError: one sentence that says why it cannot be read.
        """


@dataclass(frozen=True, eq=False)
class CheckedCase:
    """What is to be said of a case.

    :param findings: what prevents its export first.
    :param geometry: of the image, None if it cannot be read.
    :param reading: None if it cannot be used.
    """

    findings: tuple[Finding, ...]
    geometry: Geometry | None = None
    reading: CaseReading | None = None

    @property
    def usable(self) -> bool:
        """Whether nothing prevents its export."""
        return self.reading is not None


def checkSteps(case: LabelledCase, task: Task, worker: Executor) -> Generator[None, None, CheckedCase]:
    """Read a case and check it; a case that cannot be read is a finding, not an error."""
    from ppcmi.case_checks import Finding, Kind, check_labels
    from ppcmi.errors import GeometryError, PpcmiError
    from ppcmi.label_overlap import OverlapError

    try:
        reading = yield from case.readSteps(task, worker)
        labels, grid = reading.labels, reading.image.geometry
        if any(finding.prevents for finding in reading.findings):
            return CheckedCase(_inOrder(reading.findings), grid)
        findings = yield from inBackground(worker, lambda: check_labels(grid, labels, task))
    except PpcmiError as error:
        kinds = {OverlapError: Kind.OVERLAP, GeometryError: Kind.GEOMETRY}
        return CheckedCase((Finding(kinds.get(type(error), Kind.UNREADABLE), str(error), prevents=True),))
    ordered = _inOrder((*reading.findings, *findings))
    return CheckedCase(ordered, grid, None if ordered and ordered[0].prevents else reading)


def _inOrder(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """What prevents an export first."""
    return tuple(sorted(findings, key=lambda finding: not finding.prevents))
