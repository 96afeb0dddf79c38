"""Sites that upload as the product does, what the server keeps of it, and how it refuses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ppcmi import consortium
from ppcmi.client import ServerClient
from ppcmi.cohort import UploadSummary, upload_cohort
from ppcmi.cohort_file import CohortKey, CohortReader, CohortWriter
from ppcmi.errors import ServerRefusedError
from ppcmi.pipeline import run
from ppcmi.protection import Protection, protection_of
from ppcmi.quantization import Quantization
from ppcmi.scales import Profile, Stream
from ppcmi.site import SiteProfile
from ppcmi.task_profile import TaskProfile
from ppcmi_server import tasks
from ppcmi_server.config import SETTINGS_NAME, create_folder, settings_text
from ppcmi_server.database.schema import Chunk, Cohort, Frame
from ppcmi_server.services import Services
from support.app_server import CODEC, TASK, AppServer, make_latents, pseudonym
from support.storages import storage_settings


class UploadingSite:
    """A site with a profile that founds the consortium of the task; its cohorts need no codec."""

    def __init__(self, folder: Path, url: str, code: str) -> None:
        self.profile = SiteProfile.enrol(folder, url, code)
        self.client = self.profile.client()
        self.part = consortium.create(self.profile, self.client, TASK.name, "consortium", "two-layer")
        self.client.put_codec(TASK.name, b"encrypted codec", CODEC)

    @property
    def token(self) -> str:
        return (self.profile.folder / "token").read_text().strip()

    def protection(self) -> Protection:
        return protection_of(self.profile, self.part, CODEC, Profile.COARSE, quantization=Quantization.F32)

    def write_cohort(self, path: Path, slices: Sequence[int], first: int = 1, parts: int = 1) -> CohortReader:
        """A cohort file with a case for each number of slices, in so many equal frames; a slice takes 24 KiB."""
        protection = self.protection()
        with CohortWriter(
            path,
            server_public_key=self.profile.identity.server_public_key,
            task=TASK.identity,
            codec=CODEC,
            profile=protection.profile,
            mode="two-layer",
            quantization=protection.quantization,
        ) as writer:
            for case, count in enumerate(slices, start=first):
                streams = {stream: make_latents(count, 10 * case + i) for i, stream in enumerate(Stream)}
                writer.add_case(pseudonym(case), [protection.protect(streams, pseudonym(case), range(count))] * parts)
        return CohortReader(path)

    def upload(self, path: Path, client: ServerClient | None = None, in_flight: int = 4) -> UploadSummary:
        """What ``ppcmi cohort upload`` does."""
        return self.send(self.profile, self.part, path, client or self.client, in_flight)

    @staticmethod
    def send(
        profile: SiteProfile, part: TaskProfile, path: Path, client: ServerClient, in_flight: int = 4
    ) -> UploadSummary:
        return run(upload_cohort(path, profile, part, client, in_flight=in_flight))


class RecordingClient(ServerClient):
    """Keeps what the server acknowledged."""

    acknowledged: list[tuple[object, ...]]

    def put_frame(self, cohort_id: str, index: int, frame: bytes) -> None:
        super().put_frame(cohort_id, index, frame)
        self._keep(cohort_id, index, 0, len(frame))

    def put_chunk(self, cohort_id: str, index: int, offset: int, chunk: bytes, **frame: object) -> None:
        super().put_chunk(cohort_id, index, offset, chunk, **frame)  # type: ignore[arg-type]
        self._keep(cohort_id, index, offset, len(chunk))

    def commit_cohort(self, cohort_id: str, frames: int, digest: str) -> dict[str, object]:
        answer = super().commit_cohort(cohort_id, frames, digest)
        self._keep(cohort_id, "whole")
        return answer

    def _keep(self, *what: object) -> None:
        self.acknowledged = [*getattr(self, "acknowledged", []), what]


def missing_of(acknowledged: Sequence[tuple[object, ...]], state: Mapping[str, object]) -> list[tuple[object, ...]]:
    """What was acknowledged of a cohort and is not in what the server says that it has."""
    lost = []
    for cohort_id, *what in acknowledged:
        if cohort_id != state["cohort_id"]:
            continue
        if what == ["whole"]:
            there = state["state"] == "whole"
        else:
            index, offset, size = what
            extents = state["partial"].get(str(index), [])
            there = index in state["frames"] or [offset, size] in extents
        if not there:
            lost.append((cohort_id, *what))
    return lost


def make_server(folder: Path, settings: Mapping[str, Mapping[str, int]]) -> None:
    """A server's folder; ``settings`` by section and name. What it stores lies where the test's storage is."""
    config = replace(create_folder(folder), storage=storage_settings())
    sections = {name: replace(getattr(config, name), **values) for name, values in settings.items()}
    (folder / SETTINGS_NAME).write_text(settings_text(replace(config, **sections)), encoding="utf-8")


def add_task(services: Services) -> None:
    with services.database.writing() as session:
        tasks.add_task(session, TASK)


def differences(services: Services, cohort_id: str, source: CohortReader) -> list[str]:
    """What of a whole cohort is stored otherwise than it lies in its file, byte by byte."""
    key = CohortKey.open(source.header_bytes, services.keys.private_key)
    found = []
    with services.database.reading() as session:
        cohort = session.get_one(Cohort, cohort_id)
        for index, data in enumerate(frames_of(source)):
            frame = session.get(Frame, (cohort_id, index))
            if frame is None or frame.digest != hashlib.sha256(data).digest():
                found.append(f"frame {index} is missing or another")
            elif services.cohorts.read_bundle(cohort, frame) != key.open_frame(index, data)[1]:
                found.append(f"bundle {index} differs")
        if cohort.state != "whole":
            found.append(f"it is {cohort.state}")
    return found


def orphans(services: Services) -> set[str]:
    """Blobs without a row, and rows without a blob."""
    blobs = services.blobs
    stored = {f"cohorts/{c}/{name}" for c in blobs.names("cohorts") for name in blobs.names(f"cohorts/{c}")}
    with services.database.reading() as session:
        named = {row.blob for kind in (Frame, Chunk) for row in session.query(kind)}
    return stored ^ named


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
