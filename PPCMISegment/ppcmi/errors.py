"""Typed errors: one sentence that says what is wrong and what to do.

The text of an error never holds a path, a key, a token or anything from an image header: it may travel into a log or a
message box. Whoever shows an error beside a file (the command line, a batch table) adds the name of its own accord.
"""


class PpcmiError(Exception):
    """Base of everything a user can cause; ``exit_code`` is what the command line ends with.

    :param command: what helps on the command line, which shows it; windows have buttons instead.
    """

    exit_code = 1

    def __init__(self, sentence: str = "", *, command: str = "") -> None:
        super().__init__(sentence)
        self.command = command


class UsageError(PpcmiError):
    """The request itself does not make sense: a missing option, an unknown name."""

    exit_code = 2


class TaskError(PpcmiError):
    """A task file is not valid, or does not fit what it is used for."""

    exit_code = 3


class ReadError(PpcmiError):
    """An image or a segmentation cannot be read."""

    exit_code = 4


class GeometryError(PpcmiError):
    """A geometry is not usable, or two that must agree do not."""

    exit_code = 5


class WriteError(PpcmiError):
    """A result cannot be written."""

    exit_code = 6


class KeyMismatchError(PpcmiError):
    """Latents were protected with another key than the one at hand."""

    exit_code = 7


class BundleError(PpcmiError):
    """A bundle or cohort file is cut off, malformed, larger than allowed, or not what was asked for."""

    exit_code = 8


class CodecError(PpcmiError):
    """There is no codec, it is not good enough to publish, or it does not belong to the task."""

    exit_code = 9


class SiteError(PpcmiError):
    """The site's own set-up is incomplete: not enrolled, not in the consortium, no profile."""

    exit_code = 10


class ConnectionFailedError(PpcmiError):
    """The server cannot be reached, or its certificate is not trusted."""

    exit_code = 11


class ServerRefusedError(PpcmiError):
    """The server answered with a problem document (RFC 9457).

    ``status`` is the HTTP status, ``title`` and ``detail`` are the document's own.
    """

    exit_code = 12

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(f"{title}: {detail}" if detail else title)
        self.status = status
        self.title = title
        self.detail = detail


class TrainingError(PpcmiError):
    """Training cannot start or did not give a usable result."""

    exit_code = 13


class DeviceMemoryError(PpcmiError):
    """The device's memory is too small for a single slice."""

    exit_code = 14


class AuditError(PpcmiError):
    """A privacy check cannot be done: too few patients, no labels."""

    exit_code = 15


class CasesFailedError(PpcmiError):
    """Some of many cases could not be worked on; the others are done."""

    exit_code = 20


class CancelledError(PpcmiError):
    """The user cancelled; what was finished before is kept."""

    exit_code = 130
