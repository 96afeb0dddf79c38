"""What a test asks of an upload: its frames, what the server keeps of it, and how it was refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ppcmi.cohort_file import CohortReader
from ppcmi.errors import ServerRefusedError
from support.app_server import AppServer


def frames_of(cohort: CohortReader) -> list[bytes]:
    return [frame.data for _, frame in cohort.frames()]


def blobs_of(server: AppServer, cohort_id: str) -> dict[str, bytes]:
    """What the blob store has of a cohort."""
    blobs = server.services.blobs
    folder = f"cohorts/{cohort_id}"
    return {name: blobs.read(f"{folder}/{name}") for name in blobs.names(folder)}


@contextmanager
def refused(status: int, sentence: str) -> Iterator[None]:
    """The server refuses with that status and a sentence of this kind."""
    with pytest.raises(ServerRefusedError, match=f"(?i){sentence}") as caught:
        yield
    assert caught.value.status == status
