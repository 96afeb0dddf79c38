"""Cohort file ``.ppcmi``: bundles of many cases, encrypted for the server, written and read as a stream.

::

    "PPCMI-C1" | u32 LE length | header JSON
    u32 LE length | frame, for every bundle
    u32 LE length | end frame
    frame = u16 LE length | plain JSON | AES-256-GCM(file key, bundle)

The header holds the file key, sealed to the server's public key. A frame's nonce is its index (12 bytes, big-endian),
its additional data ``sha256(header JSON) | index | plain``: no frame can be altered, moved or put into another file.
The end frame, with an empty bundle, says how many frames and cases there are and the SHA-256 over all frames' SHA-256;
a file without it is cut off. Only the server can decrypt; everyone can tell a whole file from one that is not.
"""

from __future__ import annotations

import os
import struct
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from ppcmi.cohort_frames import (
    MAXIMUM_FRAME_BYTES,
    MAXIMUM_HEADER_BYTES,
    MAXIMUM_PLAIN_BYTES,
    CasePart,
    CohortEnd,
    CohortHeader,
    CohortKey,
    cohort_digest,
    frame_digest,
    header_bytes,
    new_file_key,
    parse_header,
    parse_plain,
)
from ppcmi.errors import BundleError, WriteError
from ppcmi.files import cause_of, sync_folder
from ppcmi.modes import Mode
from ppcmi.quantization import Quantization
from ppcmi.scales import Profile

__all__ = [
    "CasePart",
    "CohortEnd",
    "CohortFrame",
    "CohortHeader",
    "CohortKey",
    "CohortReader",
    "CohortWriter",
    "cohort_digest",
    "frame_digest",
    "parse_header",
]

MAGIC = b"PPCMI-C1"


@dataclass(frozen=True)
class CohortFrame:
    """One frame as the server takes it (``data``), with its plain part."""

    data: bytes
    case: str
    part: int
    parts: int


