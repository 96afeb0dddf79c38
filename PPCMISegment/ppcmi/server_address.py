"""The server's address as users type it."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from ppcmi.errors import UsageError


def normalize_url(text: str) -> str:
    """The server's address as ``scheme://host[:port][/path]``: a missing scheme is https, or http on loopback.

    :raises UsageError: if it is no address, holds a user name or a query, or is http to another machine.
    """
    url = normalize_url_without_tls(text)
    if url.startswith("http://") and not is_loopback(urlsplit(url).hostname or ""):
        raise UsageError("The server is on another machine, so its address must start with https://.")
    return url


def normalize_url_without_tls(text: str) -> str:
    """As :func:`normalize_url`, and also http to another machine: for users who insist, as what travels is in clear.

    :raises UsageError: if it is no address, or holds a user name or a query.
    """
    text = text.strip()
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError("The server's address is not valid; it looks like https://ppcmi.example.org:8765.") from error
    if not host or any(c.isspace() for c in text):
        raise UsageError("The server's address is not valid; it looks like https://ppcmi.example.org:8765.")
    scheme = parts.scheme or ("http" if is_loopback(host) else "https")
    if scheme not in ("http", "https"):
        raise UsageError("The server's address starts with https://.")
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError("The server's address has no user name, question mark or number sign in it.")
    return f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine by name or by number."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
