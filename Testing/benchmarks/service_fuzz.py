"""100,000 requests that no client would send: ``python -m benchmarks.service_fuzz``.

The numbers are in docs/results/service.json.

Three kinds, at the application on a real socket with valid tokens: made up from the OpenAPI description (schemathesis),
forged bundles, and requests with bytes flipped, cut and doubled on their way. And 100,000 forged bundles read in this
process. What counts is that nothing is answered with 5xx, hangs, or is answered as no problem document.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import requests

from benchmarks.results import SEPARATOR, Measurement, here_and_now, measurement, merge
from ppcmi.errors import BundleError, KeyMismatchError
from ppcmi.quantization import Quantization
from ppcmi_server.settings import RateSettings
from support.app_server import TASK, AppServer, SiteAtServer, app_server, make_latents
from support.bundle_forgery import random_forgery
from support.bundles import make_channel, seal_latents
from support.openapi_fuzz import HANG_S, FuzzOutcome, fuzz_description
from support.random_models import add_model, random_umn

COMMAND = "python -m benchmarks.service_fuzz"
NO_RATES = RateSettings(requests_per_minute=10**9, mapped_slices_per_hour=10**9, failed_per_minute=10**9)
SECONDS_OF_SILENCE = 0.05
"""After which the client says that nothing more comes: the server may wait for a damaged request's rest until then."""


