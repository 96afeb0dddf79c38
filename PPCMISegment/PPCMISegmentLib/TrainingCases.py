"""Where the cases to train, refine and validate on come from: a folder, or the scene with its table of pairs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import slicer
from slicer.i18n import tr as _

from PPCMISegmentLib import VolumeNodes
from PPCMISegmentLib.CaseDetails import CaseDetails
from PPCMISegmentLib.CasePair import CasePair, ScenePair
from PPCMISegmentLib.CasePairs import CasePairs
from PPCMISegmentLib.ChildProcess import commandSteps
from PPCMISegmentLib.SceneTraining import ChosenCase, SceneSelection, fittingSteps, judgingSteps
from PPCMISegmentLib.SiteSection import SiteContext, sentenceFor

if TYPE_CHECKING:
    from ppcmi.task_profile import TaskProfile

FOLDER, SCENE = "folder", "scene"

CommandSteps = Generator[dict[str, Any] | None, None, None]


class TrainingCases:
    """The widgets, and the steps of a command on what is chosen in them.

    :param ui: with sourceSelector, casesPathLineEdit, scenePlace, casesTable, caseCollapsibleButton and casesLabel.
    :param onChanged: called when :attr:`usable` may be another.
    """

    def __init__(self, ui: Any, context: SiteContext, onChanged: Callable[[], None]) -> None:
        self.ui, self._context, self._onChanged = ui, context, onChanged
        self._part: TaskProfile | None = None
        details = slicer.util.loadUI(context.resourcePath("UI/CaseDetails.ui"))
        ui.caseCollapsibleButton.layout().addWidget(details)
        self.detailsUi = slicer.util.childWidgetVariables(details)
        self.pairs = CasePairs(ui.casesTable, context.worker, self._showWhatIsUsed, self._showPair)
        self._details = CaseDetails(self.detailsUi, self.pairs.changed)
        ui.sourceSelector.addItem(_("A folder"), FOLDER)
        ui.sourceSelector.addItem(_("The scene"), SCENE)
        ui.sourceSelector.connect("currentIndexChanged(int)", self._onSourceChosen)
        ui.casesPathLineEdit.connect("currentPathChanged(QString)", self._onTyped)

    def close(self) -> None:
        """Let go of the scene."""
        self.pairs.close()

    def show(self, part: TaskProfile | None) -> None:
        """List the scene's cases for a task, where they are what is chosen."""
        self._part = part
        self.ui.casesPathLineEdit.visible = not self._fromScene
        self.ui.scenePlace.visible = self._fromScene
        if self._fromScene and part is not None:
            self.pairs.showScene(part.task)
        else:
            self.pairs.clear()

    def setEditable(self, editable: bool) -> None:
        """Whether the table follows the scene and the user."""
        self.pairs.setEditable(editable)
        self._details.setEditable(editable)

    @property
    def usable(self) -> bool:
        """Whether there is something that a command could be run on."""
        if self._fromScene:
            return bool(self.pairs.usablePairs()) and not self.pairs.checking and not self.pairs.problem
        return bool(self._folder)

    def fittingSteps(self, words: Sequence[str], part: TaskProfile) -> CommandSteps:
        """Run a command that learns from the cases."""
        if self._fromScene:
            return fittingSteps(words, self._selection(part), part.task, self._context.worker)
        return commandSteps([*words, "--cases", self._folder])

    def judgingSteps(self, words: Sequence[str], part: TaskProfile) -> CommandSteps:
        """Run a command that scores the cases that are set apart."""
        if self._fromScene:
            return judgingSteps(words, self._selection(part), part.task, self._context.worker)
        return commandSteps([*words, "--cases", self._folder])

    def fittingCount(self, part: TaskProfile) -> Callable[[], int]:
        """Gives the number of labelled cases that :meth:`fittingSteps` would learn from; it may be called anywhere.

        :raises PpcmiError: if there are none.
        """
        if self._fromScene:
            count = len(self._selection(part).learned)
            return lambda: count
        folder = Path(self._folder)
        without = _("The folder has no labelled case to learn from; look into its labels and its split.csv.")
        return lambda: _labelledToFit(folder, without)

    # ---- inside

    @property
    def _fromScene(self) -> bool:
        return self.ui.sourceSelector.currentData == SCENE

    @property
    def _folder(self) -> str:
        return self.ui.casesPathLineEdit.currentPath.strip()

    def _selection(self, part: TaskProfile) -> SceneSelection:
        """What is checked, and what of it a model may have been trained on."""
        uploaded = self._context.site.profile().uploaded_cases(part.task.name)
        uploadedMarks = {name.rpartition(" ")[2] for name in uploaded}
        chosen, usable = [], self.pairs.usablePairs()
        for pair, case in zip(usable, self.pairs.labelledCases(), strict=True):
            mark = VolumeNodes.markOf(pair.volumeNode)
            # A volume that was loaded from a folder which was uploaded has its file's name.
            known = mark in uploadedMarks or pair.imageName in uploaded
            chosen.append(ChosenCase(case, pair.imageName, mark, known))
        unusable = [pair for pair in self.pairs.checkedPairs() if pair not in usable]
        return SceneSelection(tuple(chosen), {pair.imageName: pair.status for pair in unusable})

    def _showWhatIsUsed(self) -> None:
        self.ui.casesLabel.text = self._whatIsUsed()
        self._onChanged()

    def _whatIsUsed(self) -> str:
        if not self._fromScene or self._part is None:
            return _(
                "A folder with images/ and labels/, same file names; its split.csv may say which cases are held out "
                "(fold val)."
            )
        if self.pairs.problem or self.pairs.checking:
            return self.pairs.problem or _("Checking the cases...")
        if not self.pairs.pairs():
            return _("Load volumes with their segmentations first, or choose a folder.")
        if not self.pairs.checkedPairs():
            return _("Check at least one case.")
        try:
            return self._selection(self._part).inWords()
        except Exception as error:
            return sentenceFor(error)

    def _showPair(self, pair: CasePair | None) -> None:
        self.ui.caseCollapsibleButton.visible = isinstance(pair, ScenePair)
        if pair is not None:
            self.ui.caseCollapsibleButton.text = _("Chosen case: {name}").format(name=pair.imageName)
        self._details.show(pair)

    def _onSourceChosen(self, _index: int) -> None:
        self.show(self._part)

    def _onTyped(self, _path: str) -> None:
        self._onChanged()


def _labelledToFit(folder: Path, without: str) -> int:
    """How many cases of a folder there are to learn from, as the commands choose them.

    :param without: what to say if there are none; Qt translates on the main thread only.
    :raises PpcmiError: if there are none.
    """
    from ppcmi.data_folders import find_cases, of_fold
    from ppcmi.errors import UsageError

    count = sum(case.label is not None for case in of_fold(find_cases(folder), "train"))
    if not count:
        raise UsageError(without)
    return count
