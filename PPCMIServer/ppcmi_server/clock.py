"""Time as the database has it: UTC in ISO 8601, whole seconds, so that text sorts as time does."""

from __future__ import annotations

import datetime as dt


def now() -> str:
    """This moment, e.g. ``2026-11-21T02:38:01Z``."""
    return _text(dt.datetime.now(dt.UTC))


def in_future(days: float) -> str:
    """A moment ``days`` from now."""
    return _text(dt.datetime.now(dt.UTC) + dt.timedelta(days=days))


def ago(seconds: float) -> str:
    """A moment ``seconds`` before now."""
    return _text(dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds))


def _text(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
