"""Where the site profile lies when nobody says otherwise; command line, batch and Slicer agree on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def usual_site_folder(environment: Mapping[str, str]) -> Path:
    """``$PPCMI_SITE_DIR``, else ``ppcmi/site`` in the user's folder for configuration (XDG Base Directory).

    :param environment: the process's, passed in by an entry point.
    """
    if environment.get("PPCMI_SITE_DIR"):
        return Path(environment["PPCMI_SITE_DIR"])
    return Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "ppcmi" / "site"
