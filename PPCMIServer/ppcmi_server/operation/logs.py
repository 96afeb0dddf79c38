"""What the server and its workers write about themselves: one line an event, JSON or text, for machines first.

::

    {"time": "2026-11-21T02:38:01.250Z", "level": "info", "logger": "ppcmi_server.access", "event": "request",
     "request": "5f0c...", "method": "GET", "route": "/v1/me", "status": 200, "ms": 3.1}

Our own code logs a name and fields: ``LOG.info("job-started", extra={"fields": {"job": 3}})``. Fields are ids, numbers
and fixed words, never what a user or a request brought along. The text of other libraries' lines, and of exceptions,
may hold anything, so of those only kind and place are written: module, function and line.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
import threading
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

from ppcmi_server.settings import LogSettings

OWN = ("ppcmi", "ppcmi_server")
PLACES = 6
LOG = logging.getLogger("ppcmi_server.errors")

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that is being served; lines written meanwhile carry it."""


def configure_logging(settings: LogSettings, stream: TextIO) -> None:
    """Write to ``stream`` from now on, also what no code catches. For entry points."""
    handler = _LineHandler(stream)
    handler.setFormatter(JsonLines() if settings.format == "json" else TextLines())
    root = logging.getLogger()
    for earlier in root.handlers[:]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    for name in OWN:
        logging.getLogger(name).setLevel(settings.level.upper())
    sys.excepthook = lambda _, error, __: log_error("uncaught", error)
    threading.excepthook = lambda thread: log_error("uncaught-in-thread", thread.exc_value)


def log_error(event: str, error: BaseException | None, **fields: str | int) -> None:
    """An error that nobody expected: its kind and where it came from."""
    LOG.error(event, extra={"fields": {**fields, **describe(error)}})


def describe(error: BaseException | None) -> dict[str, str]:
    """Kind and places of an error and of what caused it, without any text of theirs."""
    if error is None:
        return {"kind": "unknown"}
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    frames = traceback.extract_tb(error.__traceback__)[-PLACES:]
    found = {
        "kind": type(error).__name__,
        "at": " < ".join(f"{Path(frame.filename).stem}.{frame.name}:{frame.lineno}" for frame in reversed(frames)),
    }
    return found if cause is None else {**found, "cause": type(cause).__name__}


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """As :class:`logging.Formatter`."""
        return json.dumps(_content(record), default=lambda value: type(value).__name__)


class TextLines(logging.Formatter):
    """The same for people."""

    def format(self, record: logging.LogRecord) -> str:
        """As :class:`logging.Formatter`."""
        content = _content(record)
        first = [content.pop(name) for name in ("time", "level", "logger", "event")]
        return " ".join([*first, *(f"{name}={_plain(value)}" for name, value in content.items())])


class _LineHandler(logging.StreamHandler[TextIO]):
    """A log that cannot be written neither stops what it tells of nor shows elsewhere what it was to say."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Count as said."""


def _content(record: logging.LogRecord) -> dict[str, Any]:
    moment = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds")
    content = {
        "time": moment.replace("+00:00", "Z"), "level": record.levelname.lower(), "logger": record.name,
        **_said(record),
    }  # fmt: skip
    request = REQUEST_ID.get()
    if request is not None:
        content.setdefault("request", request)
    if record.exc_info and record.exc_info[1] is not None:
        content.update(describe(record.exc_info[1]))
    return content


def _said(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", None)
    if isinstance(fields, Mapping) and record.name.split(".")[0] in OWN:
        return {"event": record.msg, **fields}
    if record.name.split(".")[0] in OWN and not record.args:
        return {"event": record.msg}
    return {"event": "library", "at": f"{record.module}.{record.funcName}:{record.lineno}"}


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=lambda other: type(other).__name__)
    return f'"{text}"' if " " in text else text
