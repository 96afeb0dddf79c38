"""How values are shown: sizes, counts, times, and names that somebody else typed."""

from __future__ import annotations

import datetime as dt
import unicodedata
from typing import Any

from markupsafe import Markup

NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEPS = ((60, "s"), (60, "min"), (24, "h"), (365, "days"))
_INVISIBLE = {"Cf", "Cc", "Co", "Cs", "Cn", "Zl", "Zp"}


def size(count: int | None) -> str:
    """Bytes as ``4.2 GiB``, in powers of 1024."""
    if count is None:
        return NOTHING
    number, unit = float(count), 0
    while abs(number) >= 1023.95 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    digits = 0 if unit == 0 or number >= 100 else 1
    return f"{number:.{digits}f}\N{NO-BREAK SPACE}{_UNITS[unit]}"


def count(number: int | None) -> str:
    """A whole number with a comma for every thousand."""
    return NOTHING if number is None else f"{number:,}"


def score(number: float | None, digits: int = 3) -> str:
    """A number such as Dice."""
    return NOTHING if number is None else f"{number:.{digits}f}".replace("-", MINUS)


def difference(number: float | None, digits: int = 3) -> str:
    """A signed number, with words for who does not see it."""
    return NOTHING if number is None else f"{number:+.{digits}f}".replace("-", MINUS)


def percent(share: float | None) -> str:
    """A share of 1 as whole percent."""
    return NOTHING if share is None else f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def duration(seconds: float | None) -> str:
    """A duration in its two largest units: ``3 min 20 s``."""
    if seconds is None:
        return NOTHING
    if seconds < 10:
        return f"{seconds:.1f}\N{NO-BREAK SPACE}s"
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours:,}\N{NO-BREAK SPACE}h {minutes}\N{NO-BREAK SPACE}min"
    if minutes:
        return f"{minutes}\N{NO-BREAK SPACE}min {left}\N{NO-BREAK SPACE}s"
    return f"{left}\N{NO-BREAK SPACE}s"


def moment(text: str | None, now: dt.datetime | None = None) -> Markup:
    """A time of the database (UTC) with how long ago it was."""
    if text is None:
        return Markup("<span>{}</span>").format(NOTHING)
    at = parse_moment(text)
    ago = how_long_ago(at, now or dt.datetime.now(dt.UTC))
    return Markup('<time datetime="{}">{} <span class="ago">{}</span></time>').format(
        text, at.strftime("%Y-%m-%d %H:%M\N{NO-BREAK SPACE}UTC"), ago
    )


def parse_moment(text: str) -> dt.datetime:
    """A time of the database."""
    return dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC)


def how_long_ago(at: dt.datetime, now: dt.datetime) -> str:
    """``3 min ago``, ``in 6 days``."""
    seconds = (now - at).total_seconds()
    number, unit = abs(seconds), "years"
    for step, name in _STEPS:
        if number < step:
            unit = name
            break
        number /= step
    if unit == "s" and seconds >= 0:
        return "just now"
    whole = int(number)
    unit = unit.removesuffix("s") if whole == 1 and unit in ("days", "years") else unit
    return f"{whole} {unit} ago" if seconds >= 0 else f"in {whole} {unit}"


def name(text: Any) -> Markup:
    """A name that somebody typed: its direction stays inside of it, what cannot be seen is shown by its number."""
    shown = "".join(f"[U+{ord(c):04X}]" if unicodedata.category(c) in _INVISIBLE else c for c in str(text))
    return Markup('<bdi class="name">{}</bdi>').format(shown)


def plural(number: int, one: str, many: str | None = None) -> str:
    """``1 site``, ``2,000 sites``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


FILTERS = {
    "size": size,
    "count": count,
    "score": score,
    "difference": difference,
    "percent": percent,
    "duration": duration,
    "moment": moment,
    "name": name,
    "plural": plural,
}
