"""Exporting labelled cases and sending cohorts from inside Slicer, as steps: the window never waits for either."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slicer.i18n import tr as _

from PPCMISegmentLib.LabelledCases import LabelledCase, checkSteps
from PPCMISegmentLib.Steps import inBackground, mapped, sentenceOf

if TYPE_CHECKING:
    from ppcmi.cohort import UploadProgress, UploadSummary
    from ppcmi.cohort_export import CohortExport
    from ppcmi.task import Task
    from ppcmi.task_profile import TaskProfile
    from ppcmi.volume import Geometry
    from ppcmi.what_leaves import Leaving, Sending

SLICES_PER_BUNDLE = 64


@dataclass(frozen=True)
class ExportChoices:
    """What a user may choose about an export.

    :param profile: which scales leave: ``coarse``, ``minimal``, ``full`` or ``paper``.
    :param variants: augmented encodings of each case; None: as many as usual for so many cases.
    :param device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
    """

    taskName: str
    profile: str = "coarse"
    quantization: str = "i8"
    variants: int | None = None
    device: str = "auto"

    def variantsOf(self, cases: int) -> int:
        """Augmented encodings for so many cases."""
        from ppcmi.export_settings import usual_variants

        return usual_variants(cases) if self.variants is None else self.variants


@dataclass(frozen=True, eq=False)
class ExportEvent:
    """How far an export is.

    :param case: index of the case that is worked on.
    :param encoded: of all its slices' encodings, ``total`` of this case.
    :param slices: of the cases that are in the file already.
    :param skipped: why the case stays out.
    """

    state: Literal["opening", "reading", "encoding", "added", "skipped", "finishing"]
    case: int = 0
    encoded: int = 0
    total: int = 0
    slices: int = 0
    bytesWritten: int = 0
    skipped: str = ""


@dataclass(frozen=True, eq=False)
class ExportResult:
    """What a cohort file holds.

    :param leaving: exactly that, in numbers.
    :param skipped: names of cases that stayed out, and why.
    """

    path: Path
    leaving: Leaving
    skipped: dict[str, str]


class ExportLogic:
    """The site's end of exports.

    :param siteFolder: folder of the site profile.
    :param worker: thread for all computing.
    """

    def __init__(self, siteFolder: Path, worker: Executor) -> None:
        self.siteFolder, self._worker = siteFolder, worker
        # Its own thread: what computes must not wait for a network.
        self._network = ThreadPoolExecutor(1, thread_name_prefix="ppcmi-upload")

    def close(self) -> None:
        """Let go of the thread once its present call has ended."""
        self._network.shutdown(wait=False)

    def leavingOf(self, geometries: Sequence[Geometry], choices: ExportChoices) -> Leaving:
        """What would leave with images on these grids."""
        from ppcmi.site import SiteProfile
        from ppcmi.what_leaves import export_leaves

        part = SiteProfile.open(self.siteFolder).task(choices.taskName)
        variants = choices.variantsOf(len(geometries))
        return export_leaves(geometries, part.task, _sending(part, choices), variants)

    def exportSteps(
        self, cases: Sequence[LabelledCase], choices: ExportChoices, path: Path
    ) -> Generator[ExportEvent, None, ExportResult]:
        """Write the cases to a cohort file; closing the generator leaves no file.

        A case that cannot be used, or is not there any more, stays out.

        :raises PpcmiError: if there is no codec, no file can be written, or no case could be used.
        """
        from ppcmi.errors import SiteError
        from ppcmi.what_leaves import export_of_slices

        def opening() -> tuple[CohortExport, Task, Sending]:
            from ppcmi.cohort_export import CohortExport
            from ppcmi.consortium import ensure_codec
            from ppcmi.device import choose_device
            from ppcmi.export_settings import ExportSettings
            from ppcmi.protection import protection_of
            from ppcmi.site import SiteProfile

            site = SiteProfile.open(self.siteFolder)
            part, client = site.task(choices.taskName), site.client()
            try:
                codec = ensure_codec(client, part).to(choose_device(choices.device))
            finally:
                client.close()
            sending = _sending(part, choices)
            protection = protection_of(
                site, part, codec.fingerprint, sending.profile, quantization=sending.quantization
            )
            settings = ExportSettings(variants, slices_per_bundle=SLICES_PER_BUNDLE)
            export = CohortExport(path, site, part, codec=codec, protection=protection, settings=settings)
            return export, part.task, sending

        variants = choices.variantsOf(len(cases))
        skipped: dict[str, str] = {}
        slices: list[int] = []
        export, task, sending = yield from mapped(
            inBackground(self._worker, opening), lambda _none: ExportEvent("opening")
        )
        with ExitStack() as stack:
            stack.enter_context(export)
            for index, case in enumerate(cases):
                problem = yield from self._addSteps(export, index, case, task)
                written = export.summary
                if problem:
                    skipped[case.name] = problem
                    yield ExportEvent("skipped", index, skipped=problem)
                else:
                    slices.append(written.slices - sum(slices))
                    yield ExportEvent("added", index, slices=written.slices, bytesWritten=written.bytes_written)
            if not slices:
                raise SiteError(_("None of the cases could be used, so nothing was exported."))
            # Once it is begun in the thread there is nothing left to leave here; before that, no file stays.
            yield from mapped(
                inBackground(self._worker, stack.close), lambda _none: ExportEvent("finishing", len(cases))
            )
        return ExportResult(path, export_of_slices(slices, task, sending, variants), skipped)

    def _addSteps(
        self, export: CohortExport, index: int, case: LabelledCase, task: Task
    ) -> Generator[ExportEvent, None, str]:
        """Read, check and add a case; why it stays out, or nothing."""
        from ppcmi.errors import GeometryError, ReadError

        checked = yield from mapped(checkSteps(case, task, self._worker), lambda _none: ExportEvent("reading", index))
        if checked.reading is None:
            return checked.findings[0].sentence
        steps = export.add(case.identity, checked.reading.image, checked.reading.labels)
        event = ExportEvent("encoding", index)
        try:
            while True:
                progress = yield from mapped(
                    inBackground(self._worker, lambda: next(steps, None)), lambda _none, event=event: event
                )
                if progress is None:
                    return ""
                so_far = export.summary
                event = ExportEvent(
                    "encoding", index, progress.done, progress.total, so_far.slices, so_far.bytes_written
                )
                yield event
        except (ReadError, GeometryError) as error:
            return sentenceOf(error)

    def uploadSteps(self, path: Path, leaving: Leaving) -> Generator[UploadProgress | None, None, UploadSummary]:
        """Send a cohort file; what the server has already is not sent again.

        :raises PpcmiError: if the server cannot be reached or refuses; what it has stays there.
        """
        from ppcmi.errors import SiteError
        from ppcmi.site import SiteProfile

        site = SiteProfile.open(self.siteFolder)
        part = next((part for part in site.tasks() if part.task.identity == leaving.task), None)
        if part is None:
            raise SiteError(_("The cohort is of a task that this site takes no part in any more."))
        client = site.client()

        def start() -> Generator[UploadProgress, None, UploadSummary]:
            from ppcmi.cohort import upload_cohort

            return upload_cohort(path, site, part, client)

        return (yield from _drivenBy(self._network, start, stop=client.close))


def _drivenBy(
    executor: Executor, start: Callable[[], Generator[Any, None, Any]], stop: Callable[[], None]
) -> Generator[Any, None, Any]:
    """A generator that only a thread advances; what it yields, and None now and then.

    :param stop: makes the call that it is in end soon.
    """
    steps = yield from inBackground(executor, start)

    def advance() -> tuple[bool, Any]:
        try:
            return False, next(steps)
        except StopIteration as end:
            return True, end.value

    try:
        while True:
            ended, value = yield from inBackground(executor, advance)
            if ended:
                return value
            yield value
    finally:
        stop()
        executor.submit(steps.close)  # in its own thread, after the call that is under way


def _sending(part: TaskProfile, choices: ExportChoices) -> Sending:
    from ppcmi.quantization import Quantization
    from ppcmi.scales import Profile
    from ppcmi.what_leaves import Sending

    return Sending.of(part, Profile(choices.profile), Quantization(choices.quantization), SLICES_PER_BUNDLE)
