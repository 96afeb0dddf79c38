"""The HTTP below DICOMweb: who we are, whom we trust, and how much may arrive.

Certificates are always verified, nobody is followed elsewhere with our credentials, and what arrives is counted as it
arrives, whatever its header declared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from ppcmi import __version__
from ppcmi.connections import BearerToken, open_adapter
from ppcmi.errors import ReadError
from ppcmi.server_address import is_loopback

MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30


@dataclass(frozen=True)
class ArchiveAccess:
    """Where an archive is and how to enter it; at most one of token and password.

    :param url: of the DICOMweb service, e.g. ``https://pacs.example.org/dicom-web``.
    :param token: a bearer token (RFC 6750).
    :param user: with ``password``, basic authentication (RFC 7617).
    :param ca_file: certificate authority (PEM) to trust instead of the system's.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None


@dataclass(frozen=True)
class DownloadLimits:
    """How much may arrive.

    :param instance_bytes: of one instance, as it is held in memory.
    :param study_bytes: in all.
    :param spare_bytes: that stay free on the disk.
    """

    instance_bytes: int = 2 * GIBIBYTE
    study_bytes: int = 64 * GIBIBYTE
    spare_bytes: int = 512 * MEBIBYTE


class Meter:
    """Counts the bytes that arrive, and ends a transfer that has more than it may."""

    def __init__(self, limits: DownloadLimits) -> None:
        self._limits = limits
        self._since = 0
        self.total = 0

    def instance_is_whole(self) -> None:
        """What arrives from here on belongs to the next instance."""
        self._since = 0

    def count(self, size: int) -> None:
        """``size`` bytes have arrived.

        :raises ReadError: if these are too many.
        """
        self._since += size
        self.total += size
        if self._since > self._limits.instance_bytes:
            raise ReadError("The archive sends an image that is larger than an image may be; choose another series.")
        if self.total > self._limits.study_bytes:
            raise ReadError("The archive sends more than a study may have; choose series of it by --series.")


class ArchiveSession(requests.Session):
    """A session of requests for one archive.

    :param meter: is told of all that arrives.
    :raises CertificateError: if the file of the certificate authority cannot be read.
    """

    def __init__(self, access: ArchiveAccess, meter: Meter) -> None:
        super().__init__()
        self._verify: bool | str = True if access.ca_file is None else str(access.ca_file)
        adapter = open_adapter(access.ca_file)
        self.mount("https://", adapter)
        self.mount("http://", adapter)
        self.auth = _credentials(access)
        self.headers.update({"User-Agent": f"ppcmi/{__version__}", "Accept-Encoding": "identity"})
        self.trust_env = not is_loopback(
            urlsplit(access.url).hostname or ""
        )  # a proxy must not see what is for loopback
        self.max_redirects = 0
        self.hooks["response"].append(_Counting(meter))

    def merge_environment_settings(self, *arguments: Any, **options: Any) -> Any:
        """As requests', but no variable of the environment decides whom to trust."""
        settings: Any = super().merge_environment_settings(*arguments, **options)
        settings["verify"] = self._verify
        return settings


class _Counting:
    """A hook of requests that makes a response count its content as it is read."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __call__(self, response: requests.Response, **_: Any) -> requests.Response:
        read = response.iter_content

        def counted(chunk_size: int | None = 1, decode_unicode: bool = False) -> Iterator[Any]:
            for chunk in read(chunk_size, decode_unicode):
                self._meter.count(len(chunk))
                yield chunk

        response.iter_content = counted  # type: ignore[method-assign]  # also `content` reads through it
        return response


def _credentials(access: ArchiveAccess) -> AuthBase:
    if access.user is not None:
        return HTTPBasicAuth(access.user.encode(), (access.password or "").encode())
    return BearerToken(access.token)
