"""Forms as browsers send them: ``application/x-www-form-urlencoded``, small, read without a library for multipart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from urllib.parse import parse_qsl

from fastapi import Request

from ppcmi.errors import UsageError
from ppcmi_server.api.bodies import receive_chunks
from ppcmi_server.errors import RefusalError, unprocessable

MAXIMUM_BYTES = 64 << 10
MAXIMUM_FIELDS = 40
MEDIA_TYPE = "application/x-www-form-urlencoded"


class Form:
    """The fields of a form; each has one value."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields

    def text(self, name: str) -> str:
        """A field without space around it; empty if there is none."""
        return self._fields.get(name, "").strip()

    def whole_number(self, name: str) -> int | None:
        """A field's number, or None if it is empty.

        :raises UsageError: if it is none.
        """
        text = self.text(name)
        if not text:
            return None
        if not text.isascii() or not text.isdigit() or len(text) > 15:
            raise UsageError("A field that takes a whole number has something else; go back and correct it.")
        return int(text)

    def number(self, name: str) -> float | None:
        """A field's number of at least 0, or None if it is empty.

        :raises UsageError: if it is none.
        """
        text = self.text(name)
        if not text:
            return None
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or number < 0:
            raise UsageError("A field that takes a number has something else; go back and correct it.")
        return number


async def read_form(request: Request) -> Form:
    """The request's form.

    :raises RefusalError: 415 for another kind of body, 422 if it cannot be read.
    :raises HTTPException: 413 or 408, see :func:`receive_chunks`.
    """
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != MEDIA_TYPE or "Content-Encoding" in request.headers:
        raise RefusalError(415, "unsupported-media-type", "Unsupported", "A form is sent URL-encoded; use the page's.")
    limits = request.app.state.services.config.limits
    body = bytearray()
    async for chunk in receive_chunks(request, MAXIMUM_BYTES, limits.idle_seconds):
        body += chunk
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(body), errors="strict",
            max_num_fields=MAXIMUM_FIELDS,
        )  # fmt: skip
    except ValueError as error:
        raise unprocessable("The form cannot be read; go back, reload the page and send it again.") from error
    if len({name for name, _ in pairs}) != len(pairs):
        raise unprocessable("The form has a field twice; go back, reload the page and send it again.")
    return Form(dict(pairs))
