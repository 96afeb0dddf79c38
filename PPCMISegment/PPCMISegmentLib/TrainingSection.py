"""Tab *Site*, section *Codec and decoder*: train, refine and validate on labelled cases, in a child process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import slicer
from slicer.i18n import tr as _

from PPCMISegmentLib.ChildProcess import ChildFailedError, commandSteps
from PPCMISegmentLib.Consent import ConsentQuestion
from PPCMISegmentLib.DeviceSelector import DeviceSelector
from PPCMISegmentLib.LearningTogether import LearningTogether, networkLeaving
from PPCMISegmentLib.SiteSection import BAD, GOOD, SiteContext, SiteSection, sentenceFor
from PPCMISegmentLib.TrainingCases import CommandSteps, TrainingCases
from PPCMISegmentLib.TrainingPlot import TrainingPlot
from PPCMISegmentLib.TrainingReport import TrainingReport, progressText, stageName

if TYPE_CHECKING:
    from ppcmi.task_profile import TaskProfile
    from ppcmi.what_leaves import NetworkLeaving


class TrainingSection(SiteSection):
    """One command at a time; its events fill the plot, the bar and the table."""

    def __init__(self, context: SiteContext) -> None:
        super().__init__("SiteTraining", context)
        self._parts: list[TaskProfile] = []
        self._plot = TrainingPlot()
        self._report = TrainingReport(self.ui.reportTable, self.ui.legendLabel)
        self.cases = TrainingCases(self.ui, context, self.showState)
        self._together, self._consent = LearningTogether(self.ui), ConsentQuestion(context.site)
        self._sharing = False
        self._device = DeviceSelector(self.ui.deviceSelector, context.settings)
        for effort, text in (
            ("0.25", _("Short, a quarter of usual")),
            ("1", _("Usual")),
            ("3", _("Long, three times")),
        ):
            self.ui.lengthSelector.addItem(text, effort)
        self.ui.lengthSelector.currentIndex = 1
        self.ui.taskSelector.connect("currentIndexChanged(int)", self._onChosen)
        self.ui.trainButton.connect("clicked()", self.onTrainButton)
        self.ui.refineButton.connect("clicked()", self.onRefineButton)
        self.ui.validateButton.connect("clicked()", self.onValidateButton)
        self.ui.gatherButton.connect("clicked()", self.onGatherButton)
        self.ui.withdrawNetworkButton.connect("clicked()", self.onWithdrawNetworkButton)
        self.ui.publishButton.connect("clicked()", self.onPublishButton)
        self.ui.cancelButton.connect("clicked()", self.onCancelButton)

    def close(self) -> None:
        """See the base class."""
        super().close()
        self.cases.close()

    # ---- what is so

    def reasonNotYet(self) -> str | None:
        """A codec belongs to a task of the site's."""
        if self.context.dependencies.missing() or not self.context.site.isSetUp:
            return _("First enrol this site at a server.")
        try:
            return None if self.context.site.profile().tasks() else _("First found or join a task's consortium.")
        except Exception as error:
            return sentenceFor(error)

    def summary(self) -> str:
        """What the chosen task's networks are, once there is a codec."""
        part = self._part()
        if part is None or not part.codec_path.exists():
            return ""
        return _("codec and own decoder") if part.decoder_path.exists() else _("there is a codec")

    def refresh(self) -> None:
        """List the site's tasks."""
        if self.busy:
            return
        self._device.refresh()
        selector, chosen = self.ui.taskSelector, self.context.settings.text("task")
        blocked = selector.blockSignals(True)
        self._parts = self.context.site.profile().tasks()
        selector.clear()
        for part in self._parts:
            selector.addItem(part.task.title, part.task.name)
        selector.currentIndex = max(0, selector.findData(chosen)) if self._parts else -1
        selector.blockSignals(blocked)
        self.cases.show(self._part())
        self.showState()

    def showState(self) -> None:
        """See the base class."""
        part, free = self._part(), not self.busy
        hasCases = self.cases.usable
        trains = part is not None and (part.membership.founder or part.membership.scope == "site")
        self.ui.stateLabel.text = "" if part is None else _inWords(part)
        self.ui.trainingForm.enabled = free
        self.ui.trainButton.visible = trains
        self.ui.trainingButtons.visible = free
        self.ui.progressRow.visible = not free
        self.ui.publishRow.visible = free and trains and part.candidate_path.exists()
        self.ui.trainButton.enabled = trains and hasCases
        # A member gets the codec by itself; who trains it must have done so.
        usable = part is not None and hasCases and (not trains or part.codec_path.exists())
        self.ui.refineButton.enabled = self.ui.validateButton.enabled = usable
        self._together.show(part, free=free)

    def _onChosen(self, _index: int) -> None:
        part = self._part()
        if part is not None:
            self.context.settings.keep("task", part.task.name)
        self._report.clear()
        self._together.forget()
        self.showMessage("")
        self.cases.show(part)
        self.showState()

    def _part(self) -> TaskProfile | None:
        index = self.ui.taskSelector.currentIndex
        return self._parts[index] if 0 <= index < len(self._parts) else None

    # ---- what can be done

    def onTrainButton(self) -> None:
        """Train, after asking where there is a codec already."""
        part = self._part()
        if part is None:
            return
        replace = part.codec_path.exists()
        if replace and not slicer.util.confirmOkCancelDisplay(
            _(
                "This site has a codec already. What was made with it needs it: with another one the members' cohorts "
                "must be exported again, and the server has to train a new model. Train another codec all the same?"
            ),
            _("Train codec"),
        ):
            return
        command = ["codec", "train", *self._fittingOptions(), *(["--replace"] if replace else [])]
        self._run(command, self.cases.fittingSteps, _("Codec"))

    def onRefineButton(self) -> None:
        """Fit the site's decoder, alone or, after asking, together with the other members."""
        part = self._part()
        if part is None or self.busy:
            return
        if not self._together.isWanted(part):
            self._refine()
            return
        try:
            count = self.cases.fittingCount(part)
        except Exception as error:
            self.showError(error)
            return
        effort = float(self.ui.lengthSelector.currentData)
        self.work(
            _("Looking at what would leave..."), lambda: networkLeaving(part.task, count, effort), self._refineIfAgreed
        )

    def _refineIfAgreed(self, leaving: NetworkLeaving) -> None:
        try:
            agreed = self._consent.agreedToShareNetwork(leaving)
        except Exception as error:
            self.showError(error)
            return
        if agreed:
            self._refine(self._together.words(leaving))
        else:
            self.showMessage(_("Nothing was sent, and nothing was trained."))

    def _refine(self, together: Sequence[str] = ()) -> None:
        self._run(["codec", "refine", *self._fittingOptions(), *together], self.cases.fittingSteps, _("Decoder"))

    def onValidateButton(self) -> None:
        """Score the newest model."""
        keep = [] if self.ui.reportCheckBox.checked else ["--keep"]
        self._run(["model", "validate", *self._deviceOptions(), *keep], self.cases.judgingSteps)

    def onPublishButton(self) -> None:
        """Publish what training refused to, after asking."""
        if slicer.util.confirmOkCancelDisplay(
            _(
                "A codec that keeps a structure badly limits every later segmentation of it, at every member. Publish "
                "it all the same?"
            ),
            _("Publish anyway"),
        ):
            self._run(["codec", "publish", "--publish-anyway"], _withoutCases)

    def onGatherButton(self) -> None:
        """Take the mean of the members' networks as the site's decoder, after asking where it has one of its own."""
        part = self._part()
        if part is None:
            return
        if not part.decoder_path.exists() or slicer.util.confirmOkCancelDisplay(
            _(
                "This site has a decoder of its own. Put the mean of the members' networks in its place? No cases are "
                "asked whether that is better; Refine decoder does."
            ),
            _("Take members' networks"),
        ):
            self._run(["network", "gather"], _withoutCases)

    def onWithdrawNetworkButton(self) -> None:
        """Take the site's network back, after asking."""
        if slicer.util.confirmOkCancelDisplay(
            _(
                "Take this site's network back from the server? Members that have it keep it, and what they learned "
                "from it; others do not get it any more."
            ),
            _("Take back ours"),
        ):
            self._run(["network", "withdraw"], _withoutCases)

    def onCancelButton(self) -> None:
        """End the child; nothing it would have replaced has changed."""
        self._steps.cancel()
        self._finish()
        self.showMessage(
            _("Cancelled; the decoder is as it was. A network that was sent by now stays, until you take it back.")
            if self._sharing
            else _("Cancelled; what there was before is as it was.")
        )

    def _deviceOptions(self) -> list[str]:
        return ["--device", self._device.chosen]

    def _fittingOptions(self) -> list[str]:
        return [*self._deviceOptions(), "--effort", self.ui.lengthSelector.currentData]

    # ---- a command

    def _run(
        self,
        command: Sequence[str],
        stepsOf: Callable[[Sequence[str], TaskProfile], CommandSteps],
        title: str | None = None,
    ) -> None:
        """Run a command on the chosen task; one with a ``title`` has curves.

        :param stepsOf: gives the steps of a command, such as those that also name its cases.
        """
        part = self._part()
        if part is None or self.busy:
            return
        if title is not None:
            self._plot.start(f"{title}: {part.task.title}")
        self._report.clear()
        self._sharing = "--together" in command
        words = [*command, "--task", part.task.name, "--site", str(self.context.site.folder)]
        try:
            steps = stepsOf(words, part)
        except Exception as error:
            self.showError(error)
            return
        self.ui.progressBar.maximum = 0  # it moves, and says no share
        self.cases.setEditable(False)
        self._steps.start(steps, onEvent=self._onEvent, onDone=self._onDone, onError=self._onFailed)
        self.showMessage(_("Starting..."))
        self.showState()

    def _onEvent(self, event: Mapping[str, Any] | None) -> None:
        if event is None:
            return
        if event["event"] == "progress":
            self.showMessage(str(event["text"]))
        elif event["event"] == "fit":
            self._plot.add(event, stageName(event))
            self.ui.progressBar.maximum = 1000
            self.ui.progressBar.value = round(1000 * (event["epoch"] - 1 + event["share"]) / event["epochs"])
            self.showMessage(progressText(event))
        else:
            self._report.add(event)

    def _onDone(self, _none: None) -> None:
        self._finish()
        self.showVerdict(GOOD, _("Done."), self._report.sentences())
        self.context.onChanged(self)

    def _onFailed(self, error: Exception) -> None:
        from ppcmi.errors import CodecError

        self._finish()
        worst, unjudged = self._report.worstStructure(), self._report.unjudgedStructure()
        refused = isinstance(error, ChildFailedError) and error.exitCode == CodecError.exit_code
        if refused and unjudged is not None:
            self.showVerdict(
                BAD,
                _("Not published."),
                _(
                    "None of the cases that were set apart has {structure}, so it is not known how well the codec "
                    "keeps it. Set a case apart that has it; or publish the codec anyway."
                ).format(structure=unjudged),
            )
        elif refused and worst is not None:
            self.showVerdict(
                BAD,
                _("Not published."),
                _(
                    "The codec keeps {structure} at a Dice of only {dice:.2f}. Train longer or with more cases; or "
                    "publish it anyway, knowing that no segmentation will be better than that."
                ).format(structure=worst[0], dice=worst[1]),
            )
        else:
            self.showError(error)

    def _finish(self) -> None:
        self.ui.progressBar.maximum = 100
        self.ui.progressBar.value = 0
        self.cases.setEditable(True)
        self.cases.show(self._part())
        self.showState()


def _withoutCases(words: Sequence[str], _part: TaskProfile) -> CommandSteps:
    """Run a command that needs no cases."""
    return commandSteps(words)


def _inWords(part: TaskProfile) -> str:
    """Which networks there are, and whose turn it is."""
    if not part.codec_path.exists():
        if part.membership.founder or part.membership.scope == "site":
            return _("No codec yet: train it on labelled cases.")
        return _("The founder trains the codec; this site gets it by itself, with its first segmentation or export.")
    if not part.decoder_path.exists():
        return _("There is a codec. Once the server has a model, refine the decoder.")
    return _("There is a codec, and a decoder of this site's own.")
