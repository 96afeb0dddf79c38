"""Numbers in sentences for people."""

from __future__ import annotations


def counted(count: int, name: str) -> str:
    """A number of things: ``1 case``, ``2 cases``."""
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def megabytes(count: int) -> str:
    """A number of bytes as people read it."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
