"""The package pynetdicom, which only a node needs."""

from __future__ import annotations

import logging
from types import ModuleType

from ppcmi.errors import SiteError


def require_pynetdicom() -> ModuleType:
    """The package, silent: its log would hold what peers and headers say.

    :raises SiteError: if it is missing.
    """
    try:
        import pynetdicom  # noqa: PLC0415 only a node needs it
        import pynetdicom.sop_class  # noqa: PLC0415
    except ImportError as error:
        raise SiteError("The Python package pynetdicom is missing; install ppcmi[dicom].") from error
    logger = logging.getLogger("pynetdicom")
    logger.propagate = False
    logger.setLevel(logging.CRITICAL + 1)
    return pynetdicom