class CohortWriter:
    """Writes a cohort file beside its place and moves it there when it is whole.

    Example::

        with CohortWriter(path, server_public_key=key, task=task.identity, ...) as writer:
            writer.add_case(pseudonym, bundles)

    :param server_public_key: 32 bytes; only this server can open the file.
    :param task: the task's identity; it and the other parameters are those of every bundle's header.
    """

    def __init__(
        self,
        path: Path,
        *,
        server_public_key: bytes,
        task: str,
        codec: str,
        profile: Profile,
        mode: Mode,
        quantization: Quantization,
    ) -> None:
        key, cohort, sealed = new_file_key(server_public_key, task)
        self._path = path
        self._header = header_bytes(CohortHeader(task, codec, profile, mode, quantization, cohort, sealed))
        self._key = CohortKey(self._header, key)
        self._digests: list[bytes] = []
        self._cases: set[str] = set()
        self._file: IO[bytes] | None = None
        self._lock = threading.RLock()  # whoever cancels leaves the context in another thread than the writing one

    def __enter__(self) -> CohortWriter:
        if self._path.is_dir():
            raise WriteError("There is a folder of the cohort file's name; choose another name.")
        try:
            self._file = tempfile.NamedTemporaryFile(
                dir=self._path.parent, prefix=f".{self._path.name}.", suffix=".part", delete=False
            )
            self._file.write(MAGIC + _with_length(self._header))
        except OSError as error:
            self._discard()
            raise _cannot_write(error) from error
        return self

    def add_case(self, case: str, bundles: Sequence[bytes]) -> None:
        """Add all bundles of a case; ``case`` is its pseudonym.

        :raises BundleError: if the case was added before, has no bundles, or a bundle is of another case or cohort.
        :raises WriteError: if the file cannot be written.
        """
        if case in self._cases or not bundles:
            raise BundleError("A case has at least one bundle and is added once; choose the cases again.")
        first = len(self._digests)
        frames = [
            self._key.make_frame(first + part, CasePart(case, part, len(bundles)), bundle)
            for part, bundle in enumerate(bundles)
        ]  # all of them before the first is written: a case is in the file whole or not at all
        with self._lock:
            for frame in frames:
                self._write(_with_length(frame))
                self._digests.append(frame_digest(frame))
            self._cases.add(case)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            try:
                if kind is None:
                    self._finish()
            finally:
                self._discard()

    def _finish(self) -> None:
        if not self._cases:
            raise BundleError("The cohort has no cases; choose at least one.")
        end = CohortEnd(len(self._digests), len(self._cases), cohort_digest(self._digests))
        self._write(_with_length(self._key.make_end(end)))
        file = self._open_file()
        try:
            file.flush()
            os.fsync(file.fileno())
            file.close()
            Path(file.name).replace(self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            raise _cannot_write(error) from error

    def _write(self, data: bytes) -> None:
        try:
            self._open_file().write(data)
        except OSError as error:
            self._discard()
            raise _cannot_write(error) from error

    def _open_file(self) -> IO[bytes]:
        if self._file is None:
            raise RuntimeError("a CohortWriter writes inside its with statement, and not after an error")
        return self._file

    def _discard(self) -> None:
        """Close and remove the temporary file; after a rename there is none."""
        if self._file is None:
            return
        with suppress(OSError):  # a full disk, for what was not yet written
            self._file.close()
        Path(self._file.name).unlink(missing_ok=True)
        self._file = None


class CohortReader:
    """Reads a cohort file a frame at a time, without any key.

    :raises BundleError: if it is no cohort file, or its header is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as file:
            start = file.read(len(MAGIC) + 4)
            length = int.from_bytes(start[len(MAGIC) :], "little")
            if len(start) < len(MAGIC) + 4 or not start.startswith(MAGIC) or length > MAXIMUM_HEADER_BYTES:
                raise BundleError("This is not a cohort file; choose a .ppcmi file.")
            self.header_bytes = file.read(length)
        self.header = parse_header(self.header_bytes)
        self._first_frame = len(MAGIC) + 4 + length

    @property
    def end(self) -> CohortEnd:
        """What the end frame says.

        :raises BundleError: if the file is cut off.
        """
        with self._open() as file:
            for _, plain, _ in self._walk(file):
                if isinstance(plain, CohortEnd):
                    return plain
        raise self._cut_off()

    def frames(self) -> Iterator[tuple[int, CohortFrame]]:
        """Index and content of each frame but the end.

        :raises BundleError: at the end of what is there if the file is cut off, with the number of whole cases; at its
            end if it is damaged.
        """
        digests: list[bytes] = []
        with self._open() as file:
            for index, plain, length in self._walk(file):
                if isinstance(plain, CohortEnd):
                    if (plain.frames, plain.digest) != (index, cohort_digest(digests)):
                        raise BundleError("The cohort file is damaged; export the cohort again.")
                    if plain.cases != len(self.whole_cases()):
                        raise BundleError("The cohort file lacks parts of a case; export the cohort again.")
                    return
                data = file.read(length)
                digests.append(frame_digest(data))
                yield index, CohortFrame(data, plain.case, plain.part, plain.parts)
        raise self._cut_off()

    def whole_cases(self) -> list[str]:
        """Pseudonyms of the cases whose parts are all there, in their order, also in a file that is cut off."""
        parts: dict[str, set[int]] = {}
        whole: list[str] = []
        with self._open() as file:
            for _, plain, _ in self._walk(file):
                if isinstance(plain, CasePart):
                    there = parts.setdefault(plain.case, set())
                    there.add(plain.part)
                    if len(there) == plain.parts:
                        whole.append(plain.case)
        return whole

    def _walk(self, file: IO[bytes]) -> Iterator[tuple[int, CasePart | CohortEnd, int]]:
        """Index, plain part and length of each frame that is all there; the file stands at the frame's start."""
        size = os.fstat(file.fileno()).st_size
        position, index = self._first_frame, 0
        while position + 4 <= size:
            file.seek(position)
            length = int.from_bytes(file.read(4), "little")
            start = position + 4
            if length > MAXIMUM_FRAME_BYTES:
                raise BundleError("The cohort file is damaged; export the cohort again.")
            if start + length > size:
                return
            plain = parse_plain(file.read(min(length, 2 + MAXIMUM_PLAIN_BYTES)))
            file.seek(start)
            position = start + length
            if isinstance(plain, CohortEnd) and position != size:
                raise BundleError("The cohort file goes on after its end; export the cohort again.")
            yield index, plain, length
            index += 1

    def _open(self) -> IO[bytes]:
        try:
            return self._path.open("rb")
        except FileNotFoundError as error:
            raise BundleError("There is no such cohort file; check its name.") from error
        except OSError as error:
            raise BundleError(f"The cohort file cannot be opened: {cause_of(error)}.") from error

    def _cut_off(self) -> BundleError:
        count = len(self.whole_cases())
        cases = "1 case is" if count == 1 else f"{count} cases are"
        return BundleError(f"The cohort file is cut off; {cases} whole. Copy or export it again.")


def _with_length(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def _cannot_write(error: OSError) -> WriteError:
    return WriteError(f"The cohort file cannot be written ({cause_of(error)}); is the disk full or the folder gone?")
