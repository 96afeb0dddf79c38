"""The site's end of the HTTP protocol, version 1: one method a call, bytes and JSON in and out.

Certificates are always verified; plain http is for loopback only. Whatever goes wrong on the way is a
:class:`ConnectionFailedError`, whatever the server refuses a :class:`ServerRefusedError`. Calls that may be repeated
without harm are, with growing pauses; 429 and 503 are waited out as the server asks (RFC 9110, Retry-After).
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from ppcmi import __version__
from ppcmi.connection_errors import (
    FailedCallError,
    OffProtocolError,
    ProtocolVersionError,
    failed_call,
    refusal,
    retry_after,
)
from ppcmi.connections import BearerToken, ClientCertificate, open_adapter
from ppcmi.errors import CancelledError, ConnectionFailedError
from ppcmi.server_address import is_loopback, normalize_url

PROTOCOL = 1
MEBIBYTE = 1 << 20
JSON_BYTES = 4 * MEBIBYTE
BUNDLE_BYTES = 512 * MEBIBYTE
CODEC_BYTES = 256 * MEBIBYTE
NETWORK_BYTES = 64 * MEBIBYTE
NOT_FOUND = 404
LONGEST_TOKEN = 200
OCTETS = "application/octet-stream"
CODEC_HEADER = "X-PPCMI-Codec"


@dataclass(frozen=True)
class Patience:
    """How long to wait and how often to try again.

    :param connect_s: seconds to reach the server.
    :param read_s: seconds without a byte from it.
    :param attempts: tries of one call in all.
    :param pause_s: first pause between tries; it doubles.
    :param longest_pause_s: bound of a pause, also of one that the server asks for.
    """

    connect_s: float = 10.0
    read_s: float = 120.0
    attempts: int = 5
    pause_s: float = 0.5
    longest_pause_s: float = 30.0


class ServerClient:
    """Calls of one site on one server; safe to use from several threads.

    :param url: as :func:`~ppcmi.server_address.normalize_url` takes it.
    :param token: from enrolment, or None before it.
    :param ca_file: certificate authority (PEM) to trust *instead of* the system's.
    :param pin: SHA-256 (hex) of the one certificate that the server may show, which is in ``ca_file``.
    :param certificate: what to show to a server that asks for a certificate.

    Example::

        client = ServerClient("https://ppcmi.example.org", token, ca_file)
        reply = client.map_bundle("hippocampus-mr", bundle, model=3)
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        ca_file: Path | None = None,
        patience: Patience | None = None,
        *,
        pin: str | None = None,
        certificate: ClientCertificate | None = None,
    ) -> None:
        self.url = normalize_url(url)
        self.patience = patience or Patience()
        self._verify: bool | str = True if ca_file is None else str(ca_file)
        self._adapter = open_adapter(ca_file, pin, certificate)
        self._session = requests.Session()
        self._session.mount("https://", self._adapter)
        self._session.mount("http://", self._adapter)
        self._session.auth = BearerToken(token)
        self._session.headers.update({"User-Agent": f"ppcmi/{__version__}", "Accept-Encoding": "identity"})
        # On loopback nothing may go through a proxy that the environment names: the token would travel in clear.
        self._session.trust_env = not is_loopback(urlsplit(self.url).hostname or "")
        self._abort = threading.Event()

    def abort(self) -> None:
        """End every call that is under way with a :class:`CancelledError`; the server sees them disconnect.

        Later calls work as usual.
        """
        self._abort.set()
        self._abort = threading.Event()
        self._adapter.abort()

    def close(self) -> None:
        """End calls under way and let go of the connections."""
        self.abort()
        self._session.close()

    # ---- the service and the site

    def info(self) -> dict[str, Any]:
        """Service, version, protocol and public key.

        :raises ConnectionFailedError: also if it is no such server, or one of another protocol.
        """
        info = self._json("GET", "/v1/info")
        if info.get("service") != "ppcmi-server":
            raise OffProtocolError("There is a server at this address, but it is not a PPCMI server.")
        if info.get("protocol") != PROTOCOL:
            raise ProtocolVersionError("The server speaks another version of the protocol; update the older side.")
        return info

    def enrol(self, code: str, public_key: bytes) -> dict[str, Any]:
        """Trade a one-time code for the site's identity; not repeated by itself, as a code works once."""
        return self._json("POST", "/v1/enrol", {"code": code, "public_key": _text(public_key)}, repeatable=False)

    def me(self) -> dict[str, Any]:
        """The caller's site and scopes, and the digest of the audit log's newest event."""
        return self._json("GET", "/v1/me")

    def find_in_audit_log(self, digest: str) -> int:
        """Number of the event with that digest in the server's audit log; 404 if there is none."""
        return int(self._json("GET", f"/v1/audit/{_part(digest)}").get("event", 0))

    # ---- tokens

    def rotate_token(self) -> str:
        """A new token for the caller's; repeated if need be, as only the last one is any good then."""
        return _token_in(self._json("POST", "/v1/token", {}))

    def retire_token(self) -> None:
        """End the token that the caller's replaced."""
        self._call("POST", "/v1/token/retire", {})

    def add_token(self, label: str, scopes: Sequence[str], days: float | None) -> str:
        """A narrower token for a workstation; ``days`` is None for until it is revoked."""
        body = {"label": label, "scopes": list(scopes), "days": days}
        return _token_in(self._json("POST", "/v1/tokens", body, repeatable=False))

    def tokens(self) -> list[dict[str, Any]]:
        """The site's tokens that work, without the tokens themselves."""
        return self._list("/v1/tokens")

    def revoke_token(self, token_id: str) -> None:
        """End one of the site's tokens."""
        self._call("DELETE", f"/v1/tokens/{_part(token_id)}")

    # ---- tasks and consortium

    def tasks(self) -> list[dict[str, Any]]:
        """Every task on the server."""
        return self._list("/v1/tasks")

    def task(self, name: str) -> dict[str, Any]:
        """Task document, active model and consortium of one task."""
        return self._json("GET", f"/v1/tasks/{_part(name)}")

    def create_consortium(self, task: str, scope: str, mode: str, inner_check: str | None) -> None:
        """Found the task's consortium; 409 if there is one."""
        body = {"scope": scope, "mode": mode, "inner_check": inner_check}
        self._call("POST", f"/v1/tasks/{_part(task)}/consortium", body, repeatable=False)

    def find_site(self, name: str) -> dict[str, Any]:
        """Id and public key of the site of that name."""
        return self._json("GET", f"/v1/sites?name={_part(name)}")

    def invite(self, task: str, to: str, sealed: bytes) -> None:
        """Leave a sealed invitation for site ``to``."""
        self._call("POST", f"/v1/tasks/{_part(task)}/invitations", {"to": to, "sealed": _text(sealed)})

    def invitation(self, task: str) -> tuple[bytes, str]:
        """The newest invitation for the caller, still sealed, and the name of the site that it is from."""
        answer = self._json("GET", f"/v1/tasks/{_part(task)}/invitation")
        return decode_binary(answer.get("sealed")), str(answer.get("from"))

    def join(self, task: str) -> None:
        """Become a member, after an invitation."""
        self._call("POST", f"/v1/tasks/{_part(task)}/members", {})

    def put_codec(self, task: str, encrypted: bytes, fingerprint: str) -> None:
        """Publish the consortium's encrypted codec, in place of an earlier one."""
        self._call("PUT", f"/v1/tasks/{_part(task)}/codec", encrypted, headers={CODEC_HEADER: fingerprint})

    def codec(self, task: str) -> tuple[bytes, str]:
        """The consortium's codec, still encrypted, and its fingerprint."""
        body, headers = self._call("GET", f"/v1/tasks/{_part(task)}/codec", limit=CODEC_BYTES)
        return body, headers.get(CODEC_HEADER, "")

    # ---- networks that members share

    def put_network(self, task: str, encrypted: bytes, codec: str) -> None:
        """Leave the site's encrypted network for the other members, in place of an earlier one."""
        self._call("PUT", f"/v1/tasks/{_part(task)}/network", encrypted, headers={CODEC_HEADER: codec})

    def withdraw_network(self, task: str) -> None:
        """Take the site's network back: its bytes are gone from the server."""
        self._call("DELETE", f"/v1/tasks/{_part(task)}/network")

    def networks(self, task: str) -> list[dict[str, Any]]:
        """Which members share a network that goes with the consortium's present codec."""
        return self._list(f"/v1/tasks/{_part(task)}/networks")

    def network(self, task: str, site_id: str) -> bytes:
        """A member's network, still encrypted; 404 if there is none any longer."""
        return self._call("GET", f"/v1/tasks/{_part(task)}/networks/{_part(site_id)}", limit=NETWORK_BYTES)[0]

    # ---- cohorts

    def create_cohort(self, task: str, header: bytes) -> str:
        """Announce a cohort by its file's header; the same header gives the same id again."""
        answer = self._json("POST", f"/v1/tasks/{_part(task)}/cohorts", {"header": _text(header)})
        if "cohort_id" not in answer:
            raise OffProtocolError
        return str(answer["cohort_id"])

    def cohort(self, cohort_id: str) -> dict[str, Any]:
        """State, received frames, chunks of others, and number of cases of a cohort of the caller's."""
        return self._json("GET", f"/v1/cohorts/{_part(cohort_id)}")

    def put_frame(self, cohort_id: str, index: int, frame: bytes) -> None:
        """Send one frame; the same frame again changes nothing.

        Not repeated by itself: :class:`ppcmi.frame_sender.FrameSender` asks first what has arrived.
        """
        self._call("PUT", f"/v1/cohorts/{_part(cohort_id)}/frames/{index}", frame, repeatable=False)

    def put_chunk(
        self, cohort_id: str, index: int, offset: int, chunk: bytes, *, frame_bytes: int, frame_digest: str
    ) -> None:
        """Send a part of a frame, not repeated by itself either; with the last one the frame is whole.

        :param frame_bytes: of the whole frame; ``frame_digest`` is its SHA-256 in hex.
        """
        headers = {
            "X-PPCMI-Frame-Bytes": str(frame_bytes),
            "X-PPCMI-Frame-Digest": frame_digest,
            "X-PPCMI-Digest": hashlib.sha256(chunk).hexdigest(),
        }
        path = f"/v1/cohorts/{_part(cohort_id)}/frames/{index}/chunks/{offset}"
        self._call("PUT", path, chunk, repeatable=False, headers=headers)

    def commit_cohort(self, cohort_id: str, frames: int, digest: str) -> dict[str, Any]:
        """Declare a cohort whole; answers numbers of cases and slices."""
        return self._json("POST", f"/v1/cohorts/{_part(cohort_id)}/commit", {"frames": frames, "digest": digest})

    def withdraw(self, cohort_id: str, case: str | None = None) -> None:
        """Take back a cohort, or one case of it by its pseudonym: its bytes are gone from the server."""
        path = f"/v1/cohorts/{_part(cohort_id)}"
        self._call("DELETE", path if case is None else f"{path}/cases/{_part(case)}")

    # ---- models

    def models(self, task: str) -> list[dict[str, Any]]:
        """Every model of a task with its curve and the sites' validations."""
        return self._list(f"/v1/tasks/{_part(task)}/models")

    def report_validation(self, task: str, model: int, numbers: Mapping[str, Any]) -> None:
        """Send the site's scores of a model, numbers only."""
        self._call("POST", f"/v1/tasks/{_part(task)}/models/{model}/validations", dict(numbers), repeatable=False)

    def map_bundle(self, task: str, bundle: bytes, model: int) -> bytes:
        """Have image latents mapped to mask latents; repeated if need be, as it changes nothing on the server."""
        return self._call("POST", f"/v1/tasks/{_part(task)}/map?model={model}", bundle, limit=BUNDLE_BYTES)[0]

    # ---- how a call is made

    def _json(self, method: str, path: str, body: Any = None, *, repeatable: bool = True) -> dict[str, Any]:
        answer = _parse(self._call(method, path, body, repeatable=repeatable)[0])
        if not isinstance(answer, dict):
            raise OffProtocolError
        return answer

    def _list(self, path: str) -> list[dict[str, Any]]:
        answer = _parse(self._call("GET", path)[0])
        if not isinstance(answer, list):
            raise OffProtocolError
        return answer

    def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        repeatable: bool = True,
        headers: Mapping[str, str] | None = None,
        limit: int = JSON_BYTES,
    ) -> tuple[bytes, Mapping[str, str]]:
        """Body and headers of a successful answer, after as many tries as are sensible."""
        binary = isinstance(body, bytes)
        content = body if binary or body is None else json.dumps(body).encode()
        kind = {} if content is None else {"Content-Type": OCTETS if binary else "application/json"}
        abort, pause = self._abort, self.patience.pause_s
        for attempt in range(1, self.patience.attempts + 1):
            last = attempt == self.patience.attempts
            try:
                status, answer, got = self._once(
                    method, path, content, headers={**kind, **(headers or {})}, limit=limit, abort=abort
                )
            except FailedCallError as failure:
                if abort.is_set():
                    raise CancelledError("Cancelled.") from failure
                if last or not (repeatable and failure.passing):
                    raise failure.error from failure
                wait = pause
            else:
                if status < 300:
                    return answer, got
                if last or not (status in (429, 503) or (repeatable and status in (502, 504))):
                    raise refusal(status, answer)
                wait = max(pause, retry_after(got))
            if abort.wait(min(wait, self.patience.longest_pause_s)):
                raise CancelledError("Cancelled.")
            pause *= 2
        raise AssertionError("the last attempt returns or raises")

    def _once(
        self,
        method: str,
        path: str,
        content: bytes | None,
        *,
        headers: Mapping[str, str],
        limit: int,
        abort: threading.Event,
    ) -> tuple[int, bytes, Mapping[str, str]]:
        if abort.is_set():
            raise CancelledError("Cancelled.")
        try:
            with self._session.request(
                method,
                self.url + path,
                data=io.BytesIO(content) if content else content,  # in pieces, each with its own timeout
                headers=headers,
                timeout=(self.patience.connect_s, self.patience.read_s),
                verify=self._verify,  # here, not on the session: there the environment would take precedence
                allow_redirects=False,
                stream=True,
            ) as response:
                return response.status_code, _read_up_to(response.iter_content(MEBIBYTE), limit), response.headers
        except (requests.RequestException, OSError) as error:
            raise failed_call(error) from error


def decode_binary(text: Any) -> bytes:
    """Bytes of a base64 field in an answer.

    :raises ConnectionFailedError: if it is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise OffProtocolError from error


def _token_in(answer: Mapping[str, Any]) -> str:
    token = answer.get("token")
    if not isinstance(token, str) or not token.isascii() or not 0 < len(token) <= LONGEST_TOKEN:
        raise OffProtocolError
    return token


def _read_up_to(chunks: Iterable[bytes], limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise FailedCallError(
                ConnectionFailedError("The server's answer is larger than this call allows."), passing=False
            )
        parts.append(chunk)
    return b"".join(parts)


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise OffProtocolError from error


def _part(text: str) -> str:
    return quote(text, safe="")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
