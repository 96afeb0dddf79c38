"""The host's `slicer.i18n`: strings pass through, or through a translator that a test puts in.

A test that wants to see whether a text of a panel can be translated sets `translator` to mark what it is given.
"""

from collections.abc import Callable


def unchanged(text: str) -> str:
    """Give the text as it is, as Slicer does in English."""
    return text


translator: Callable[[str], str] = unchanged


def tr(text: str) -> str:
    """Translate a text in the context of the file that calls."""
    if not isinstance(text, str):
        raise TypeError(f"Only text can be translated, not {type(text).__name__}.")
    return translator(text)


def translate(context: str, text: str) -> str:
    """Translate a text in a context of its own."""
    if not isinstance(context, str):
        raise TypeError(f"A context is a text, not {type(context).__name__}.")
    return tr(text)
