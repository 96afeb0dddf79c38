"""Upload a cohort file, and take back what was uploaded.

An upload is a generator of progress, a frame at a time, and holds a few frames in memory. One that was cut off goes on
where it was: the server says which frames it has, and which chunks of others (:mod:`ppcmi.frame_sender`).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ppcmi.client import ServerClient
from ppcmi.cohort_file import CohortReader
from ppcmi.errors import SiteError
from ppcmi.frame_sender import LARGEST_BYTES, FrameSender, extents_of
from ppcmi.in_flight import InFlight
from ppcmi.site import SiteProfile
from ppcmi.task_profile import TaskProfile

POLL_S = 0.1
MEMORY_BYTES = 64 << 20
"""Frames that are under way, unless a single one is larger."""


@dataclass(frozen=True)
class UploadProgress:
    """``done`` of ``total`` frames are on the server; ``bytes_sent`` by this upload."""

    done: int
    total: int
    bytes_sent: int


@dataclass(frozen=True)
class UploadSummary:
    """The cohort's id on the server, and what the server counted.

    ``bytes_again`` of ``bytes_sent`` were in pieces that a cut of the connection ended.
    """

    cohort_id: str
    cases: int
    slices: int
    bytes_sent: int
    bytes_again: int = 0


def upload_cohort(
    path: Path, site: SiteProfile, part: TaskProfile, client: ServerClient, *, in_flight: int = 4
) -> Generator[UploadProgress, None, UploadSummary]:
    """Send a cohort file; what the server has already is not sent again.

    :raises BundleError: if the file is cut off or damaged; nothing is committed then.
    :raises SiteError: if the file is of another task, or was withdrawn.
    """
    reader = CohortReader(path)
    if reader.header.task != part.task.identity:
        raise SiteError("The cohort file is of another task, or of another version of it.")
    cases = [frame.case for _, frame in reader.frames()]  # also finds a cut before anything is sent
    total, end = len(cases), reader.end
    cohort_id = client.create_cohort(part.task.name, reader.header_bytes)
    state = client.cohort(cohort_id)
    if state.get("state") == "withdrawn":
        raise SiteError("This cohort was withdrawn; export it again to upload it anew.")
    # With its pseudonyms from now on: the server may have the cohort whole though its answer to that is lost.
    facts = {"task": part.task.name, "profile": str(reader.header.profile), "pseudonyms": sorted(set(cases))}
    site.record_cohort(cohort_id, {**facts, "state": "open"})
    there = set(state.get("frames", []))
    sender = FrameSender(client, cohort_id, min(LARGEST_BYTES, int(state.get("chunk_bytes", LARGEST_BYTES))))
    done, sizes = len(there), dict[int, int]()
    yield UploadProgress(done, total, 0)
    with InFlight[int, None](in_flight, sender.abort) as calls:

        def finish() -> UploadProgress:
            nonlocal done
            for index, _ in calls.finished(POLL_S):
                sizes.pop(index)
                done += 1
            return UploadProgress(done, total, sender.bytes_sent)

        for index, frame in reader.frames():
            if index in there:
                continue
            while calls.full or (sizes and sum(sizes.values()) + len(frame.data) > MEMORY_BYTES):
                yield finish()
            sizes[index] = len(frame.data)
            calls.start(index, partial(sender.send, index, frame.data, extents_of(state, index)))
        while len(calls):
            yield finish()
    counted = client.commit_cohort(cohort_id, end.frames, end.digest)
    kept = {"cases": int(counted.get("cases", 0)), "slices": int(counted.get("slices", 0))}
    site.record_cohort(cohort_id, {**facts, **kept, "state": "whole"})
    return UploadSummary(cohort_id, kept["cases"], kept["slices"], sender.bytes_sent, sender.bytes_again)


@dataclass(frozen=True)
class CohortBeside:
    """Another cohort of the same task that this site has at the server.

    :param profile: that it was exported in, ``own_profile`` that of the one it is beside.
    :param cases_again: cases that are in both.
    """

    cohort_id: str
    profile: str
    own_profile: str
    cases_again: int


def beside(site: SiteProfile, cohort_id: str) -> list[CohortBeside]:
    """The site's other cohorts of the same task that it has not withdrawn, by its own records."""
    cohorts = site.cohorts()
    own = cohorts[cohort_id]

    def cases(facts: Mapping[str, Any]) -> set[str]:
        return set(facts.get("pseudonyms", [])) - set(facts.get("taken_back", []))

    return [
        CohortBeside(other, str(facts.get("profile")), str(own.get("profile")), len(cases(facts) & cases(own)))
        for other, facts in cohorts.items()
        if other != cohort_id and facts.get("task") == own.get("task") and facts.get("state") != "withdrawn"
    ]


def withdraw(site: SiteProfile, client: ServerClient, cohort_id: str, case: str | None = None) -> None:
    """Take back a cohort, or one case of it by its name at the site.

    :raises SiteError: if the site knows no such cohort or case.
    """
    facts = site.cohorts().get(cohort_id)
    if facts is None:
        raise SiteError(
            "This site has uploaded no cohort of that id; choose one that it has.", command="ppcmi cohort list"
        )
    if case is None:
        never_whole = client.cohort(cohort_id).get("state") == "open"
        client.withdraw(cohort_id)
        # Nothing learned from what never was whole, so its cases do not count as uploaded.
        site.record_cohort(cohort_id, {"state": "withdrawn"} | ({"pseudonyms": []} if never_whole else {}))
        return
    pseudonym = site.pseudonym_of(str(facts["task"]), case)
    uploaded, taken_back = facts.get("pseudonyms", []), facts.get("taken_back", [])
    if pseudonym not in uploaded or pseudonym in taken_back:
        raise SiteError("That cohort holds no case of that name.")
    client.withdraw(cohort_id, pseudonym)
    # It stays among those that were uploaded: models of that time have seen it.
    site.record_cohort(
        cohort_id, {"taken_back": [*taken_back, pseudonym], "cases": len(uploaded) - len(taken_back) - 1}
    )
