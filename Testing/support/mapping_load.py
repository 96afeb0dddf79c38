"""Many clients of several sites at one server, each answer held against what the same bundle gives alone."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import requests

from ppcmi.bundle_header import read_header
from ppcmi.errors import PpcmiError
from ppcmi.latents import Latents
from ppcmi.quantization import Quantization
from support.app_server import TASK, SiteAtServer, make_latents

TOLERANCE = 2e-3
"""Of masks of about 1: float32 sums in batches of other sizes, and the link layer's rounding."""
SLICES = (1, 2, 3, 4, 8, 16)
LONGEST_PAUSE_S = 2.0
REQUEST_S = 120.0


@dataclass(frozen=True)
class Question:
    """A bundle of a site, and the masks that it gives when nobody else asks."""

    site: SiteAtServer
    bundle: bytes
    expected: Latents


@dataclass
class Outcome:
    """What became of the requests."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    broken: int = 0
    seconds: list[float] = field(default_factory=list)

    def __iadd__(self, other: Outcome) -> Outcome:
        self.statuses += other.statuses
        self.wrong += other.wrong
        self.broken += other.broken
        self.seconds += other.seconds
        return self

    @property
    def failures(self) -> int:
        """Answers of status 500 and above; 503 asks to come back, but nothing here should make it necessary."""
        return sum(count for status, count in self.statuses.items() if status >= 500)

    def quantile_ms(self, part: float) -> float:
        """Of the requests that were answered with masks."""
        return 1000 * statistics.quantiles(self.seconds, n=1000, method="inclusive")[round(part * 1000) - 1]


def questions(sites: Sequence[SiteAtServer], each: int, verify: Path | None = None) -> list[Question]:
    """Bundles of every site with their answers, asked one after the other."""
    made = []
    for place, site in enumerate(sites):
        for number in range(each):
            seed = 1000 * place + number
            images = make_latents(SLICES[number % len(SLICES)], seed)
            quantization = (Quantization.F32, Quantization.I8)[number % 2]
            bundle = site.bundle(images, case=seed, quantization=quantization)
            status, answer = _ask(requests.Session(), site, bundle, verify)
            assert status == 200, answer
            _, masks = site.protection().unprotect_reply(answer, read_header(bundle))
            made.append(Question(site, bundle, masks))
    return made


def run_clients(
    asked: Sequence[Question], clients: int, seconds: float, verify: Path | None = None, pause_s: float = 0.0
) -> Outcome:
    """So many clients ask for so long, one request after the other; who is told to come back does."""
    total, lock, end = Outcome(), threading.Lock(), time.monotonic() + seconds

    def client(number: int) -> None:
        nonlocal total
        chance, own, session = random.Random(number), Outcome(), requests.Session()
        while time.monotonic() < end:
            question = chance.choice(asked)
            _one(question, session, own, verify, lambda wait: time.sleep(min(wait, LONGEST_PAUSE_S)))
            time.sleep(pause_s * 2 * chance.random())
        with lock:
            total += own

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + REQUEST_S)
        assert not thread.is_alive(), "a client hangs"
    return total


def _one(
    question: Question, session: requests.Session, outcome: Outcome, verify: Path | None, pause: Callable[[float], None]
) -> None:
    start = time.monotonic()
    try:
        status, answer = _ask(session, question.site, question.bundle, verify)
    except requests.RequestException:
        outcome.broken += 1
        return
    outcome.statuses[status] += 1
    if status != 200:
        pause(float(answer) if status in (429, 503) else 0.1)
        return
    outcome.seconds.append(time.monotonic() - start)
    outcome.wrong += not is_answer_to(question, bytes(answer))


def is_answer_to(question: Question, answer: bytes) -> bool:
    """Whether the site's own key opens it, it answers this request, and holds the masks that were expected."""
    try:
        _, masks = question.site.protection().unprotect_reply(answer, read_header(question.bundle))
    except PpcmiError:
        return False
    coarse = read_header(question.bundle).quantization is Quantization.I8
    for scale, values in question.expected.items():
        step = values.abs().max() / 127 if coarse else 0.0
        if ((masks[scale] - values).abs() > 2 * step + TOLERANCE).any():
            return False
    return True


def _ask(session: requests.Session, site: SiteAtServer, bundle: bytes, verify: Path | None) -> tuple[int, bytes | str]:
    """Status, and the answer or how long to wait."""
    answer = session.post(
        f"{site.url}/v1/tasks/{TASK.name}/map",
        data=bundle,
        headers={"Authorization": f"Bearer {site.token}", "Content-Type": "application/octet-stream"},
        timeout=REQUEST_S,
        verify=True if verify is None else str(verify),
    )
    return answer.status_code, answer.content if answer.status_code == 200 else answer.headers.get("Retry-After", "1")
