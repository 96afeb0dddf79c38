"""64 clients of four sites at a real server over TLS, every answer compared: ``python -m benchmarks.service_load``.

Writes into docs/results/service.json. ``--minutes`` says how long (10 without it), ``--hours`` is the same for a soak.
The server is ``ppcmi-server serve`` in a process of its own; the clients are threads of another, on the same machine,
and open and compare every answer, so they take part of its processors.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.results import SEPARATOR, Measurement, here_and_now, measurement, merge
from ppcmi.client import ServerClient
from support.app_server import IMPATIENT, SiteAtServer, app_server
from support.loopback import write_certificate
from support.mapping_load import Outcome, questions, run_clients
from support.random_models import add_model, random_umn
from support.real_server import serving
from support.resident_memory import resident_mib

COMMAND = "python -m benchmarks.service_load"
SITES = ("Hospital A", "Hospital B", "Hospital C", "Hospital D")
CLIENTS = 64
SAMPLE_S = 5.0
LONGEST_REQUEST_S = 60.0


@dataclass
class ServerMemory:
    """Resident memory of the server's process, in MiB, and its open files, every few seconds."""

    pid: int
    mib: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    _done: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take samples while the context lasts."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def _run(self) -> None:
        waited = False
        while not waited:
            waited = self._done.wait(SAMPLE_S)
            self.mib.append(resident_mib(self.pid))
            self.files.append(sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir()))

    def growth_percent(self) -> float:
        """Mean of the last quarter over that of the second: the first is when caches fill."""
        quarter = max(1, len(self.mib) // 4)
        second, last = self.mib[quarter : 2 * quarter] or self.mib, self.mib[-quarter:]
        return 100 * (sum(last) / len(last)) / (sum(second) / len(second)) - 100


@contextmanager
def a_server_with_sites(folder: Path) -> Iterator[tuple[int, list[SiteAtServer], Path]]:
    """The server's process, its sites, and the certificate that they trust."""
    with app_server(folder / "server") as server:  # to set up; what is measured is a process of its own
        sites = server.add_consortium(*SITES)
        add_model(server.services, random_umn())
    certificate = write_certificate(folder / "server.pem")
    with serving(folder / "server", "--tls-cert", str(certificate), "--tls-key", str(certificate)) as served:
        for site in sites:
            site.url = served.url
            site.client = ServerClient(served.url, site.token, ca_file=certificate, patience=IMPATIENT)
        yield served.pid, sites, certificate


def load(seconds: float, clients: int = CLIENTS) -> tuple[Outcome, ServerMemory]:
    """Let the clients ask for so long."""
    with (
        tempfile.TemporaryDirectory(prefix="ppcmi-load-") as scratch,
        a_server_with_sites(Path(scratch)) as (pid, sites, certificate),
    ):
        asked = questions(sites, 8, certificate)
        run_clients(asked, clients, min(10.0, seconds), certificate)
        memory = ServerMemory(pid)
        with memory.watched():
            return run_clients(asked, clients, seconds, certificate), memory


def numbers(outcome: Outcome, memory: ServerMemory, seconds: float) -> list[Measurement]:
    """What is kept."""
    title = f"{CLIENTS} clients of {len(SITES)} sites over TLS for {seconds / 60:g} minutes"
    origin = here_and_now()

    def row(name: str, value: float, unit: str, *, at_most: float | None = None) -> Measurement:
        return measurement(SEPARATOR.join((title, name)), value, unit, command=COMMAND, origin=origin, at_most=at_most)

    return [
        row("wrong answers", outcome.wrong, "answers", at_most=0),
        row("answers 5xx", outcome.failures, "answers", at_most=0),
        row("connections that broke", outcome.broken, "requests", at_most=0),
        row("memory grew by", memory.growth_percent(), "%", at_most=5),
        row("99th percentile of a mapped request", outcome.quantile_ms(0.99), "ms", at_most=1000 * LONGEST_REQUEST_S),
        row("median of a mapped request", outcome.quantile_ms(0.5), "ms", at_most=1000 * LONGEST_REQUEST_S),
        row("mapped", outcome.statuses[200], "requests"),
        row("told to come back (429) and did", outcome.statuses[429], "requests"),
        row("memory at the end", memory.mib[-1], "MiB"),
        row("most open files", max(memory.files), "files"),
    ]


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--hours", type=float, default=0.0, help="a soak, in place of the minutes")
    options = parser.parse_args()
    seconds = 3600 * options.hours or 60 * options.minutes
    started = time.monotonic()
    outcome, memory = load(seconds)
    found = numbers(outcome, memory, seconds)
    for number in found:
        print(f"{number.name}: {number.measured:g} {number.unit}")
    print(f"statuses {dict(outcome.statuses)}, {time.monotonic() - started:.0f} s in all")
    merge("service", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
