"""A large cohort and a bad line: the memory that an upload takes on both ends, and the bytes that go twice.

``python -m benchmarks.service_large [NAME...]``, numbers in docs/results/service.json. Frames are random latents
through the real channel; they need room on the disk for the cohort file and for what the server stores of it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import SEPARATOR, Measurement, here_and_now, measure, measurement
from ppcmi.client import Patience, ServerClient
from ppcmi.site import SiteProfile
from ppcmi_server.access import identity
from ppcmi_server.config import load_config
from ppcmi_server.services import open_services
from support.app_server import TASK
from support.bad_line import bad_line_to
from support.killable import KillableServer, killable_server, start_process
from support.resident_memory import peak_mib
from support.uploads import UploadingSite, add_task, differences, make_server

COMMAND = "python -m benchmarks.service_large"
GIGABYTE = 10**9
SIZE = 5 * GIGABYTE
SLICES = 680
"""Of a frame: 16 MiB, which goes in chunks."""
PARTS = 16
"""Frames of a case."""
SLICE_BYTES = 24 << 10
POLL_S = 0.1
STUBBORN = Patience(connect_s=5, read_s=60, attempts=5, pause_s=0.05)
LINE = {"cut_every": 640_000, "bytes_per_second": 1_280_000}
"""256 kbit/s, cut every 20 s, in a fortieth of the time: as many bytes from one cut to the next."""


@dataclass(frozen=True)
class Upload:
    """What an upload took; memory at its highest, in MiB."""

    size: int
    seconds: float
    server_mib: float
    client_mib: float
    is_whole: bool


def upload_of(folder: Path, size: int, parts: int = PARTS) -> Upload:
    """Write a cohort of so many bytes, upload it by a process of its own, and watch."""
    with _server(folder) as (server, site):
        path = folder / "large.ppcmi"
        cases = -(-size // (parts * SLICES * SLICE_BYTES))
        source = site.write_cohort(path, [SLICES] * cases, parts=parts)
        begin = time.monotonic()
        client, client_mib = start_process(_upload, site.profile.folder, path), 0.0
        while client.is_alive():
            client_mib = max(client_mib, peak_mib(client.pid))
            time.sleep(POLL_S)
        seconds, server_mib = time.monotonic() - begin, peak_mib(server.pid)
        state = site.client.cohort(site.client.create_cohort(TASK.name, source.header_bytes))
        whole = client.exitcode == 0 and state["state"] == "whole" and len(state["frames"]) == source.end.frames
        return Upload(path.stat().st_size, seconds, server_mib, client_mib, whole)


def large() -> list[Measurement]:
    """A cohort of 5 GB."""
    with tempfile.TemporaryDirectory(prefix="ppcmi-large-") as scratch:
        done = upload_of(Path(scratch), SIZE)
    origin = here_and_now()

    def row(name: str, value: float, unit: str, at_most: float | None = None) -> Measurement:
        return measurement(name, value, unit, command=COMMAND, origin=origin, at_most=at_most)

    table = "upload of a large cohort"
    return [
        row(f"{table}: server's memory, PyTorch and all", done.server_mib, "MiB", 1000),
        row(f"{table}: client's memory, PyTorch and all", done.client_mib, "MiB", 1000),
        row(f"{table}: frames that are not there whole", 0 if done.is_whole else 1, "cohorts", 0),
        row(SEPARATOR.join((table, "cohort")), done.size / GIGABYTE, "GB"),
        row(SEPARATOR.join((table, "time on loopback")), done.seconds, "s"),
    ]


def line() -> list[Measurement]:
    """A cohort over a slow line that is cut again and again."""
    with tempfile.TemporaryDirectory(prefix="ppcmi-line-") as scratch:
        folder = Path(scratch)
        with _server(folder) as (server, site):
            path = folder / "line.ppcmi"
            source = site.write_cohort(path, [340, 64, 64, 64, 340])
            with bad_line_to(server.url, **LINE) as bad:
                summary = site.upload(path, ServerClient(bad.url, site.token, patience=STUBBORN))
            services = open_services(load_config(folder / "server"))
            wrong = differences(services, summary.cohort_id, source)
            services.database.close()
            size, passed, cuts = path.stat().st_size, bad.passed, bad.cuts
    origin = here_and_now()

    def row(name: str, value: float, unit: str, at_most: float | None = None) -> Measurement:
        return measurement(name, value, unit, command=COMMAND, origin=origin, at_most=at_most)

    table = "upload over 256 kbit/s, cut every 20 s (times 40)"
    return [
        row(f"{table}: frames that differ", len(wrong), "frames", 0),
        row(f"{table}: sent again for each cut", (passed - size) / cuts / 1024, "KiB", 640),
        row(SEPARATOR.join((table, "cohort")), size / 1e6, "MB"),
        row(SEPARATOR.join((table, "sent")), passed / 1e6, "MB"),
        row(SEPARATOR.join((table, "cuts")), cuts, "count"),
    ]


@contextmanager
def _server(folder: Path) -> Iterator[tuple[KillableServer, UploadingSite]]:
    """A server in a process of its own, and a site."""
    make_server(folder / "server", {"training": {"workers": 0}})
    services = open_services(load_config(folder / "server"))
    add_task(services)
    with services.database.writing() as session:
        code = identity.add_site(session, "Hospital A")
    services.database.close()
    with killable_server(folder / "server") as server:
        yield server, UploadingSite(folder / "site", server.url, code)


def _upload(profile: Path, path: Path) -> None:
    site = SiteProfile.open(profile)
    UploadingSite.send(site, site.task(TASK.name), path, site.client())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure."""
    return measure("service", {"line": line, "large": large}, arguments)


if __name__ == "__main__":
    sys.exit(main())
