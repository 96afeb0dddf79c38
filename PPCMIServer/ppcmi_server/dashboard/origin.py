"""Where a request comes from: whether another site's page sent it, and whether the way here is encrypted.

Browsers tell by Fetch Metadata (W3C, ``Sec-Fetch-Site``), which they send over HTTPS and to loopback only; older ones
by ``Origin`` (RFC 6454). Our own pages have the referrer policy ``no-referrer``, under which ``Origin`` of a form is
``null`` (Fetch standard, "append a request Origin header"): then Fetch Metadata must vouch for it.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import Request

from ppcmi.server_address import is_loopback
from ppcmi_server.errors import forbidden

COOKIE = "ppcmi-operator"
SECURE_COOKIE = f"__Secure-{COOKIE}"


def require_own_page(request: Request) -> None:
    """Refuse what another site's page sends.

    :raises RefusalError: 403.
    """
    sent_by, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if sent_by is not None:
        own = sent_by == "same-origin" and (origin in (None, "null") or _is_ours(request, origin))
    else:
        own = origin is None or _is_ours(request, origin)
    if not own:
        raise forbidden("Another site's page sent this; open the dashboard itself, over HTTPS or on its own machine.")


def is_encrypted(request: Request) -> bool:
    """Whether the browser came by HTTPS, to this server or to a proxy before it."""
    if request.url.scheme == "https":
        return True
    return "Sec-Fetch-Site" in request.headers and not is_loopback(request.url.hostname or "")


def cookie_name(request: Request) -> str:
    """The cookie's name; over HTTPS one that nobody can set without (RFC 6265bis, section 4.1.3)."""
    return SECURE_COOKIE if is_encrypted(request) else COOKIE


def _is_ours(request: Request, origin: str | None) -> bool:
    return urlsplit(origin or "").netloc == request.headers.get("Host")
