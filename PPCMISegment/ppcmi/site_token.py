"""The token by which a site is known to its server: replaced now and then, and never without one that works.

The new token is on disk before the old one is ended. Whoever is killed in between has one that works: by itself the
server ends the old one only some time after the new one was first used.
"""

from __future__ import annotations

from ppcmi.connection_errors import TokenRefusedError
from ppcmi.errors import SiteError, UsageError
from ppcmi.site import SiteProfile


def rotate_token(site: SiteProfile) -> None:
    """Replace the profile's token by a new one; the old one ends.

    :raises ServerRefusedError: if somebody has replaced it already, e.g. on another workstation.
    """
    client = site.client()
    try:
        token = client.rotate_token()
    finally:
        client.close()
    site.keep_token(token)
    client = site.client()
    try:
        client.retire_token()
    finally:
        client.close()


def use_token(site: SiteProfile, token: str) -> list[str]:
    """Have the profile use another token of the same site, e.g. a narrower one; its scopes.

    :raises UsageError: if it is no token.
    :raises SiteError: if the server does not know it, or as another site's.
    """
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError("That is not a token; give what 'ppcmi site token add' printed.")
    client = site.client(token=token)
    try:
        me = client.me()
    except TokenRefusedError as error:
        raise SiteError(
            "The server does not know this token, or no longer; the profile keeps the one it has."
        ) from error
    finally:
        client.close()
    if me.get("site_id") != site.identity.site_id:
        raise SiteError("The token is another site's; the profile keeps the one it has.")
    site.keep_token(token)
    return [str(scope) for scope in me.get("scopes", [])]