def described(server: AppServer, site: SiteAtServer, count: int) -> FuzzOutcome:
    """Made up from the description: as many valid as invalid requests for every operation."""
    operations = sum(
        len(methods) for methods in requests.get(f"{server.url}/openapi.json", timeout=30).json()["paths"].values()
    )
    spare = server.add_site("Hospital C")  # its tokens end on the way
    examples = max(1, count // (2 * operations))
    return fuzz_description(server.url, lambda path: spare.token if "/token" in path else site.token, examples, seed=1)


def forged(server: AppServer, site: SiteAtServer, count: int) -> FuzzOutcome:
    """Bundles taken apart and put together wrong, to be mapped."""
    outcome, session, chance = FuzzOutcome(), requests.Session(), random.Random(2)
    bundles = [site.bundle(make_latents(1, 1), quantization=q) for q in Quantization]
    headers = {"Authorization": f"Bearer {site.token}"}
    for _ in range(count):
        with outcome.timing():
            answer = session.post(
                f"{server.url}/v1/tasks/{TASK.name}/map",
                data=random_forgery(chance.choice(bundles), chance),
                headers=headers,
                timeout=HANG_S,
            )
            outcome.statuses[answer.status_code] += 1
            if answer.status_code >= 300 and answer.headers.get("Content-Type") != "application/problem+json":
                outcome.fail(f"map {answer.status_code}: no problem document")
    return outcome


def mutated(server: AppServer, site: SiteAtServer, count: int) -> FuzzOutcome:
    """Whole requests with bytes changed on their way; where the server waits for more, it is told that none comes."""
    outcome, chance, parts = FuzzOutcome(), random.Random(3), urlsplit(server.url)
    bundle = site.bundle(make_latents(1, 1), quantization=Quantization.I8)[:2000]
    heads = {
        "GET /v1/tasks": b"", "GET /v1/me": b"", f"GET /v1/tasks/{TASK.name}/models": b"",
        f"POST /v1/tasks/{TASK.name}/map": bundle, "POST /v1/enrol": b'{"code": "abcd", "public_key": "AAAA"}',
        f"POST /v1/tasks/{TASK.name}/invitations": b'{"to": "0123456789abcdef", "sealed": "AAAA"}',
        "PUT /v1/cohorts/00112233445566778899aabbccddeeff/frames/0": bytes(100),
    }  # fmt: skip
    for _ in range(count):
        route, body = chance.choice(list(heads.items()))
        kind = "application/octet-stream" if body[:1] != b"{" else "application/json"
        request = (
            f"{route} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.token}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        ).encode() + body
        got = b""
        with outcome.timing():
            got = _exchange(parts.hostname or "", parts.port or 0, _damage(request, chance))
        if got.startswith(b"HTTP/1.1 "):
            outcome.statuses[int(got[9:12])] += 1
            if int(got[9:12]) >= 400 and b"application/problem+json" not in got:
                outcome.fail(f"{route} {got[9:12].decode()}: no problem document")
    return outcome


def read_here(count: int) -> FuzzOutcome:
    """Forged bundles, opened as the server does it."""
    outcome, chance, channel = FuzzOutcome(), random.Random(4), make_channel()
    bundles = [seal_latents(quantization=q) for q in Quantization]
    for _ in range(count):
        bundle = random_forgery(chance.choice(bundles), chance)
        with outcome.timing():
            try:
                channel.open(bundle)
                outcome.statuses[200] += 1
            except (BundleError, KeyMismatchError):
                outcome.statuses[422] += 1
            except Exception as error:  # what the server would answer with 500
                outcome.statuses[500] += 1
                outcome.fail(f"open: {type(error).__name__}")
    return outcome


def _damage(request: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(request)
    for _ in range(chance.choice((1, 1, 2, 4))):
        place, length = chance.randrange(len(damaged) + 1), chance.choice((1, 1, 3, 20))
        match chance.randrange(4):
            case 0:
                damaged[place : place + length] = chance.randbytes(length)
            case 1:
                del damaged[place : place + length]
            case 2:
                damaged[place:place] = chance.choice(
                    (b"\r\n", b"\x00", b":", b" ", b"\r\nTransfer-Encoding: chunked", b"%00")
                )
            case _:
                damaged[place:place] = damaged[place : place + length]
    return bytes(damaged)


def _exchange(host: str, port: int, request: bytes) -> bytes:
    """The answer's beginning, nothing where the server closes without one; ends when the server lets go.

    :raises TimeoutError: if it does not, though it was told that nothing more comes.
    """
    got = b""
    try:
        with socket.create_connection((host, port), timeout=HANG_S) as connection:
            connection.sendall(request)
            connection.settimeout(SECONDS_OF_SILENCE)
            with contextlib.suppress(TimeoutError):
                got = connection.recv(1 << 16)
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(HANG_S)
            while len(got) < 1 << 16 and (data := connection.recv(1 << 16)):
                got += data
    except TimeoutError:
        raise
    except OSError:
        return got  # the server has closed it
    return got


KINDS: Mapping[str, Callable[[AppServer, SiteAtServer, int], FuzzOutcome]] = {
    "made up from the description": described,
    "forged bundles": forged,
    "damaged on their way": mutated,
}
SHARES = {"made up from the description": 0.02, "forged bundles": 0.18, "damaged on their way": 0.8}
"""By what a request costs: making one up takes a hundred times as long as damaging one."""


def main() -> int:
    """Fuzz and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    options = parser.parse_args()
    found: dict[str, FuzzOutcome] = {}
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="ppcmi-fuzz-") as scratch,
        app_server(Path(scratch) / "server", {"rates": NO_RATES}, idle_seconds=2.0) as server,
    ):
        add_model(server.services, random_umn())
        site, _ = server.add_consortium("Hospital A", "Hospital B")
        for kind, fuzz in KINDS.items():
            found[kind] = fuzz(server, site, round(options.requests * SHARES[kind]))
            print(kind, found[kind], flush=True)
        assert requests.get(f"{server.url}/readyz", timeout=HANG_S).status_code == 200
    seconds = time.monotonic() - started
    found["bundles read in the process"] = read_here(options.requests)
    print(found["bundles read in the process"], f"{seconds:.0f} s")
    merge("service", numbers(found, seconds))
    return 0


def numbers(found: Mapping[str, FuzzOutcome], seconds: float) -> list[Measurement]:
    """What is kept."""
    origin = here_and_now()
    at_the_server = [found[kind] for kind in KINDS]

    def row(name: str, value: float, unit: str, *, at_most: float | None = None) -> Measurement:
        name = SEPARATOR.join(("fuzzed requests", name))
        return measurement(name, value, unit, command=COMMAND, origin=origin, at_most=at_most)

    return [
        row("requests", sum(one.requests for one in at_the_server), "requests"),
        row("answers 5xx", sum(one.failed for one in at_the_server), "answers", at_most=0),
        row("hangs", sum(one.hangs for one in at_the_server), "requests", at_most=0),
        row(
            "answers that the description does not know",
            sum(len(one.failures) for one in at_the_server),
            "kinds",
            at_most=0,
        ),
        row("slowest answer", max(one.slowest_s for one in at_the_server), "s", at_most=HANG_S),
        row("time", seconds, "s"),
        row(
            "forged bundles opened, neither read nor refused",
            found["bundles read in the process"].failed,
            "bundles",
            at_most=0,
        ),
        row("forged bundles opened", found["bundles read in the process"].requests, "bundles"),
    ]


if __name__ == "__main__":
    sys.exit(main())
