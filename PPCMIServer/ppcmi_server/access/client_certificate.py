"""The certificate that a client shows (mutual TLS), from the connection to the request.

uvicorn keeps a connection's TLS to itself; what ``app_state`` holds, it copies into every request's ``scope["state"]``.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any

NAME = "client_certificate"


def with_client_certificate(state: Mapping[str, Any], transport: asyncio.BaseTransport) -> dict[str, Any]:
    """A connection's state with the SHA-256 (hex) of the certificate that the client showed; None without one.

    TLS has checked the certificate by then.
    """
    tls = transport.get_extra_info("ssl_object")
    shown = None if tls is None else tls.getpeercert(binary_form=True)
    return {**state, NAME: None if shown is None else hashlib.sha256(shown).hexdigest()}


def client_certificate(scope: Mapping[str, Any]) -> str | None:
    """What :func:`with_client_certificate` found, for a request."""
    found: str | None = scope.get("state", {}).get(NAME)
    return found
