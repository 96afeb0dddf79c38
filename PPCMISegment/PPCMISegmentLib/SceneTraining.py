"""Training, refining and validating on cases of the scene: which of them judge, and the files that a command reads."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from PPCMISegmentLib.ChildProcess import commandSteps
from PPCMISegmentLib.LabelledCases import LabelledCase
from PPCMISegmentLib.SceneCases import SceneCaseFolder, caseStem

if TYPE_CHECKING:
    from ppcmi.task import Task

LEAST_IMAGES = 4
"""With fewer, there is nothing to spare."""

SHARE = 0.2
"""Of all images, how many judge."""

DIGEST_BYTES = 8


def judges(mark: str) -> bool:
    """Whether an image is one of those that judge.

    Its mark alone decides, so that no other image that is checked or loaded later moves one that was learned from to
    those that judge.
    """
    digest = hashlib.sha256(mark.encode()).digest()[:DIGEST_BYTES]
    return int.from_bytes(digest, "big") < SHARE * (1 << 8 * DIGEST_BYTES)


@dataclass(frozen=True, eq=False)
class ChosenCase:
    """A case of the scene that a user checked.

    :param title: what a user calls it.
    :param mark: the same for every segmentation of an image, and in every session.
    :param uploaded: whether a model may have been trained on it.
    """

    case: LabelledCase
    title: str
    mark: str
    uploaded: bool


@dataclass(frozen=True, eq=False)
class SceneSelection:
    """The cases that a user checked.

    :param leftOut: by the title of each that cannot be used, why.
    """

    cases: tuple[ChosenCase, ...]
    leftOut: Mapping[str, str] = field(default_factory=dict)

    @property
    def apart(self) -> list[ChosenCase]:
        """Those that judge, and that nothing learns from; none where there are few images.

        An image that was uploaded is none of them, as a model may have learned from it.
        """
        if self._tooFew:
            return []
        uploaded = {chosen.mark for chosen in self.cases if chosen.uploaded}
        return [chosen for chosen in self.cases if judges(chosen.mark) and chosen.mark not in uploaded]

    @property
    def learned(self) -> list[ChosenCase]:
        """Those that a codec or decoder is fitted to.

        :raises UsageError: if there are none.
        """
        from ppcmi.errors import UsageError

        apart = self.apart
        learned = [chosen for chosen in self.cases if chosen not in apart]
        if not learned:
            raise UsageError(_("All of these cases are set apart to judge by; check others to learn from."))
        return learned

    @property
    def judging(self) -> list[ChosenCase]:
        """Those that a model is validated on."""
        return self.apart or [chosen for chosen in self.cases if not chosen.uploaded]

    @property
    def _tooFew(self) -> bool:
        return len({chosen.mark for chosen in self.cases}) < LEAST_IMAGES

    def inWords(self) -> str:
        """What is set apart, and what stays out."""
        sentences = [self._apartInWords()] if self.cases else []
        if self.leftOut:
            sentences.append(_("Left out, the table says why: {names}.").format(names=", ".join(self.leftOut)))
        return " ".join(sentences)

    def _apartInWords(self) -> str:
        if self.apart:
            return _(
                "Set apart to judge by, and not learned from while four images or more are checked: {names} ({apart} "
                "of {count} cases)."
            ).format(
                names=", ".join(chosen.title for chosen in self.apart), apart=len(self.apart), count=len(self.cases)
            )
        if not self.judging:
            return _("All of these cases were uploaded for training, so none is set apart to judge a model by.")
        none = (
            _("With fewer than four images none is set apart.")
            if self._tooFew
            else _("None of these images is set apart, which is decided for each by itself and falls on one in five.")
        )
        return " ".join(
            (
                none,
                _(
                    "All are learned from: a codec is judged on one that its training keeps back, a model on those "
                    "that were neither uploaded nor learned from before."
                ),
            )
        )


def fittingSteps(
    words: Sequence[str], selection: SceneSelection, task: Task, worker: Executor
) -> Generator[dict[str, Any] | None, None, None]:
    """Run a command that learns; see :func:`~PPCMISegmentLib.ChildProcess.commandSteps`.

    :raises UsageError: if there is nothing to learn from.
    """
    learned = selection.learned
    fold = "train" if selection.apart else ""
    folds = {chosen: fold if chosen in learned else "val" for chosen in selection.cases}
    return _steps(words, folds, selection, task, worker)


def judgingSteps(
    words: Sequence[str], selection: SceneSelection, task: Task, worker: Executor
) -> Generator[dict[str, Any] | None, None, None]:
    """Run a command that scores; it gets no case that was uploaded or learned from.

    :raises UsageError: if no such case is left.
    """
    return _steps(words, dict.fromkeys(selection.judging, ""), selection, task, worker)


def _steps(
    words: Sequence[str], folds: Mapping[ChosenCase, str], selection: SceneSelection, task: Task, worker: Executor
) -> Generator[dict[str, Any] | None, None, None]:
    """Write the cases, run the command on them, and remove them, however it ends.

    :param folds: what the folder's table says of each case; nothing where there are no folds.
    """
    from ppcmi.errors import UsageError
    from ppcmi.files import write_atomically

    if not folds:
        raise UsageError(
            _("All these cases were uploaded for training, so none of them can judge a model; check others.")
        )
    yield _event("progress", _("Reading the cases from the scene..."))
    with SceneCaseFolder() as folder:
        unusable = yield from folder.writeSteps([chosen.case for chosen in folds], task, worker)
        changed = {chosen.title: unusable[chosen.case.name] for chosen in folds if chosen.case.name in unusable}
        for title, reason in {**selection.leftOut, **changed}.items():
            yield _event("remark", _("Left out {name}: {reason}").format(name=title, reason=reason))
        if len(unusable) == len(folds):
            raise UsageError(_("None of the cases can be used any more; look at the table."))
        rows = [f"{caseStem(number)},{fold}" for number, fold in enumerate(folds.values(), start=1)]
        write_atomically(folder.path / "split.csv", "\n".join(["id,fold", *rows]).encode())
        yield from commandSteps([*words, "--cases", str(folder.path)])


def _event(kind: str, text: str) -> dict[str, Any]:
    return {"event": kind, "text": text}
