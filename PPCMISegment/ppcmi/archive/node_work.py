"""What a node does with the studies that came: segment, give back, let go; one after the other, for as long as it runs.

A study whose images cannot be segmented is answered with what could be; what hinders all (no server, no archive, no
space) leaves it where it is, and it is tried again with growing pauses. Nothing but what lies in the store says how far
a study is, so that a node goes on after any interruption where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from ppcmi.archive.arrivals import Arrivals
from ppcmi.archive.node_storage import StoredStudy, StudyStore
from ppcmi.archive.stored_results import StoredResults
from ppcmi.errors import CancelledError, PpcmiError, ReadError
from ppcmi.files import append_line, cause_of
from ppcmi.wording import counted

HISTORY = "ppcmi-node.jsonl"
"""What became of every study, in the node's folder."""


@dataclass(frozen=True)
class Segmented:
    """What segmenting a study gave.

    :param results: files to give back.
    :param failures: a sentence for each image that could not be segmented.
    :param found_nothing: in how many images that were segmented there is no structure.
    """

    results: Sequence[Path]
    failures: Sequence[str] = ()
    found_nothing: int = 0


class Segmenter(Protocol):
    """Segments the images in a folder into another; what is done there already is not done again."""

    def __call__(self, images: Path, results: Path) -> Segmented:
        """Segment.

        :raises ReadError: if there is no image.
        :raises PpcmiError: if something hinders all studies.
        """


class Deliverer(Protocol):
    """Gives results back: :class:`ppcmi.archive.node_delivery.Delivery`."""

    def deliver(self, files: Sequence[Path], record: StoredResults) -> int:
        """Send what was not sent before; how many."""


@dataclass(frozen=True)
class Pauses:
    """Seconds before a study is tried again: ``first_s``, and twice as long each time up to ``longest_s``."""

    first_s: float = 5.0
    longest_s: float = 600.0

    def after(self, failures: int) -> float:
        """The pause after so many failures in a row, at least one."""
        return float(min(self.first_s * 2 ** min(failures - 1, 30), self.longest_s))


@dataclass(frozen=True)
class Answer:
    """What became of a study: a line of the history."""

    study: int
    instances: int
    results: int
    failures: Sequence[str]
    found_nothing: int
    finished: str


@dataclass
class _Attempts:
    failures: int = 0
    not_before: float = 0.0
    sentence: str = ""


@dataclass
class NodeWork:
    """The work on the studies of a store.

    :param finish: lets go of an answered study: ``store.remove``, or ``store.keep``.
    :param say: what an operator reads; names no patient, no identifier and no place.
    """

    store: StudyStore
    arrivals: Arrivals
    segment: Segmenter
    delivery: Deliverer
    finish: Callable[[StoredStudy, str], bool]
    history: Path
    say: Callable[[str], None]
    pauses: Pauses = field(default_factory=Pauses)
    clock: Callable[[], float] = time.monotonic
    _attempts: dict[Path, _Attempts] = field(default_factory=dict)

    def run_once(self) -> bool:
        """Work on the first study that is whole and not to be waited for; whether there was one."""
        now = self.clock()
        for study in self.store.studies():
            attempts = self._attempts.get(study.folder, _Attempts())
            if self.arrivals.is_whole(study.folder, now) and now >= attempts.not_before:
                self._work_on(study, attempts)
                return True
        return False

    def _work_on(self, study: StoredStudy, attempts: _Attempts) -> None:
        digest, instances = study.digest(), study.instances
        if not attempts.failures:
            self.say(f"{study.name}: {counted(instances, 'instance')} received")
        try:
            done = self._segment(study)
            sent = self.delivery.deliver(done.results, StoredResults(study.results)) if done.results else 0
        except CancelledError:
            raise
        except PpcmiError as error:
            self._wait(study, attempts, str(error))
            return
        except OSError as error:
            self._wait(study, attempts, f"A file cannot be read or written: {cause_of(error)}.")
            return
        except Exception as error:  # the node serves other studies as well
            self._wait(study, attempts, f"It failed for an unforeseen reason ({type(error).__name__}); report it.")
            return
        answer = Answer(study.number, instances, sent, tuple(done.failures), done.found_nothing, _now())
        append_line(self.history, json.dumps(asdict(answer)))
        for sentence in dict.fromkeys(done.failures):
            self.say(f"{study.name}: {sentence}")
        if done.found_nothing:
            self.say(f"{study.name}: no structure was found in {counted(done.found_nothing, 'image')}")
        self._attempts.pop(study.folder, None)
        if self.finish(study, digest):
            self.arrivals.forget(study.folder)
        self.say(f"{study.name}: {counted(sent, 'result')} given back")

    def _segment(self, study: StoredStudy) -> Segmented:
        try:
            return self.segment(study.images, study.results)
        except ReadError as error:
            return Segmented((), (str(error),))

    def _wait(self, study: StoredStudy, attempts: _Attempts, sentence: str) -> None:
        failures = attempts.failures + 1
        pause = self.pauses.after(failures)
        if sentence != attempts.sentence:
            self.say(f"{study.name} waits: {sentence}")
        self._attempts[study.folder] = replace(
            attempts, failures=failures, not_before=self.clock() + pause, sentence=sentence
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
