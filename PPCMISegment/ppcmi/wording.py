"""Numbers and names in sentences for people."""

from __future__ import annotations


def counted(count: int, name: str) -> str:
    """A number of things: ``1 case``, ``2 cases``."""
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def megabytes(count: int) -> str:
    """A number of bytes as people read it."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def size_in_words(count: int) -> str:
    """A number of bytes that may be small: ``32 bytes``, ``1.6 kB``, ``2.3 MB``."""
    return counted(count, "byte") if count < 1000 else megabytes(count)


def about(seconds: float) -> str:
    """A time that is estimated: ``about 40 s``, ``about 3 min``, ``about 2.5 h``."""
    minutes = seconds / 60
    if minutes < 1.5:
        return f"about {seconds:.0f} s"
    return f"about {minutes:.0f} min" if minutes < 90 else f"about {minutes / 60:.1f} h"


def printable(text: str) -> str:
    """A name as a user typed it, fit for a one-line message."""
    return "".join(c for c in text if c.isprintable())[:80]
