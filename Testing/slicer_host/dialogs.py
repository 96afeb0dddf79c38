"""Dialogs: recorded as they come up, and answered by the test, for nobody sits in front of a headless Slicer.

A box with a single button is acknowledged by itself. A question without an answer prepared raises `UnansweredError`:
in Slicer it would stand there until somebody answers.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from PySide6 import QtWidgets
from PySide6.QtCore import Property

from .pythonqt import wrap

Answer = str | list[str] | Callable[[Any], None]
_Button = QtWidgets.QMessageBox.StandardButton


class UnansweredError(AssertionError):
    """A dialog asked something and the test had prepared no answer."""


@dataclass(frozen=True)
class ShownDialog:
    """What a dialog said: its class, texts, and buttons ("Yes", "Cancel", ...)."""

    kind: str
    title: str
    text: str
    details: str = ""
    buttons: tuple[str, ...] = ()


@dataclass
class Dialogs:
    """The dialogs shown since the last `clear`, and the answers that wait for the next ones."""

    shown: list[ShownDialog] = field(default_factory=list)
    answers: deque[Answer] = field(default_factory=deque)

    def answer(self, *answers: Answer) -> None:
        """Prepare answers, one a dialog, in order.

        A message box takes a button's name ("yes", "cancel"); a file or input dialog a path or text ("" for Cancel), or
        a list of paths; any other dialog "ok", "cancel", or a callable that gets the dialog, fills it in and closes it.
        """
        self.answers.extend(answers)

    def clear(self) -> None:
        """Forget what was shown and what was prepared."""
        self.shown.clear()
        self.answers.clear()

    @property
    def texts(self) -> list[str]:
        """The texts of all dialogs shown."""
        return [dialog.text for dialog in self.shown]

    def next_answer(self, dialog: ShownDialog) -> Answer:
        """Record a dialog and give the answer prepared for it."""
        self.shown.append(dialog)
        if not self.answers:
            raise UnansweredError(f'{dialog.kind} "{dialog.title}" asked "{dialog.text}" and no answer was prepared.')
        return self.answers.popleft()


dialogs = Dialogs()
"""The dialogs of this process; Qt's static functions (`QFileDialog.getSaveFileName`) know no other place."""


def _button_names(buttons: _Button) -> tuple[str, ...]:
    return tuple(b.name for b in _Button if b.value.bit_count() == 1 and b.value >= _Button.Ok.value and b in buttons)


def _answer_message_box(shown: ShownDialog) -> _Button:
    if len(shown.buttons) <= 1 and not dialogs.answers:
        dialogs.shown.append(shown)
        return _Button[shown.buttons[0]] if shown.buttons else _Button.Ok
    answer = dialogs.next_answer(shown)
    for name in shown.buttons:
        if isinstance(answer, str) and name.lower() == answer.lower():
            return _Button[name]
    raise UnansweredError(f'"{answer}" is none of the buttons {", ".join(shown.buttons)} of "{shown.text}".')


class MessageBox(QtWidgets.QMessageBox):
    """QMessageBox, answered by the test."""

    cpp_class_name: ClassVar[str] = "QMessageBox"

    def exec(self) -> int:
        """Record the box and give the button that the test prepared."""
        names = _button_names(self.standardButtons())
        shown = ShownDialog(self.icon().name, self.windowTitle().strip(), self.text(), self.detailedText(), names)
        return _answer_message_box(shown).value


def _static_box(kind: str) -> Any:
    def show(
        parent: Any, title: str, text: str, buttons: _Button = _Button.Ok, default: _Button = _Button.NoButton
    ) -> Any:
        return _answer_message_box(ShownDialog(kind, title, text, "", _button_names(buttons)))

    return staticmethod(show)


for _kind in ("Information", "Warning", "Critical"):
    setattr(MessageBox, _kind.lower(), _static_box(_kind))
MessageBox.question = staticmethod(  # type: ignore[method-assign]
    lambda parent, title, text, buttons=_Button.Yes | _Button.No, default=_Button.NoButton: _answer_message_box(
        ShownDialog("Question", title, text, "", _button_names(buttons))
    )
)


class CtkMessageBox(MessageBox):
    """ctkMessageBox: a QMessageBox that can be told not to come again."""

    cpp_class_name: ClassVar[str] = "ctkMessageBox"

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._settings_key = ""
        self._dont_show_again = False

    dontShowAgainSettingsKey = Property(
        str, lambda self: self._settings_key, lambda self, key: setattr(self, "_settings_key", key)
    )
    dontShowAgain = Property(
        bool, lambda self: self._dont_show_again, lambda self, value: setattr(self, "_dont_show_again", value)
    )


class Dialog(QtWidgets.QDialog):
    """QDialog: `exec_` hands it to the test, which fills it in and accepts or rejects it."""

    cpp_class_name: ClassVar[str] = "QDialog"

    def exec(self) -> int:
        """Show the dialog, let the prepared answer act on it, and give what it closed with."""
        title = self.windowTitle()
        answer = dialogs.next_answer(ShownDialog(type(self).__name__, title, title))
        self.show()
        if callable(answer):
            answer(wrap(self))
        elif answer == "ok":
            self.accept()
        else:
            self.reject()
        if self.isVisible():
            raise UnansweredError(f'The prepared answer left the dialog "{title}" open.')
        return self.result()


class FileDialog(QtWidgets.QFileDialog):
    """QFileDialog's static functions; as in PythonQt they give the path alone, "" after Cancel."""

    cpp_class_name: ClassVar[str] = "QFileDialog"

    def exec(self) -> int:
        """Refuse: the static functions are what the host answers."""
        raise UnansweredError("The host answers QFileDialog's static functions only.")


def _static_file_dialog(kind: str) -> Any:
    def ask(parent: Any = None, caption: str = "", directory: str = "", *_: Any) -> Any:
        return dialogs.next_answer(ShownDialog(kind, caption, directory))

    return staticmethod(ask)


for _kind in ("getOpenFileName", "getOpenFileNames", "getSaveFileName", "getExistingDirectory"):
    setattr(FileDialog, _kind, _static_file_dialog(_kind))


class InputDialog(QtWidgets.QInputDialog):
    """QInputDialog's static functions; as in PythonQt they give the value alone."""

    cpp_class_name: ClassVar[str] = "QInputDialog"


def _static_input(kind: str) -> Any:
    def ask(parent: Any, title: str, label: str, *_: Any) -> Any:
        return dialogs.next_answer(ShownDialog(kind, title, label))

    return staticmethod(ask)


for _kind in ("getText", "getMultiLineText", "getItem", "getInt", "getDouble"):
    setattr(InputDialog, _kind, _static_input(_kind))

STAND_INS: dict[str, type[QtWidgets.QWidget]] = {
    "QDialog": Dialog,
    "QFileDialog": FileDialog,
    "QInputDialog": InputDialog,
    "QMessageBox": MessageBox,
}
